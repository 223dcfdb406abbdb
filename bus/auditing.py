"""Appending audit events to the stream: many at a time, acknowledged by JetStream, never silently lost.

The events of one turn of the event loop travel in one message. A batch without acknowledgement is sent again
under the same message id (the stream drops duplicates) as long as somebody waits for it, and then until the stream
is back: what was decided is recorded late rather than never, and until then no new call begins.
"""

import asyncio
import random
import time
from collections.abc import Iterator

import msgspec
import orjson
import structlog
from nats.aio.msg import Msg
from nats.errors import Error, MaxPayloadError

from mcpctl.bus import measured, metrics
from mcpctl.bus.bearer import masked
from mcpctl.bus.connection import Bus, is_clustered
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


class _Refusal(msgspec.Struct):
    description: str = ""


class _Ack(msgspec.Struct):
    """JetStream's answer to a message (ADR-22): its number in the stream, or why it is not stored."""

    seq: int = 0
    error: _Refusal | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


class _Batch:
    """Events that travel in one message, and who waits for them.

    It stands where nats-py keeps the future of an answer, so that it is told as the answer is read.
    """

    __slots__ = ("_writer", "body", "events", "id", "started", "timer", "token", "told", "waiters")

    def __init__(self, writer: "AuditWriter", lines: list[bytes], waiters: "list[asyncio.Future[None]]") -> None:
        self._writer, self.waiters = writer, waiters
        self.id = f"{random.getrandbits(96):024x}"
        self.body, self.events = b"\n".join(lines), len(lines)
        self.started = time.monotonic()
        self.token = ""
        self.told = False
        """Whether those who wait have been told that they wait in vain."""

        self.timer: asyncio.TimerHandle | None = None

    def done(self) -> bool:
        return False

    def set_result(self, answer: Msg) -> None:
        self._writer.answered(self, answer)


class AuditWriter:
    """One part's way into the audit stream."""

    def __init__(self, bus: Bus) -> None:
        self._client, self._subject = bus.client, f"{audit.APPEND}.{bus.caller}"
        self._waiting: list[tuple[bytes, asyncio.Future[None] | None]] = []
        self._flushing = False
        self._lingering: asyncio.TimerHandle | None = None
        self._in_flight: dict[str, _Batch] = {}  # by message id, the oldest first
        self._settled = asyncio.Event()
        self._closing = False
        self._acked = 0
        self.retries = 0
        """Attempts to send a batch that were not acknowledged, since the start."""

        self._of = (bus.caller.partition("-")[0],)
        metrics.watch(self)

    def measures(self) -> "Iterator[metrics.Measured]":
        """Yield what metrics tell of this writer."""
        yield measured.AUDIT_WAITING, len(self._in_flight), self._of
        yield measured.AUDIT_AGE, self._silence, self._of
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
        return 0.0 if oldest is None else time.monotonic() - oldest.started

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
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._take(event, done)
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        return done

    def append_later(self, event: dict[str, object]) -> None:
        """Take an event that nobody waits for: it travels with the next, or soon; a failure is logged."""
        self._take(event, None)
        if self._lingering is None:
            self._lingering = asyncio.get_running_loop().call_later(LINGER, self._flush)

    def _take(self, event: dict[str, object], done: "asyncio.Future[None] | None") -> None:
        event.setdefault("id", f"{random.getrandbits(96):024x}")
        event.setdefault("at", time.time_ns() // 1_000_000)
        for field in FREE_TEXT:
            text = event.get(field)
            if isinstance(text, str) and len(text) > LONGEST_TEXT:
                event[field] = f"{text[:LONGEST_TEXT]}…"
        self._waiting.append((masked(orjson.dumps(event)), done))

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
            if done is not None:
                waiters.append(done)
            size += len(line)
        self._waiting = []
        self._start(lines, waiters)

    def _start(self, lines: list[bytes], waiters: "list[asyncio.Future[None]]") -> None:
        batch = _Batch(self, lines, waiters)
        self._in_flight[batch.id] = batch
        self._settled.clear()
        self._attempt(batch)

    def _attempt(self, batch: _Batch) -> None:
        headers = b"Nats-Msg-Id: %b\r\n%b: %d\r\n" % (batch.id.encode(), audit.ACKED.encode(), self._acked)
        try:
            batch.token = self._client.ask(self._subject, batch.body, headers, batch)
        except MaxPayloadError:
            self._failed(batch, TOO_LARGE)
        except Error as error:
            self._failed(batch, str(error) or type(error).__name__)
        else:
            batch.timer = asyncio.get_running_loop().call_later(ATTEMPT, self._late, batch)

    def _late(self, batch: _Batch) -> None:
        self._client.forget(batch.token)
        self._failed(batch, "no acknowledgement in time")

    def answered(self, batch: _Batch, answer: Msg) -> None:
        """Take the answer to a batch."""
        self._client.forget(batch.token)
        if batch.timer is not None:
            batch.timer.cancel()
        try:
            said = _decode_ack(answer.data)
        except msgspec.DecodeError as error:  # nobody is there, say: then it is empty
            self._failed(batch, (answer.headers or {}).get("Description") or str(error))
            return
        if said.error is not None:
            self._failed(batch, said.error.description)
            return
        self._acked = said.seq
        self._end(batch)
        for done in batch.waiters:
            if not done.done():
                done.set_result(None)

    def _failed(self, batch: _Batch, failure: str) -> None:
        """Have a batch sent again soon: there is no stream, no leader yet, no connection, or no room in the stream."""
        self.retries += 1
        late = time.monotonic() - batch.started > PATIENCE or self._client.is_closed or failure == TOO_LARGE
        if late and not batch.told:
            batch.told = True
            log.error("audit events not acknowledged", events=batch.events, error=failure)
            for done in batch.waiters:
                if not done.done():
                    done.set_exception(Unavailable("the audit stream does not acknowledge events"))
                    done.exception()  # it is in the log, where nobody waits any more
        if batch.told and (self._hopeless or failure == TOO_LARGE):
            log.error("audit events lost", events=batch.events, error=failure)
            self._end(batch)
            return
        pause = LATER if batch.told else PAUSE
        batch.timer = asyncio.get_running_loop().call_later(pause, self._attempt, batch)

    def _end(self, batch: _Batch) -> None:
        del self._in_flight[batch.id]
        if not self._in_flight:
            self._settled.set()

    @property
    def _hopeless(self) -> bool:
        return self._closing or self._client.is_closed or len(self._in_flight) > KEPT

    async def close(self) -> None:
        """Return when all that was taken has been acknowledged or given up."""
        self._closing = True
        self._flush()
        while self._in_flight:
            await self._settled.wait()
