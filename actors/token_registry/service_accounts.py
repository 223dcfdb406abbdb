"""Service accounts and their bearers."""

from sqlmodel import Session, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import BearerRow, Records, ServiceAccountRow, as_time, revoke_all
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, mint, prefix
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import ADMINS
from mcpctl.bus.errors import Conflict, NotFound


class ServiceAccounts:
    """Creates, lists and deletes service accounts, and issues their bearers."""

    def __init__(self, records: Records, ask: RbacCalls) -> None:
        self._records, self._ask = records, ask

    @handles(token.create_service_account)
    async def create(self, request: token.CreateServiceAccount, _caller: Caller) -> token.ServiceAccount:
        await self._ask.check_ceiling(
            request.bearer, groups=request.groups, subjects=(f"ServiceAccount:{request.name}",)
        )
        row = ServiceAccountRow(
            name=request.name,
            groups=sorted(set(request.groups)),
            description=request.description,
            created_at=self._records.clock(),
        )
        return await self._records.write(lambda changing: _create(changing, row))

    @handles(token.list_service_accounts)
    async def list_all(self, _request: token.ListServiceAccounts, _caller: Caller) -> token.ServiceAccounts:
        rows = await self._records.read(lambda session: session.exec(select(ServiceAccountRow)).all())
        return token.ServiceAccounts(items=tuple(_shown(row) for row in sorted(rows, key=lambda row: row.name)))

    @handles(token.delete_service_account)
    async def delete(self, request: token.DeleteServiceAccount, _caller: Caller) -> Done:
        account = await self._records.read(lambda session: _find(session, request.name))
        if ADMINS in account.groups:
            await self._ask.check_ceiling(request.bearer, groups=(ADMINS,))
        now = self._records.clock()

        def delete(changing: Changing) -> None:
            row = _find(changing.session, request.name)
            revoke_all(changing, "ServiceAccount", row.name, now)
            changing.session.delete(row)
            changing.record("serviceaccount", row.name, "removed")

        await self._records.write(delete)
        await self._ask.forget(f"ServiceAccount:{request.name}")
        return Done()

    @handles(token.issue_service_account_token)
    async def issue(self, request: token.IssueServiceAccountToken, _caller: Caller) -> token.IssuedServiceAccountToken:
        account = await self._records.read(lambda session: _find(session, request.name))
        # Who holds its bearer can do whatever the account may do.
        subjects = (f"ServiceAccount:{account.name}", *(f"Group:{group}" for group in account.groups))
        await self._ask.check_ceiling(request.bearer, subjects=subjects)
        bearer, now = mint("sa"), self._records.clock()
        expires_at = None if request.ttl_seconds is None else now + request.ttl_seconds * 1000
        row = BearerRow(
            sha=digest(bearer),
            kind="sa",
            owner_kind="ServiceAccount",
            owner=account.name,
            created_at=now,
            expires_at=expires_at,
            prefix=prefix(bearer),
        )
        await self._records.write(lambda changing: _issue(changing, row))
        return token.IssuedServiceAccountToken(
            name=account.name, bearer=bearer, expires_at=None if expires_at is None else as_time(expires_at)
        )


def _create(changing: Changing, row: ServiceAccountRow) -> token.ServiceAccount:
    if changing.session.get(ServiceAccountRow, row.name) is not None:
        raise Conflict(f"there is a service account {row.name} already: delete it first, or choose another name")
    changing.session.add(row)
    changing.record("serviceaccount", row.name, "created")
    return _shown(row)


def _issue(changing: Changing, row: BearerRow) -> None:
    _find(changing.session, row.owner)
    changing.session.add(row)
    changing.record("token", row.sha, "created")


def _find(session: Session, name: str) -> ServiceAccountRow:
    row = session.get(ServiceAccountRow, name)
    if row is None:
        raise NotFound(f"there is no service account {name}")
    return row


def _shown(row: ServiceAccountRow) -> token.ServiceAccount:
    return token.ServiceAccount(
        name=row.name, groups=tuple(row.groups), description=row.description, created_at=as_time(row.created_at)
    )
