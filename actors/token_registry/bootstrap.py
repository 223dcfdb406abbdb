"""The way in for one who is on the host: the first user, and the password of an admin who has lost it."""

import asyncio
import hmac
import time
from contextlib import suppress
from pathlib import Path

import structlog
from sqlmodel import Session, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.membership import in_order
from mcpctl.actors.token_registry.passwords import Passwords, Throttle
from mcpctl.actors.token_registry.rows import Records, UserRow
from mcpctl.actors.token_registry.trees import revoke_all
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import ADMINS
from mcpctl.bus.errors import Conflict, Forbidden

log = structlog.get_logger()


FRESH_SECONDS = 15 * 60
"""For how long the secret works after it was written."""


class Bootstrap:
    """Makes an admin of whoever shows the secret that was written on the host; the secret works once."""

    def __init__(self, records: Records, passwords: Passwords, throttle: Throttle, file: Path | None) -> None:
        self._records, self._passwords, self._throttle, self._file = records, passwords, throttle, file
        self._turn = asyncio.Lock()

    @handles(token.bootstrap)
    async def bootstrap(self, request: token.Bootstrap, _caller: Caller) -> Done:
        async with self._turn:
            first = await self._records.read(_has_no_user)
            secret = await self._secret(first=first)
            if not hmac.compare_digest(request.secret.encode(), secret):
                raise Forbidden("this is not the bootstrap secret; it is in the file that the first start wrote")
            password_hash, now = await self._passwords.hash(request.password), self._records.clock()
            if not first:
                await self._use_up()
            try:
                await self._records.write(lambda changing: _put_admin(changing, request.user, password_hash, now))
            except BaseException:
                if not first:
                    await asyncio.to_thread(self._write, secret)
                raise
            if first:
                with suppress(Forbidden):
                    await self._use_up()
            self._throttle.forget(request.user)
        return Done()

    async def _secret(self, *, first: bool) -> bytes:
        """Return the secret. Raises `Conflict` where there is none and a user is there, else `Forbidden`."""
        try:
            secret = b"" if self._file is None else (await asyncio.to_thread(self._file.read_bytes)).strip()
        except OSError as error:
            if first:
                raise Forbidden(f"the bootstrap secret cannot be read ({error.strerror})") from error
            secret = b""
        if secret:
            await self._demand_fresh()
            return secret
        if not first:
            raise Conflict("there is a user already: log in, and create others with `mcpctl create user`")
        if self._file is None:
            raise Forbidden("no bootstrap secret was set up: name its file in MCPCTL_BOOTSTRAP_FILE and start again")
        raise Forbidden("the file of the bootstrap secret is empty")

    async def _demand_fresh(self) -> None:
        """Raise `Forbidden` for a secret that was written long ago: somebody may have found it since."""
        if self._file is not None:
            age = time.time() - (await asyncio.to_thread(self._file.stat)).st_mtime
            if abs(age) > FRESH_SECONDS:
                raise Forbidden(
                    f"the bootstrap secret works for {FRESH_SECONDS // 60} minutes, and is older: write it anew"
                )

    async def _use_up(self) -> None:
        """Remove the secret, or empty its file. Raises `Forbidden` where neither can be done."""
        if self._file is None:
            return
        try:
            await asyncio.to_thread(self._file.unlink, missing_ok=True)
        except OSError:
            try:
                await asyncio.to_thread(self._write, b"")
            except OSError as error:
                log.warning("bootstrap secret not removed", file=str(self._file), error=error.strerror)
                raise Forbidden(f"the bootstrap secret cannot be used up ({error.strerror})") from error

    def _write(self, secret: bytes) -> None:
        if self._file is not None:
            self._file.touch(mode=0o600)
            self._file.write_bytes(secret)


def _has_no_user(session: Session) -> bool:
    return session.exec(select(UserRow).limit(1)).first() is None


def _put_admin(changing: Changing, name: str, password_hash: str, now: int) -> None:
    """Create an admin, or make one of a user: enabled, with this password, and without the sessions of before."""
    row = changing.session.get(UserRow, name)
    if row is None:
        changing.session.add(UserRow(name=name, password_hash=password_hash, groups=[ADMINS], created_at=now))
        changing.record("user", name, "created")
        return
    row.password_hash, row.disabled, row.groups = password_hash, False, in_order([*row.groups, ADMINS])
    revoke_all(changing, "User", name, now, kind="ses")
    changing.session.add(row)
    changing.record("user", name, "changed")
