"""The events of a session's streams, kept for a while: a client that lost its connection reads on (`Last-Event-ID`).

2025-11-25, basic/transports, "Resumability and Redelivery". The gateway that carries a call keeps its events, and
reads on while the client is away; any other one asks this one for them.
"""

import asyncio
import base64
import binascii
import math
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import msgspec

from mcpctl.bus.connection import Tasks, cancel
from mcpctl.bus.contracts.session import Session
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.mcp_messages import decode_value

STREAM_BYTES = 1 << 20
"""Bytes that are kept of one stream; the newest event is kept whatever its size."""

ALL_BYTES = 64 << 20
"""Bytes that are kept of all streams; past that the oldest finished ones go first."""

OVERHEAD = 1024
"""Bytes that a kept stream costs at the least."""

AWAY_SECONDS = 300.0
"""How long a client may be away before its stream is dropped, and its call cancelled if that still runs."""

READ_SECONDS = 30.0
"""How long a stream is kept that has been written to the end: the last bytes may not have arrived."""

AWAY = 1024
"""Calls that go on without their client, at the most; the oldest are cancelled."""

LOGS = 65536
SWEEP = 5.0

_EVENT_ID = re.compile(r"([a-z2-7]{16})\.([0-9a-f]{16})\.([0-9]{1,9})(?:\.([A-Za-z0-9_-]{1,171}))?\Z")
_LONGEST_REQUEST_ID = 128


class EventId(NamedTuple):
    """Where an event belongs: the gateway that holds its stream, its number there, the request that it answers."""

    gateway: str
    stream: str
    number: int
    request_id: bytes | None

    @classmethod
    def parse(cls, text: str) -> "EventId | None":
        """Read an id; None for one that no gateway has made."""
        found = _EVENT_ID.match(text)
        if found is None:
            return None
        try:
            named = base64.urlsafe_b64decode(found[4] + "=" * (-len(found[4]) % 4)) if found[4] else None
            known = named is None or isinstance(decode_value(named), str | int)
        except (binascii.Error, msgspec.DecodeError):
            return None
        return cls(f"gateway-{found[1]}", found[2], int(found[3]), named) if known else None

    @staticmethod
    def prefix(gateway: str, stream: str) -> str:
        return f"{gateway.rpartition('-')[2]}.{stream}."

    @staticmethod
    def suffix(request_id: bytes) -> str:
        """Return what names a request in the ids of its events; nothing where its id is very long."""
        if len(request_id) > _LONGEST_REQUEST_ID:
            return ""
        return "." + base64.urlsafe_b64encode(request_id).decode().rstrip("=")


class EventLog:
    """The events of one call. Written by the call, read by whichever connection came last."""

    def __init__(self, logs: "EventLogs", session: Session, principal: Principal, request_id: bytes) -> None:
        self.session, self.owner, self.principal = session.key, session.owner, principal
        self.stream = secrets.token_hex(8)
        self.size = OVERHEAD
        self.finished = self.dropped = False
        self.kept = True
        """Whether it counts among the logs of the gateway; one that does not is let go when its reader ends."""
        self.reader: Reader | None = None
        self.since: float | None = time.monotonic()
        """When the last reader left; None while there is one."""
        self.task: asyncio.Task[None] | None = None
        self.last = self.read_to = 0
        self._logs = logs
        self._kept: deque[bytes] = deque()
        self._room = asyncio.Event()
        self._prefix, self._suffix = EventId.prefix(logs.gateway, self.stream), EventId.suffix(request_id)

    def event_id(self, number: int) -> str:
        return f"{self._prefix}{number}{self._suffix}"

    async def send(self, message: bytes) -> None:
        """Add an event; return when the reader has come near enough for more."""
        self.last += 1
        self._kept.append(message)
        self._grow(len(message))
        self._wake()
        while self.size > STREAM_BYTES and len(self._kept) > 1:
            if self.reader is not None and self.reader.number < self.first:
                self._room.clear()
                await self._room.wait()
                continue
            self._grow(-len(self._kept.popleft()))

    @property
    def first(self) -> int:
        """The number of the oldest kept event."""
        return self.last - len(self._kept) + 1

    async def keep_alive(self) -> None:
        if self.reader is not None:
            self.reader.poke()

    def finish(self) -> None:
        """Note that there will be no further event."""
        self.finished = True
        self._wake()

    def drop(self) -> None:
        """Forget what is held so far: nobody may read it any more. A reader that does not read is cut off."""
        self.dropped = True
        self._grow(-sum(map(len, self._kept)))
        self._kept.clear()
        if self.reader is not None:
            self.reader.cut()
        self._wake()

    def read(self, after: int, cut_off: Callable[[], None] | None = None) -> "Reader":
        """Read the events after a number; an older reader ends."""
        if self.reader is not None:
            self.reader.ended = True
            self._wake()
        self.reader = Reader(self, min(after, self.last), cut_off)
        self.since = None
        return self.reader

    def leave(self, reader: "Reader") -> None:
        if self.reader is reader:
            self.reader, self.since = None, time.monotonic()
        self._room.set()

    def after(self, number: int) -> tuple[int, bytes] | None:
        """Return the next kept event after a number, and its own."""
        number = max(number + 1, self.first)
        return (number, self._kept[number - self.first]) if number <= self.last else None

    def passed(self, number: int) -> None:
        """Note that a reader has written an event."""
        self.read_to = max(self.read_to, number)
        self._room.set()

    def is_due(self) -> bool:
        """Tell whether nobody is to be expected any more."""
        if self.since is None:
            return False
        read = self.finished and self.read_to >= self.last
        return time.monotonic() - self.since > (READ_SECONDS if read else AWAY_SECONDS)

    def _wake(self) -> None:
        self._room.set()
        if self.reader is not None:
            self.reader.wake()

    def _grow(self, size: int) -> None:
        self.size += size
        if self.kept:
            self._logs.size += size


class Reader:
    """One connection on which a log is read."""

    def __init__(self, log: EventLog, after: int, cut_off: Callable[[], None] | None) -> None:
        self.number = after
        self.ended = False
        self._log, self._cut_off = log, cut_off
        self._waiter: asyncio.Future[None] | None = None

    async def next(self) -> tuple[int, bytes] | None:
        """Return the next event and its number, or None now and then. Raises `EOFError` where there will be none."""
        log = self._log
        log.passed(self.number)
        if (event := self._next()) is None:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
            event = self._next()
        if event is not None:
            self.number = event[0]
        return event

    def _next(self) -> tuple[int, bytes] | None:
        event = None if self.ended else self._log.after(self.number)
        if event is None and (self.ended or self._log.finished):
            raise EOFError
        return event

    def leave(self) -> None:
        self._log.leave(self)

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    poke = wake

    def cut(self) -> None:
        """Cut the client off that does not read; one whose reader is awake already is told in its turn."""
        if self._waiter is None and self._cut_off is not None:
            self._cut_off()


class EventLogs:
    """All logs of one gateway."""

    def __init__(self, gateway: str) -> None:
        self.gateway, self.size = gateway, 0
        self._logs: dict[str, EventLog] = {}
        self._tasks = Tasks(LOGS)

    def open(self, session: Session, principal: Principal, request_id: bytes) -> EventLog:
        log = EventLog(self, session, principal, request_id)
        self._logs[log.stream] = log
        self.size += log.size
        self._make_room()
        return log

    def fill(self, log: EventLog, work: Coroutine[Any, Any, None]) -> None:
        """Run what writes a log, whether its client is there or not."""
        log.task = self._tasks.start(self._fill(log, work))

    async def _fill(self, log: EventLog, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            log.finish()
            if log.dropped:
                self._forget(log)
            self._make_room()

    def find(self, stream: str) -> EventLog | None:
        return self._logs.get(stream)

    async def end_where(self, concerns: Callable[[EventLog], bool]) -> None:
        """Drop certain logs, and end the calls that write them."""
        ending = [log for log in self._logs.values() if concerns(log)]
        for log in ending:
            log.drop()
            self._forget(log)
        await cancel(*(log.task for log in ending if log.task is not None))

    def drop_where(self, concerns: Callable[[EventLog], bool]) -> None:
        """Drop what certain logs hold, now: their calls are being ended by somebody else."""
        for log in list(self._logs.values()):
            if concerns(log):
                log.drop()
                if log.finished:
                    self._forget(log)

    async def sweep(self) -> None:
        """For ever: drop what nobody came back for."""
        while True:
            await asyncio.sleep(SWEEP)
            away = [log for log in self._logs.values() if log.since is not None and not log.finished]
            for log in away[: max(0, len(away) - AWAY)]:
                log.since = -math.inf
            await self.end_where(EventLog.is_due)

    async def close(self) -> None:
        await self._tasks.cancel()

    def _make_room(self) -> None:
        if self.size <= ALL_BYTES:
            return
        for log in [log for log in self._logs.values() if log.finished and log.since is not None]:
            self._forget(log)
            if self.size <= ALL_BYTES:
                return

    def _forget(self, log: EventLog) -> None:
        if self._logs.pop(log.stream, None) is not None:
            log.kept = False
            self.size -= log.size
