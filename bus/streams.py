"""An actor's connection to the account STREAMS, where JetStream is: the SessionGate's and the AuditSink's second one.

JetStream's API is plain request and reply with JSON, so it is spoken here directly: nats-py's own layer hides
which sequence a message has, and renews neither an ordered consumer nor a pull soon enough after a restart.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.parser import BytesParser
from typing import Any, Self

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from mcpctl.bus.connection import connect_nats
from mcpctl.bus.errors import Conflict, DeadlineExceeded, Internal, NotFound, Unavailable
from mcpctl.bus.identity import ActorIdentity

API = "$JS.API"
WAIT = 1.0
"""Seconds to wait for an answer of the API."""

HEARTBEAT = 0.5
"""Seconds between the server's signs of life on an idle delivery."""

EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"

_NOT_FOUND = frozenset({10037, 10059, 10014})
"""JetStream's error codes: no message found, no such stream, no such consumer."""

_WRONG_LAST = frozenset({10071, 10164})
"""JetStream's error codes: the subject's last message is another one than expected."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream's identity (`created` is another one after it was made anew) and its first and last sequence."""

    created: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of a stream. `at` is when it was stored, in nanoseconds since 1970; `reply` is where it is acked."""

    subject: str
    seq: int
    at: int
    data: bytes
    headers: Mapping[str, str]
    reply: str = ""


class Streams:
    """JetStream, as far as two actors need it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @classmethod
    async def connect(cls, url: str, identity: ActorIdentity, on_closed: Callable[[], None]) -> Self:
        """Connect as the actor's user in STREAMS. Raises `Unavailable`."""
        options = identity.options(f"{identity.role}-streams")
        return cls(await connect_nats(url, on_closed=on_closed, **options))

    async def close(self) -> None:
        with suppress(Error):
            await self._client.close()

    async def state(self, stream: str) -> StreamState:
        """Return what the stream holds now. Raises `NotFound`, `Unavailable`."""
        answer = await self._ask(f"STREAM.INFO.{stream}", {})
        held = answer["state"]
        return StreamState(answer["created"], held["first_seq"], held["last_seq"])

    async def last(self, stream: str, subject: str) -> Stored:
        """Return the last message of a subject, as the stream's leader has it. Raises `NotFound`, `Unavailable`."""
        message = (await self._ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}))["message"]
        headers = _headers(base64.b64decode(message.get("hdrs", "")))
        at = int(datetime.fromisoformat(message["time"]).timestamp() * 1e9)
        return Stored(message["subject"], message["seq"], at, base64.b64decode(message.get("data", "")), headers)

    async def put(self, subject: str, data: bytes, headers: dict[str, str], *, after: int | None = None) -> int:
        """Store a message and return its sequence.

        With `after`, only if that is the subject's last sequence still (0: there is none); else `Conflict`.
        Raises `Unavailable`, and `DeadlineExceeded` where it may have been stored all the same.
        """
        if after is not None:
            headers = headers | {EXPECTED_LAST: str(after)}
        return int((await self._request(subject, data, headers))["seq"])

    async def make_consumer(self, stream: str, name: str, config: dict[str, object]) -> None:
        """Make a consumer, or bring the one of that name to `config`. Raises `NotFound`, `Unavailable`."""
        request = {"stream_name": stream, "config": {"name": name, **config}}
        await self._ask(f"CONSUMER.CREATE.{stream}.{name}.{config['filter_subject']}", request)

    async def follow(self, stream: str, subject: str, name: str, start: int) -> AsyncGenerator[Stored, None]:
        """Yield the heads of a stream's messages from sequence `start` on, without their bodies.

        Ends with `Unavailable` after a gap, or when the server has been silent for three heartbeats: then
        follow again from where this ended.
        """
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        inbox, subscription = await self._listen(arrived)
        try:
            await self.make_consumer(
                stream,
                name,
                {
                    "filter_subject": subject,
                    "deliver_subject": inbox,
                    "deliver_policy": "by_start_sequence",
                    "opt_start_seq": start,
                    "ack_policy": "none",
                    "headers_only": True,
                    "mem_storage": True,
                    "num_replicas": 1,
                    "idle_heartbeat": int(HEARTBEAT * 1e9),
                    "flow_control": True,
                    "inactive_threshold": int(5e9),
                },
            )
            expected = 1
            while True:
                msg = await _next(arrived, 3 * HEARTBEAT)
                if not _is_delivery(msg):
                    last = (msg.headers or {}).get("Nats-Last-Consumer")
                    if last is not None and int(last) >= expected:
                        raise Unavailable(f"deliveries of {stream} were lost")
                    if msg.reply:
                        await self._client.publish(msg.reply)  # flow control: go on sending
                    continue
                stored, delivery = _delivered(msg)
                if delivery != expected:
                    raise Unavailable(f"deliveries of {stream} were lost")
                expected += 1
                yield stored
        except Error as error:
            raise Unavailable(f"JetStream is away ({error})") from error
        finally:
            with suppress(Error):
                await subscription.unsubscribe()
                await self._client.request(f"{API}.CONSUMER.DELETE.{stream}.{name}", b"", timeout=WAIT)

    async def pull(
        self, stream: str, consumer: str, batch: int, max_bytes: int, expires: float
    ) -> AsyncGenerator[Stored, None]:
        """Yield at most `batch` messages, as they arrive within `expires` seconds. Raises `Unavailable`."""
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        inbox, subscription = await self._listen(arrived)
        try:
            request = {"batch": batch, "max_bytes": max_bytes, "expires": int(expires * 1e9)}
            await self._client.publish(f"{API}.CONSUMER.MSG.NEXT.{stream}.{consumer}", orjson.dumps(request), inbox)
            for _ in range(batch):
                msg = await _next(arrived, expires + WAIT)
                if not _is_delivery(msg):
                    _check_end(msg.headers or {}, f"the consumer {consumer} of {stream}")
                    return
                yield _delivered(msg)[0]
        except Error as error:
            raise Unavailable(f"JetStream is away ({error})") from error
        finally:
            with suppress(Error):
                await subscription.unsubscribe()

    async def _listen(self, arrived: "asyncio.Queue[Msg]") -> tuple[str, Subscription]:
        inbox = self._client.new_inbox()
        try:
            return inbox, await self._client.subscribe(inbox, cb=arrived.put)
        except Error as error:
            raise Unavailable(f"JetStream is away ({error})") from error

    async def ack(self, stored: Stored) -> None:
        """Let a message go; where the ack is lost, the message comes again."""
        with suppress(Error):
            await self._client.publish(stored.reply, b"+ACK")

    async def give_back(self, stored: Stored) -> None:
        """Let another reader have a message now."""
        with suppress(Error):
            await self._client.publish(stored.reply, b"-NAK")

    async def _ask(self, verb: str, request: Mapping[str, object]) -> dict[str, Any]:
        return await self._request(f"{API}.{verb}", orjson.dumps(request), None)

    async def _request(self, subject: str, data: bytes, headers: dict[str, str] | None) -> dict[str, Any]:
        try:
            reply = await self._client.request(subject, data, timeout=WAIT, headers=headers)
        except NoRespondersError as error:
            raise Unavailable("JetStream is not there") from error
        except NatsTimeoutError as error:
            raise DeadlineExceeded("JetStream does not answer") from error
        except Error as error:
            raise Unavailable(f"JetStream is away ({error})") from error
        answer: dict[str, Any] = orjson.loads(reply.data)
        fault = answer.get("error")
        if fault is None:
            return answer
        text = fault.get("description", "unknown error")
        if fault.get("err_code") in _WRONG_LAST:
            raise Conflict(text)
        if fault.get("err_code") in _NOT_FOUND:
            raise NotFound(text)
        if fault.get("code") == 400:
            raise Internal(f"JetStream refused {subject}: {text}")
        raise Unavailable(f"JetStream: {text}")


async def _next(arrived: "asyncio.Queue[Msg]", patience: float) -> Msg:
    if not arrived.empty():
        return arrived.get_nowait()
    try:
        async with asyncio.timeout(patience):
            return await arrived.get()
    except TimeoutError as error:
        raise Unavailable("JetStream is silent") from error


def _is_delivery(msg: Msg) -> bool:
    """Tell a stored message from a status of the server: not by its headers, which its writer chose."""
    return msg.reply.startswith("$JS.ACK.")


def _check_end(status: Mapping[str, str], consumer: str) -> None:
    """Raise `Unavailable` where a pull ended for another reason than that there is nothing more within its limits."""
    if status.get("Status") not in ("404", "408", "409") or "Consumer" in status.get("Description", ""):
        raise Unavailable(f"{consumer} is gone")


def _delivered(msg: Msg) -> tuple[Stored, int]:
    """Return a delivered message, and which delivery of its consumer it is (from the reply subject, ADR-15)."""
    tokens = msg.reply.split(".")
    start = 4 if len(tokens) == 9 else 6
    stream_seq, delivery, at = tokens[start + 1], tokens[start + 2], tokens[start + 3]
    return Stored(msg.subject, int(stream_seq), int(at), msg.data, msg.headers or {}, msg.reply), int(delivery)


def _headers(block: bytes) -> Mapping[str, str]:
    """Read a NATS header block: one status line, then lines as in a mail."""
    return dict(BytesParser().parsebytes(block.partition(b"\r\n")[2], headersonly=True).items())
