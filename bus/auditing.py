"""Appending audit events to the stream: many at a time, acknowledged by JetStream, never silently lost.

The events of one turn of the event loop travel in one message. A batch without acknowledgement is sent again
under the same message id (the stream drops duplicates) as long as somebody waits for it, and then until the stream
is back: what was decided is recorded late rather than never, and until then no new call begins.
"""

import asyncio
import random
import time
from collections.abc import Iterator

import orjson
import structlog
from nats.aio.client import Client
from nats.errors import Error, MaxPayloadError

from mcpctl.bus import measured, metrics
from mcpctl.bus.bearer import masked
from mcpctl.bus.connection import is_clustered
from mcpctl.bus.contract import ELECTION
from mcpctl.bus.contracts import audit
from mcpctl.bus.errors import Unavailable

log = structlog.get_logger()

ATTEMPT = 1.0
"""Seconds to wait for one acknowledgement before the batch is sent again."""

PATIENCE = ELECTION
"""Seconds after which those who wait for a batch are told that it is not acknowledged."""

KEPT = 500
"""Batches in flight, as far as those that nobody waits for any more are sent on."""

LATER = 1.0
"""Seconds before such a batch is sent again."""

PAUSE = 0.05
"""Seconds before a refused batch is sent again."""

LINGER = 0.02
"""Seconds that an event waits for company when nobody waits for it."""

BATCH_BYTES = 512 * 1024

TOO_LARGE = "larger than a message may be"

FREE_TEXT = ("name", "rule", "detail", "method", "server")
"""Fields that a client's words may get into, and characters of each that are kept."""

LONGEST_TEXT = 400


class AuditWriter:
    """One part's way into the audit stream."""

    def __init__(self, client: Client, caller: str) -> None:
        self._client, self._subject = client, f"{audit.APPEND}.{caller}"
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._flushing = False
        self._lingering: asyncio.TimerHandle | None = None
        self._sends: set[asyncio.Task[None]] = set()
        self._in_flight: dict[str, float] = {}  # message id and time of sending, the oldest first
        self._closing = False
        self._acked = 0
        self.retries = 0
        """Attempts to send a batch that were not acknowledged, since the start."""

        self._of = (caller.partition("-")[0],)
        metrics.watch(self)

    def measures(self) -> "Iterator[metrics.Measured]":
        """Yield what metrics tell of this writer."""
        oldest = next(iter(self._in_flight.values()), None)
        yield measured.AUDIT_WAITING, len(self._in_flight), self._of
        yield measured.AUDIT_AGE, 0.0 if oldest is None else time.monotonic() - oldest, self._of
        yield measured.AUDIT_RETRIES, self.retries, self._of

    @property
    def healthy(self) -> bool:
        """False once no acknowledgement has come for a second: then new calls must not begin.

        In a cluster, for as long as it takes to choose a leader: until then they wait, in `flowing`.
        """
        return self._silence < (ELECTION if is_clustered(self._client) else ATTEMPT)

    @property
    def silent(self) -> bool:
        """Whether no acknowledgement has come for a second."""
        return self._silence >= ATTEMPT

    @property
    def _silence(self) -> float:
        oldest = next(iter(self._in_flight.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    async def flowing(self) -> None:
        """Return when events are acknowledged within a second. Raises `Unavailable` where that takes too long."""
        while self.silent:
            if not self.healthy:
                raise Unavailable("the audit stream does not acknowledge events")
            await asyncio.sleep(PAUSE)

    @property
    def unacknowledged(self) -> int:
        """Messages on their way."""
        return len(self._in_flight)

    def append(self, event: dict[str, object]) -> "asyncio.Future[None]":
        """Take an event; the future is done when JetStream has it, and fails with `Unavailable` when it long has not.

        `id` and `at` are filled in.
        """
        done = self._take(event)
        done.add_done_callback(_mark_seen)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)
        return done

    def append_later(self, event: dict[str, object]) -> None:
        """Take an event that nobody waits for: it travels with the next, or soon; a failure is logged."""
        self._take(event).add_done_callback(_report)
        if self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER, self._flush)

    def _take(self, event: dict[str, object]) -> "asyncio.Future[None]":
        event.setdefault("id", f"{random.getrandbits(96):024x}")
        event.setdefault("at", time.time_ns() // 1_000_000)
        for field in FREE_TEXT:
            text = event.get(field)
            if isinstance(text, str) and len(text) > LONGEST_TEXT:
                event[field] = f"{text[:LONGEST_TEXT]}…"
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((masked(orjson.dumps(event)), done))
        return done

    def _flush(self) -> None:
        self._flushing = False
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if not self._waiting:
            return
        lines: list[bytes] = []
        waiters: list[asyncio.Future[None]] = []
        size = 0
        for line, done in self._waiting:
            if size + len(line) > BATCH_BYTES and lines:
                self._start(lines, waiters)
                lines, waiters, size = [], [], 0
            lines.append(line)
            waiters.append(done)
            size += len(line)
        self._waiting = []
        self._start(lines, waiters)

    def _start(self, lines: list[bytes], waiters: "list[asyncio.Future[None]]") -> None:
        task = asyncio.create_task(self._send(b"\n".join(lines), waiters))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def _send(self, batch: bytes, waiters: "list[asyncio.Future[None]]") -> None:
        message_id = f"{random.getrandbits(96):024x}"
        self._in_flight[message_id] = started = time.monotonic()
        told = False
        try:
            while (failure := await self._attempt(batch, {"Nats-Msg-Id": message_id})) is not None:
                told |= time.monotonic() - started > PATIENCE or self._client.is_closed or failure == TOO_LARGE
                if told:
                    _tell(waiters, failure)
                    if self._hopeless or failure == TOO_LARGE:
                        log.error("audit events lost", events=len(waiters), error=failure)
                        return
                # No stream, no leader yet, no connection, or a full stream: ask again soon.
                await asyncio.sleep(LATER if told else PAUSE)
        finally:
            del self._in_flight[message_id]
        _tell(waiters, None)

    @property
    def _hopeless(self) -> bool:
        return self._closing or self._client.is_closed or len(self._in_flight) > KEPT

    async def _attempt(self, batch: bytes, headers: dict[str, str]) -> str | None:
        try:
            known = headers | {audit.ACKED: str(self._acked)}
            reply = await self._client.request(self._subject, batch, timeout=ATTEMPT, headers=known)
            answer = orjson.loads(reply.data)
            if "error" not in answer:
                self._acked = answer["seq"]
                return None
            failure = str(answer["error"].get("description"))
        except MaxPayloadError:
            failure = TOO_LARGE
        except (Error, ValueError) as error:
            failure = str(error) or type(error).__name__
        self.retries += 1
        return failure

    async def close(self) -> None:
        """Return when all that was taken has been acknowledged or given up."""
        self._closing = True
        self._flush()
        while self._waiting or self._sends:
            if self._sends:
                await asyncio.wait(self._sends)
            else:
                await asyncio.sleep(0)


def _tell(waiters: "list[asyncio.Future[None]]", failure: str | None) -> None:
    """Tell those who still wait."""
    waiting = [done for done in waiters if not done.done()]
    if failure is not None and waiting:
        log.error("audit events not acknowledged", events=len(waiting), error=failure)
    for done in waiting:
        if failure is None:
            done.set_result(None)
        else:
            done.set_exception(Unavailable("the audit stream does not acknowledge events"))


def _mark_seen(done: "asyncio.Future[None]") -> None:
    """Retrieve the failure of an event that nobody waits for any more: it is in the log all the same."""
    if not done.cancelled():
        done.exception()


def _report(done: "asyncio.Future[None]") -> None:
    if not done.cancelled() and done.exception() is not None:
        log.error("audit event delayed", error=str(done.exception()))
