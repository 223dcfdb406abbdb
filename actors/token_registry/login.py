"""Login sessions."""

from sqlmodel import col, delete

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.passwords import Passwords, Throttle
from mcpctl.actors.token_registry.rows import BearerRow, Records, UserRow, as_time
from mcpctl.actors.token_registry.trees import revoke
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, kind_of, mint, prefix
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BadRequest, Unauthenticated

REFUSED = "wrong user or password"
KEPT_MS = 7 * 24 * 3600 * 1000
"""How long the row of an expired session is kept."""


class Logins:
    """Opens and ends login sessions."""

    def __init__(self, records: Records, passwords: Passwords, throttle: Throttle) -> None:
        self._records, self._passwords, self._throttle = records, passwords, throttle

    @handles(token.login)
    async def login(self, request: token.Login, _caller: Caller) -> token.LoggedIn:
        async with self._throttle.attempt(request.user):
            user = await self._records.read(lambda session: session.get(UserRow, request.user))
            good = await self._passwords.verify(user.password_hash if user else None, request.password)
            if user is None or not good:
                raise Unauthenticated(REFUSED)
            return await self._open(user, request.password)

    async def _open(self, user: UserRow, password: str) -> token.LoggedIn:
        outdated = self._passwords.outdated(user.password_hash)
        fresh_hash = await self._passwords.hash(password) if outdated else None
        bearer, now = mint("ses"), self._records.clock()
        expires_at = now + token.SESSION_TTL_SECONDS * 1000
        row = BearerRow(
            sha=digest(bearer),
            kind="ses",
            owner_kind="User",
            owner=user.name,
            created_at=now,
            expires_at=expires_at,
            prefix=prefix(bearer),
        )
        await self._records.write(lambda changing: _open(changing, row, user.password_hash, fresh_hash))
        return token.LoggedIn(user=user.name, bearer=bearer, expires_at=as_time(expires_at))

    @handles(token.logout)
    async def logout(self, request: token.Logout, _caller: Caller) -> Done:
        if kind_of(request.bearer) != "ses":
            raise BadRequest("only a login session can be logged out; revoke a token instead")
        sha, now = digest(request.bearer), self._records.clock()
        await self._records.write(lambda changing: _end(changing, sha, now))
        return Done()


def _open(changing: Changing, row: BearerRow, checked_hash: str, fresh_hash: str | None) -> None:
    user = changing.session.get(UserRow, row.owner)
    if user is None or user.disabled or user.password_hash != checked_hash:
        raise Unauthenticated(REFUSED)
    user.password_hash = fresh_hash or checked_hash
    old = (col(BearerRow.owner) == row.owner, col(BearerRow.expires_at) < row.created_at - KEPT_MS)
    changing.session.exec(delete(BearerRow).where(col(BearerRow.kind) == "ses", *old))
    changing.session.add(row)
    changing.record("token", row.sha, "created")


def _end(changing: Changing, sha: str, now: int) -> None:
    row = changing.session.get(BearerRow, sha)
    if row is None:
        raise Unauthenticated("unknown")
    if row.revoked_at is None:
        revoke(changing, row, now)
