"""What stdio servers write to stderr: the newest lines of each, for holders of the operation `logs`."""

import time
from collections import OrderedDict, deque
from itertools import islice

from mcpctl.bus.actor import Caller, event_of, handles
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.contracts import router
from mcpctl.bus.contracts.router import LogLine

LINES = 2000
"""Lines kept of a server."""

LONGEST = 2000
"""Characters kept of a line."""

SERVERS = 500
"""Servers of which lines are kept: those that wrote last."""


class ServerLog:
    """The newest lines of one server, whichever of its processes wrote them."""

    def __init__(self) -> None:
        self._lines: deque[LogLine] = deque(maxlen=LINES)
        self._seq = 0

    def write(self, text: str) -> None:
        self._seq += 1
        self._lines.append(LogLine(seq=self._seq, at=time.time_ns() // 1_000_000, text=text[:LONGEST]))

    def newest(self, after: int, limit: int) -> tuple[LogLine, ...]:
        """Return the newest lines after a number, the oldest first."""
        found = islice((line for line in reversed(self._lines) if line.seq > after), limit)
        return tuple(reversed(list(found)))


class ServerLogs:
    """The logs of all servers that this router runs."""

    def __init__(self, router_id: str, audit: AuditWriter) -> None:
        self._router, self._audit = router_id, audit
        self._logs: OrderedDict[str, ServerLog] = OrderedDict()

    def of(self, server: str) -> ServerLog:
        """Return the log of a server that is being started."""
        log = self._logs.setdefault(server, ServerLog())
        self._logs.move_to_end(server)
        while len(self._logs) > SERVERS:
            self._logs.popitem(last=False)
        return log

    @handles(router.read_log)
    async def read(self, request: router.ReadLog, caller: Caller) -> router.ServerLog:
        if not request.after:  # a follower asks every second: once is enough to know who reads it
            await self._audit.append(
                event_of(caller.authority)
                | {"kind": "router.read_log", "outcome": "allow", "server": request.name, "router": self._router}
            )
        log = self._logs.get(request.name)
        lines = () if log is None else log.newest(request.after.get(self._router, 0), request.limit)
        return router.ServerLog(router=self._router, known=log is not None, lines=lines)
