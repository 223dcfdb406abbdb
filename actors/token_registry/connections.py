"""The connections to the bus: each ends soon after the bearer that it was admitted for is no longer good."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from functools import partial

import structlog
from sqlmodel import Session, col, select

from mcpctl.actors.token_registry.rows import BearerRow, Records, owner_of, status_of
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Change
from mcpctl.bus.server_connections import Connection, ServerConnections

log = structlog.get_logger()

EVERY_SECONDS = 2.0
"""Between two looks without a change: finds what another replica has changed and not seen to, and who just came in."""

ANSWER_SECONDS = 1.0
"""For the answer to the one who asked for the change: it may be his own connection that is to end."""

BETWEEN = "/"
"""Stands in the user's name between the caller and the bearer's SHA-256."""


def user_name(caller: str, sha: str | None) -> str:
    """Return the name under which a connection is admitted; only users of the account SYS see it."""
    return caller if sha is None else f"{caller}{BETWEEN}{sha}"


class Connections:
    """Ends what must end: at once when something has changed here, and every two seconds."""

    def __init__(
        self, records: Records, servers: ServerConnections, bus: Bus, note: Callable[[dict[str, object]], object]
    ) -> None:
        self._records, self._servers, self._bus, self._note = records, servers, bus, note
        self._changed = asyncio.Event()

    def look(self, changes: list[Change]) -> None:
        """Look soon, where something has ended or changed."""
        if any(change.action != "created" for change in changes):
            self._changed.set()

    async def run(self) -> None:
        """For ever: look, and end."""
        while True:
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self._bus.answered(ANSWER_SECONDS)
            try:
                await self.end_refused()
            except Exception:
                log.exception("connections not looked at")

    async def end_refused(self) -> None:
        """End the connections whose bearer is unknown, expired or revoked, or whose owner is gone or disabled."""
        async with aclosing(self._servers.pages()) as pages:
            async for page in pages:
                by_sha: dict[str, list[Connection]] = {}
                for connection in page:
                    _, _, sha = connection.user.partition(BETWEEN)
                    if sha:
                        by_sha.setdefault(sha, []).append(connection)
                now = self._records.clock()
                for sha, status in (await self._records.read(partial(_refused, shas=list(by_sha), now=now))).items():
                    for connection in by_sha[sha]:
                        await self._end(connection, sha, status)

    async def _end(self, connection: Connection, sha: str, status: str) -> None:
        await self._servers.end(connection)
        caller = connection.user.partition(BETWEEN)[0]
        log.info("connection ended", caller=caller, reason=status)
        detail = f"the connection of {caller} was ended: its bearer is {status}"
        self._note({"kind": "bus", "outcome": "revoked", "token_sha": sha, "rule": status, "detail": detail})


def _refused(session: Session, shas: list[str], now: int) -> dict[str, str]:
    """Return what is wrong with those bearers that are not good."""
    found = {row.sha: row for row in session.exec(select(BearerRow).where(col(BearerRow.sha).in_(shas)))}
    statuses = {sha: status_of(row, owner_of(session, row), now) for sha, row in found.items()}
    return {sha: statuses.get(sha, "unknown") for sha in shas if statuses.get(sha) != "active"}
