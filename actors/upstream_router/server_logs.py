"""What stdio servers write to stderr: the newest lines of each, for holders of the operation `logs`."""

import time
from collections import OrderedDict, deque
from itertools import islice

from mcpctl.actors.upstream_router.sites import Sites
from mcpctl.bus.actor import Caller, event_of, handles
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.context import traceparent
from mcpctl.bus.contracts import router
from mcpctl.bus.contracts.rbac import Verdict
from mcpctl.bus.contracts.router import LogLine

LINES = 2000
"""Lines kept of a server."""

LONGEST = 2000
"""Characters kept of a line."""

LARGEST = 256 * 1024
"""Characters kept of a server, all lines together: they fit into one message, however they are escaped there."""

SERVERS = 500
"""Servers of which lines are kept: those that were started last."""

NOTED_FOR = 600.0
"""Seconds for which one event stands for all looks of a reader at a log."""

READERS = 1000
"""Readers that are remembered, each with one log."""


class ServerLog:
    """The newest lines of one server, whichever of its processes wrote them; their numbers begin after `seq`."""

    def __init__(self, seq: int = 0) -> None:
        self._lines: deque[LogLine] = deque()
        self._size = 0
        self.seq = seq

    def write(self, text: str) -> None:
        self.seq += 1
        line = LogLine(seq=self.seq, at=time.time_ns() // 1_000_000, text=text[:LONGEST])
        self._lines.append(line)
        self._size += len(line.text)
        while len(self._lines) > LINES or self._size > LARGEST:
            self._size -= len(self._lines.popleft().text)

    def newest(self, after: int, limit: int) -> tuple[LogLine, ...]:
        """Return the newest lines after a number, the oldest first."""
        found = islice((line for line in reversed(self._lines) if line.seq > after), limit)
        return tuple(reversed(list(found)))


class ServerLogs:
    """The logs of all servers that this router runs, and, by way of `sites`, of those that routers of sites run."""

    def __init__(self, router_id: str, audit: AuditWriter, sites: Sites | None = None) -> None:
        self._router, self._audit, self._sites = router_id, audit, sites
        self._logs: OrderedDict[str, ServerLog] = OrderedDict()
        self._forgotten = 0
        """The highest number of a log that was given up: a reader may have it as its cursor."""
        self._noted: OrderedDict[tuple[str, str], float] = OrderedDict()

    def of(self, server: str) -> ServerLog:
        """Return the log of a server that is being started."""
        log = self._logs.setdefault(server, ServerLog(self._forgotten))
        self._logs.move_to_end(server)
        while len(self._logs) > SERVERS:
            self._forgotten = max(self._forgotten, self._logs.popitem(last=False)[1].seq)
        return log

    @handles(router.read_log)
    async def read(self, request: router.ReadLog, caller: Caller) -> router.ServerLog:
        await self._note(request.name, caller.authority)
        own = self.newest(request)
        return own if self._sites is None else own.model_copy(update={"sites": await self._sites.logs(request)})

    def newest(self, request: router.ReadLog) -> router.ServerLog:
        """Return what this router has of a log."""
        log = self._logs.get(request.name)
        lines = () if log is None else log.newest(request.after.get(self._router, 0), request.limit)
        return router.ServerLog(router=self._router, known=log is not None, lines=lines)

    async def _note(self, server: str, reader: Verdict) -> None:
        """Leave the event that a log was read; a follower asks every second, which is one look."""
        look, now = (reader.sha, server), time.monotonic()
        if now - self._noted.get(look, -NOTED_FOR) < NOTED_FOR:
            return
        event = {"kind": router.read_log.name, "outcome": "allow", "server": server, "rule": reader.reason}
        await self._audit.append(event_of(reader) | event | {"router": self._router, "trace": traceparent()})
        self._noted[look] = now
        self._noted.move_to_end(look)
        while len(self._noted) > READERS:
            self._noted.popitem(last=False)
