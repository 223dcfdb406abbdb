"""Whom a bearer stands for: the one place where that is decided."""

from functools import partial

import structlog
from sqlalchemy import update
from sqlmodel import Session, col

from mcpctl.actors.changes import position
from mcpctl.actors.token_registry.rows import BearerRow, Records, owner_of, status_of
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, kind_of
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError, Unauthenticated

log = structlog.get_logger()

COARSE_MS = 60_000
"""The time of last use is kept to the minute: one write a minute and bearer at the most."""


class Resolving:
    """Answers for a bearer, and notes that it was used."""

    def __init__(self, records: Records, bus: Bus) -> None:
        self._records, self._bus = records, bus
        self._used: dict[str, int] = {}
        self._noting = False

    @handles(token.resolve)
    async def resolve(self, request: token.ResolveBearer, _caller: Caller) -> token.Resolved:
        resolved, last_used = await self.find(request.bearer)
        self._note_use(resolved.principal.sha, last_used)
        return resolved

    @handles(token.whoami)
    async def whoami(self, request: token.WhoAmI, _caller: Caller) -> token.Principal:
        return (await self.find(request.bearer))[0].principal

    @handles(token.introspect)
    async def introspect(self, request: token.Introspect, _caller: Caller) -> token.Introspection:
        if kind_of(request.bearer) is None:
            return token.Introspection(active=False)
        sha, now = digest(request.bearer), self._records.clock()
        return await self._records.read(lambda session: _introspection(session, sha, now))

    async def find(self, bearer: str) -> tuple[token.Resolved, int | None]:
        """Return the principal of a live bearer, and when it was last used. Raises `Unauthenticated`."""
        if kind_of(bearer) is None:
            raise Unauthenticated("unknown")
        sha, now = digest(bearer), self._records.clock()
        return await self._records.read(lambda session: _resolved(session, sha, now))

    def _note_use(self, sha: str, last_used: int | None) -> None:
        now = self._records.clock()
        if last_used is not None and now - last_used < COARSE_MS:
            return
        self._used[sha] = now
        if not self._noting:
            self._noting = True
            self._bus.tasks.start(self._write_uses())

    async def _write_uses(self) -> None:
        """Write what is noted: uses that come while the disk is busy travel in the next transaction."""
        try:
            while self._used:
                used, self._used = self._used, {}
                await self._records.store.write(partial(_set_last_used, used))
        except BusError as error:
            log.warning("last use not noted", error=str(error))
        finally:
            self._noting = False


def _resolved(session: Session, sha: str, now: int) -> tuple[token.Resolved, int | None]:
    # The position first: whatever changes after it comes to the asker as a later change.
    epoch, seq = position(session)
    row = session.get(BearerRow, sha)
    if row is None:
        raise Unauthenticated("unknown")
    owner = owner_of(session, row)
    status = status_of(row, owner, now)
    if status != "active" or owner is None:
        raise Unauthenticated(status)
    return token.Resolved(epoch=epoch, seq=seq, principal=_principal(row, owner, now)), row.last_used_at


def _principal(row: BearerRow, owner: token.Owner, now: int) -> token.Principal:
    expires_in_ms = None if row.expires_at is None else row.expires_at - now
    if row.kind != "pat":
        return token.Principal(kind=owner.kind, name=owner.name, sha=row.sha, owner=owner, expires_in_ms=expires_in_ms)
    return token.Principal(
        kind="McpToken",
        name=row.name,
        sha=row.sha,
        owner=owner,
        project=row.project,
        parents=tuple(row.parents),
        expires_in_ms=expires_in_ms,
    )


def _introspection(session: Session, sha: str, now: int) -> token.Introspection:
    row = session.get(BearerRow, sha)
    if row is None:
        return token.Introspection(active=False)
    status = status_of(row, owner_of(session, row), now)
    if status != "active":
        return token.Introspection(active=False, status=status)
    return token.Introspection(
        active=True,
        status=status,
        name=row.name or row.owner,
        project=row.project,
        owner=row.owner,
        exp=None if row.expires_at is None else row.expires_at // 1000,
    )


def _set_last_used(used: dict[str, int], session: Session) -> None:
    for sha, at in used.items():
        session.exec(update(BearerRow).where(col(BearerRow.sha) == sha).values(last_used_at=at))
