"""Login sessions, and the first user."""

import asyncio
import hmac
from pathlib import Path

from sqlmodel import Session, col, delete, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.passwords import Passwords, Throttle
from mcpctl.actors.token_registry.rows import BearerRow, Records, UserRow, as_time, revoke
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, kind_of, mint, prefix
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import ADMINS
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, Unauthenticated

REFUSED = "wrong user or password"
KEPT_MS = 7 * 24 * 3600 * 1000
"""How long the row of an expired session is kept."""


class Logins:
    """Opens and ends login sessions; `bootstrap` makes the user that can log in first."""

    def __init__(self, records: Records, passwords: Passwords, bootstrap_file: Path | None) -> None:
        self._records, self._passwords, self._bootstrap_file = records, passwords, bootstrap_file
        self._throttle = Throttle()

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

    @handles(token.bootstrap)
    async def bootstrap(self, request: token.Bootstrap, _caller: Caller) -> Done:
        await self._records.read(_demand_no_user)
        if not hmac.compare_digest(request.secret.encode(), await self._bootstrap_secret()):
            raise Forbidden("this is not the bootstrap secret; it is in the file that the first start wrote")
        row = UserRow(
            name=request.user,
            password_hash=await self._passwords.hash(request.password),
            groups=[ADMINS],
            created_at=self._records.clock(),
        )
        await self._records.write(lambda changing: _first_user(changing, row))
        if self._bootstrap_file is not None:
            await asyncio.to_thread(self._bootstrap_file.unlink, missing_ok=True)
        return Done()

    async def _bootstrap_secret(self) -> bytes:
        if self._bootstrap_file is None:
            raise Forbidden("no bootstrap secret was set up: name its file in MCPCTL_BOOTSTRAP_FILE and start again")
        try:
            secret = (await asyncio.to_thread(self._bootstrap_file.read_bytes)).strip()
        except OSError as error:
            raise Forbidden(f"the bootstrap secret cannot be read ({error.strerror})") from error
        if not secret:
            raise Forbidden("the file of the bootstrap secret is empty")
        return secret


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


def _demand_no_user(session: Session) -> None:
    if session.exec(select(UserRow).limit(1)).first() is not None:
        raise Conflict("there is a user already: log in, and create others with `mcpctl create user`")


def _first_user(changing: Changing, row: UserRow) -> None:
    _demand_no_user(changing.session)
    changing.session.add(row)
    changing.record("user", row.name, "created")
