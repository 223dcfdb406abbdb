"""When and for what bearers were last used, written down coarsely."""

from functools import partial

import structlog
from sqlalchemy import update
from sqlmodel import Session, col

from mcpctl.actors.token_registry.rows import BearerRow, Records
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, kind_of
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError

log = structlog.get_logger()

COARSE_MS = 60_000
"""The time of last use is kept to the minute: one write a minute and bearer at the most."""


class Uses:
    """Notes uses, and writes them beside the work at hand."""

    def __init__(self, records: Records, bus: Bus) -> None:
        self._records, self._bus = records, bus
        self._noted: dict[str, dict[str, object]] = {}
        self._writing = False

    @handles(token.used)
    async def used(self, request: token.UsedToken, _caller: Caller) -> Done:
        """Note what a router carried: in a minute once, but the first call of all in any case."""
        if kind_of(request.bearer) is None:
            return Done()
        sha = digest(request.bearer)
        row = await self._records.read(lambda session: session.get(BearerRow, sha))
        if row is None:
            return Done()
        first_call = request.tool is not None and row.last_tool is None
        if first_call or not self.is_fresh(row.last_used_at):
            tool = {} if request.tool is None else {"last_tool": request.tool}
            self.note(sha, last_gateway=request.gateway, **tool)
        return Done()

    def is_fresh(self, last_used: int | None) -> bool:
        """Tell whether the time that is written down will do."""
        return last_used is not None and self._records.clock() - last_used < COARSE_MS

    def note(self, sha: str, **facts: object) -> None:
        """Write down that a bearer is used now: uses that come while the disk is busy travel together."""
        self._noted[sha] = self._noted.get(sha, {}) | facts | {"last_used_at": self._records.clock()}
        if not self._writing:
            self._writing = True
            self._bus.tasks.start(self._write())

    async def _write(self) -> None:
        try:
            while self._noted:
                noted, self._noted = self._noted, {}
                await self._records.store.write(partial(_set_last_use, noted))
        except BusError as error:
            log.warning("last use not noted", error=str(error))
        finally:
            self._writing = False


def _set_last_use(noted: dict[str, dict[str, object]], session: Session) -> None:
    for sha, facts in sorted(noted.items()):  # in one order: replicas that note the same ones must not wait in a circle
        session.exec(update(BearerRow).where(col(BearerRow.sha) == sha).values(**facts))
