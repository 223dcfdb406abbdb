"""Users."""

from dataclasses import dataclass

from argon2 import extract_parameters
from argon2.exceptions import InvalidHashError
from sqlmodel import Session, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.demands import Demands, Guarded
from mcpctl.actors.token_registry.membership import demand_groups, in_order
from mcpctl.actors.token_registry.passwords import Passwords
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import Records, UserRow, as_time
from mcpctl.actors.token_registry.trees import revoke_all
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import Verdict
from mcpctl.bus.errors import BadRequest, Conflict, NotFound

COSTLIEST_KIB, MOST_LANES = 256 * 1024, 8
"""Memory and threads of a hash that is taken over at the most: any login would have them spent."""

COSTLIEST = 4 * COSTLIEST_KIB
"""Memory times passes, in KiB: a second or so."""

Asker = Verdict | token.Principal


class Users:
    """Creates, shows, changes and deletes users.

    Nobody gives a user rights that he does not hold himself: not by a group, and not by a password that he knows.
    """

    def __init__(self, records: Records, passwords: Passwords, guarded: Guarded, ask: RbacCalls) -> None:
        self._records, self._passwords, self._guarded, self._ask = records, passwords, guarded, ask

    @handles(token.create_user)
    async def create(self, request: token.CreateUser, _caller: Caller) -> token.User:
        password_hash, now = await self._passwords.hash(request.password), self._records.clock()

        def work(changing: Changing, demands: Demands) -> token.User:
            row = UserRow(
                name=request.name,
                labels=request.labels,
                password_hash=password_hash,
                groups=in_order(request.groups),
                created_at=now,
            )
            create_user(changing, demands, row)
            return _shown(row)

        return await self._guarded.change(request.bearer, work)

    @handles(token.list_users)
    async def list_all(self, _request: token.ListUsers, _caller: Caller) -> token.Users:
        rows = await self._records.read(lambda session: session.exec(select(UserRow)).all())
        return token.Users(items=tuple(_shown(row) for row in sorted(rows, key=lambda row: row.name)))

    @handles(token.get_user)
    async def get(self, request: token.GetUser, _caller: Caller) -> token.User:
        return _shown(await self._records.read(lambda session: find_user(session, request.name)))

    @handles(token.edit_user)
    async def edit(self, request: token.EditUser, caller: Caller) -> token.User:
        password_hash = None if request.password is None else await self._passwords.hash(request.password)
        wanted = UserChange(request.labels, request.groups, request.disabled, password_hash)
        now = self._records.clock()

        def work(changing: Changing, demands: Demands) -> token.User:
            row = find_user(changing.session, request.name)
            edit_user(changing, demands, row, wanted, asker=caller.authority, now=now)
            return _shown(row)

        return await self._guarded.change(request.bearer, work)

    @handles(token.delete_user)
    async def delete(self, request: token.DeleteUser, _caller: Caller) -> Done:
        now = self._records.clock()

        def work(changing: Changing, demands: Demands) -> list[str]:
            return delete_user(changing, demands, find_user(changing.session, request.name), now)

        gone = await self._guarded.change(request.bearer, work)
        await self._ask.forget(*gone)
        return Done()


@dataclass(frozen=True)
class UserChange:
    """What is to be different of a user; None leaves it as it is."""

    labels: dict[str, str] | None = None
    groups: tuple[str, ...] | None = None
    disabled: bool | None = None
    password_hash: str | None = None


def create_user(changing: Changing, demands: Demands, row: UserRow) -> None:
    """Create a user. Raises `Conflict` where there is one, `NotFound` for a group that is not there."""
    if changing.session.get(UserRow, row.name) is not None:
        raise Conflict(f"there is a user {row.name} already: edit it, or choose another name")
    demand_groups(changing.session, row.groups)
    demands.membership(changing.session, was=(), now=row.groups)
    demands.subjects.add(f"User:{row.name}")  # a definition may name a user that does not exist yet
    changing.session.add(row)
    changing.record("user", row.name, "created")


def edit_user(
    changing: Changing, demands: Demands, row: UserRow, wanted: UserChange, *, asker: Asker, now: int
) -> None:
    """Change a user; a new password, and being disabled, end the login sessions (but the asker's own)."""
    groups = row.groups if wanted.groups is None else in_order(wanted.groups)
    demand_groups(changing.session, set(groups) - set(row.groups))
    demands.membership(changing.session, was=row.groups, now=groups)
    himself = (asker.kind, asker.name) == ("User", row.name)
    if wanted.password_hash is not None and not himself:
        demands.power_over(changing.session, f"User:{row.name}", row.groups)
    row.groups = groups
    if wanted.labels is not None:
        row.labels = wanted.labels
    if wanted.disabled is not None:
        row.disabled = wanted.disabled
    if wanted.password_hash is not None:
        row.password_hash = wanted.password_hash
    if row.disabled:
        revoke_all(changing, "User", row.name, now, kind="ses")
    elif wanted.password_hash is not None:
        revoke_all(changing, "User", row.name, now, kind="ses", but=asker.sha)
    changing.session.add(row)
    changing.record("user", row.name, "revoked" if row.disabled else "changed")


def delete_user(changing: Changing, demands: Demands, row: UserRow, now: int) -> list[str]:
    """Delete a user with all its bearers; return the subjects that are gone."""
    demands.membership(changing.session, was=row.groups, now=())
    gone = revoke_all(changing, "User", row.name, now)
    changing.session.delete(row)
    changing.record("user", row.name, "removed")
    return [f"User:{row.name}", *(f"McpToken:{sha}" for sha in gone)]


def demand_affordable(name: str, password_hash: str | None) -> None:
    """Raise `BadRequest` for what is no argon2 hash, or one that would take seconds or all memory to check."""
    if password_hash is None:
        return
    try:
        found = extract_parameters(password_hash)
    except (InvalidHashError, ValueError) as error:
        raise BadRequest(f"the password_hash of user {name} is no argon2 hash") from error
    cost = found.memory_cost * found.time_cost
    if found.memory_cost > COSTLIEST_KIB or cost > COSTLIEST or found.parallelism > MOST_LANES:
        raise BadRequest(f"the password_hash of user {name} costs too much to check")


def find_user(session: Session, name: str) -> UserRow:
    row = session.get(UserRow, name)
    if row is None:
        raise NotFound(f"there is no user {name}")
    return row


def _shown(row: UserRow) -> token.User:
    return token.User(
        name=row.name,
        labels=row.labels,
        groups=tuple(row.groups),
        disabled=row.disabled,
        created_at=as_time(row.created_at),
    )
