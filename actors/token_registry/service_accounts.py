"""Service accounts and their bearers."""

from dataclasses import dataclass

from sqlmodel import Session, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.demands import Demands, Guarded
from mcpctl.actors.token_registry.membership import demand_groups, in_order
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import BearerRow, Records, ServiceAccountRow, as_time
from mcpctl.actors.token_registry.trees import revoke, revoke_all
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, mint, prefix
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import ADMINS
from mcpctl.bus.errors import Conflict, NotFound


class ServiceAccounts:
    """Creates, shows, changes and deletes service accounts, and issues and ends their bearers."""

    def __init__(self, records: Records, guarded: Guarded, ask: RbacCalls) -> None:
        self._records, self._guarded, self._ask = records, guarded, ask

    @handles(token.create_service_account)
    async def create(self, request: token.CreateServiceAccount, _caller: Caller) -> token.ServiceAccount:
        now = self._records.clock()

        def work(changing: Changing, demands: Demands) -> token.ServiceAccount:
            row = ServiceAccountRow(
                name=request.name,
                labels=request.labels,
                groups=in_order(request.groups),
                description=request.description,
                router_site=request.router_site,
                created_at=now,
            )
            create_account(changing, demands, row)
            return _shown(row)

        return await self._guarded.change(request.bearer, work)

    @handles(token.list_service_accounts)
    async def list_all(self, _request: token.ListServiceAccounts, _caller: Caller) -> token.ServiceAccounts:
        rows = await self._records.read(lambda session: session.exec(select(ServiceAccountRow)).all())
        return token.ServiceAccounts(items=tuple(_shown(row) for row in sorted(rows, key=lambda row: row.name)))

    @handles(token.get_service_account)
    async def get(self, request: token.GetServiceAccount, _caller: Caller) -> token.ServiceAccount:
        return _shown(await self._records.read(lambda session: find_account(session, request.name)))

    @handles(token.edit_service_account)
    async def edit(self, request: token.EditServiceAccount, _caller: Caller) -> token.ServiceAccount:
        wanted = AccountChange(request.labels, request.groups, request.description)

        def work(changing: Changing, demands: Demands) -> token.ServiceAccount:
            row = find_account(changing.session, request.name)
            edit_account(changing, demands, row, wanted)
            return _shown(row)

        return await self._guarded.change(request.bearer, work)

    @handles(token.delete_service_account)
    async def delete(self, request: token.DeleteServiceAccount, _caller: Caller) -> Done:
        now = self._records.clock()

        def work(changing: Changing, demands: Demands) -> list[str]:
            return delete_account(changing, demands, find_account(changing.session, request.name), now)

        gone = await self._guarded.change(request.bearer, work)
        await self._ask.forget(*gone)
        return Done()

    @handles(token.issue_service_account_token)
    async def issue(self, request: token.IssueServiceAccountToken, _caller: Caller) -> token.IssuedServiceAccountToken:
        bearer, now = mint("sa"), self._records.clock()
        sha = digest(bearer)
        expires_at = None if request.ttl_seconds is None else now + request.ttl_seconds * 1000

        def work(changing: Changing, demands: Demands) -> None:
            account = find_account(changing.session, request.name)
            # Who holds its bearer can do whatever the account may do.
            demands.power_over(changing.session, f"ServiceAccount:{account.name}", account.groups)
            _demand_power_over_site(demands, account)
            row = BearerRow(
                sha=sha,
                kind="sa",
                owner_kind="ServiceAccount",
                owner=account.name,
                created_at=now,
                expires_at=expires_at,
                prefix=prefix(bearer),
            )
            changing.session.add(row)
            changing.record("token", row.sha, "created")

        await self._guarded.change(request.bearer, work)
        expires = None if expires_at is None else as_time(expires_at)
        return token.IssuedServiceAccountToken(name=request.name, id=sha, bearer=bearer, expires_at=expires)

    @handles(token.revoke_service_account_token)
    async def revoke(self, request: token.RevokeServiceAccountToken, _caller: Caller) -> Done:
        now = self._records.clock()

        def work(changing: Changing, demands: Demands) -> None:
            account = find_account(changing.session, request.name)
            demands.membership(changing.session, was=account.groups, now=())  # only an admin touches an admin
            row = changing.session.get(BearerRow, request.id)
            if row is None or (row.kind, row.owner) != ("sa", account.name):
                raise NotFound(f"service account {account.name} has no bearer with that id")
            if row.revoked_at is None:
                revoke(changing, row, now)

        await self._guarded.change(request.bearer, work)
        return Done()


@dataclass(frozen=True)
class AccountChange:
    """What is to be different of a service account; None leaves it as it is."""

    labels: dict[str, str] | None = None
    groups: tuple[str, ...] | None = None
    description: str | None = None


def create_account(changing: Changing, demands: Demands, row: ServiceAccountRow) -> None:
    """Create a service account. Raises `Conflict` where there is one, `NotFound` for a group that is not there."""
    if changing.session.get(ServiceAccountRow, row.name) is not None:
        raise Conflict(f"there is a service account {row.name} already: edit it, or choose another name")
    demand_groups(changing.session, row.groups)
    demands.membership(changing.session, was=(), now=row.groups)
    demands.subjects.add(f"ServiceAccount:{row.name}")
    _demand_power_over_site(demands, row)
    changing.session.add(row)
    changing.record("serviceaccount", row.name, "created")


def _demand_power_over_site(demands: Demands, row: ServiceAccountRow) -> None:
    """Demand all rights of who makes a router's credential: it hears the bearers of the calls that come to it."""
    if row.router_site is not None:
        demands.groups.add(ADMINS)


def edit_account(changing: Changing, demands: Demands, row: ServiceAccountRow, wanted: AccountChange) -> None:
    """Change a service account. Raises `NotFound` for a group that is not there."""
    groups = row.groups if wanted.groups is None else in_order(wanted.groups)
    demand_groups(changing.session, set(groups) - set(row.groups))
    demands.membership(changing.session, was=row.groups, now=groups)
    row.groups = groups
    if wanted.labels is not None:
        row.labels = wanted.labels
    if wanted.description is not None:
        row.description = wanted.description
    changing.session.add(row)
    changing.record("serviceaccount", row.name, "changed")


def delete_account(changing: Changing, demands: Demands, row: ServiceAccountRow, now: int) -> list[str]:
    """Delete a service account with all its bearers; return the subjects that are gone."""
    demands.membership(changing.session, was=row.groups, now=())
    gone = revoke_all(changing, "ServiceAccount", row.name, now)
    changing.session.delete(row)
    changing.record("serviceaccount", row.name, "removed")
    return [f"ServiceAccount:{row.name}", *(f"McpToken:{sha}" for sha in gone)]


def find_account(session: Session, name: str) -> ServiceAccountRow:
    row = session.get(ServiceAccountRow, name)
    if row is None:
        raise NotFound(f"there is no service account {name}")
    return row


def _shown(row: ServiceAccountRow) -> token.ServiceAccount:
    return token.ServiceAccount(
        name=row.name,
        labels=row.labels,
        groups=tuple(row.groups),
        description=row.description,
        router_site=row.router_site,
        created_at=as_time(row.created_at),
    )
