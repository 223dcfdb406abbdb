"""Users and their groups."""

from sqlmodel import Session, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.passwords import Passwords
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import Records, UserRow, as_time, revoke_all
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import ADMINS, Verdict
from mcpctl.bus.errors import Conflict, NotFound


class Users:
    """Creates, shows, changes and deletes users.

    Nobody gives a user rights that he does not hold himself: not by a group, and not by a password that he knows.
    """

    def __init__(self, records: Records, passwords: Passwords, ask: RbacCalls) -> None:
        self._records, self._passwords, self._ask = records, passwords, ask

    @handles(token.create_user)
    async def create(self, request: token.CreateUser, _caller: Caller) -> token.User:
        # A definition may name a user that does not exist yet.
        await self._ask.check_ceiling(request.bearer, groups=request.groups, subjects=(f"User:{request.name}",))
        row = UserRow(
            name=request.name,
            password_hash=await self._passwords.hash(request.password),
            groups=sorted(set(request.groups)),
            created_at=self._records.clock(),
        )
        return await self._records.write(lambda changing: _create(changing, row))

    @handles(token.list_users)
    async def list_all(self, _request: token.ListUsers, _caller: Caller) -> token.Users:
        rows = await self._records.read(lambda session: session.exec(select(UserRow)).all())
        return token.Users(items=tuple(_shown(row) for row in sorted(rows, key=lambda row: row.name)))

    @handles(token.get_user)
    async def get(self, request: token.GetUser, _caller: Caller) -> token.User:
        return _shown(await self._records.read(lambda session: _find(session, request.name)))

    @handles(token.edit_user)
    async def edit(self, request: token.EditUser, caller: Caller) -> token.User:
        user = await self._records.read(lambda session: _find(session, request.name))
        await self._check_edit(request, set(user.groups), caller.authority)
        password_hash = None if request.password is None else await self._passwords.hash(request.password)
        now = self._records.clock()

        def edit(changing: Changing) -> token.User:
            row = _find(changing.session, request.name)
            if row.groups != user.groups:
                raise Conflict(f"the groups of user {row.name} were changed meanwhile: try again")
            return _edit(changing, row, request, password_hash, now, caller.authority.sha)

        return await self._records.write(edit)

    @handles(token.delete_user)
    async def delete(self, request: token.DeleteUser, _caller: Caller) -> Done:
        user = await self._records.read(lambda session: _find(session, request.name))
        if ADMINS in user.groups:
            await self._ask.check_ceiling(request.bearer, groups=(ADMINS,))
        now = self._records.clock()

        def delete(changing: Changing) -> None:
            row = _find(changing.session, request.name)
            if row.groups != user.groups:
                raise Conflict(f"the groups of user {row.name} were changed meanwhile: try again")
            _demand_another_admin(changing.session, row)
            revoke_all(changing, "User", row.name, now)
            changing.session.delete(row)
            changing.record("user", row.name, "removed")

        await self._records.write(delete)
        await self._ask.forget(f"User:{request.name}")
        return Done()

    async def _check_edit(self, request: token.EditUser, groups: set[str], asker: Verdict) -> None:
        """Refuse what would give the asker, or the user, rights that the asker does not hold."""
        wanted = groups if request.groups is None else set(request.groups)
        needed = wanted - groups
        if ADMINS in wanted | groups:
            needed.add(ADMINS)
        subjects: list[str] = []
        himself = asker.kind == "User" and asker.name == request.name
        if request.password is not None and not himself:
            subjects = [f"User:{request.name}", *(f"Group:{group}" for group in sorted(groups))]
        if needed or subjects:
            await self._ask.check_ceiling(request.bearer, groups=tuple(sorted(needed)), subjects=tuple(subjects))


def _create(changing: Changing, row: UserRow) -> token.User:
    if changing.session.get(UserRow, row.name) is not None:
        raise Conflict(f"there is a user {row.name} already: edit it, or choose another name")
    changing.session.add(row)
    changing.record("user", row.name, "created")
    return _shown(row)


def _edit(
    changing: Changing, row: UserRow, request: token.EditUser, password_hash: str | None, now: int, own_session: str
) -> token.User:
    if request.disabled or (request.groups is not None and ADMINS not in request.groups):
        _demand_another_admin(changing.session, row)
    if request.groups is not None:
        row.groups = sorted(set(request.groups))
    if request.disabled is not None:
        row.disabled = request.disabled
    if password_hash is not None:
        row.password_hash = password_hash
    if row.disabled:
        revoke_all(changing, "User", row.name, now, kind="ses")
    elif password_hash is not None:
        revoke_all(changing, "User", row.name, now, kind="ses", but=own_session)
    changing.session.add(row)
    changing.record("user", row.name, "revoked" if row.disabled else "changed")
    return _shown(row)


def _demand_another_admin(session: Session, row: UserRow) -> None:
    if ADMINS not in row.groups or row.disabled:
        return
    users = session.exec(select(UserRow)).all()
    if not any(ADMINS in user.groups and not user.disabled and user.name != row.name for user in users):
        raise Conflict(f"user {row.name} is the last enabled member of {ADMINS}: put another one in that group first")


def _find(session: Session, name: str) -> UserRow:
    row = session.get(UserRow, name)
    if row is None:
        raise NotFound(f"there is no user {name}")
    return row


def _shown(row: UserRow) -> token.User:
    return token.User(
        name=row.name, groups=tuple(row.groups), disabled=row.disabled, created_at=as_time(row.created_at)
    )
