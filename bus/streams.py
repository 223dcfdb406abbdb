"""An actor's connection to the account STREAMS, where JetStream is: the SessionGate's and the AuditSink's second one.

JetStream's API is plain request and reply with JSON, so it is spoken here directly: nats-py's own layer hides
which sequence a message has, and renews neither an ordered consumer nor a pull soon enough after a restart.
"""

import asyncio
import base64
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.parser import BytesParser
from typing import Any, Self

import orjson
from nats.aio.client import Client
from nats.errors import Error, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from mcpctl.bus.connection import connect_nats, is_clustered
from mcpctl.bus.context import remaining
from mcpctl.bus.contract import ELECTION
from mcpctl.bus.deliveries import Deliveries, Status, Stored
from mcpctl.bus.errors import BusError, Conflict, DeadlineExceeded, Internal, NotFound, Unavailable
from mcpctl.bus.identity import ActorIdentity

API = "$JS.API"
WAIT = 1.0
"""Seconds to wait for an answer of the API."""

PAUSE = 0.05
"""Seconds before the API is asked again."""

HEARTBEAT = 0.5
"""Seconds between the server's signs of life on an idle delivery."""

EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
TTL = "Nats-TTL"
"""Seconds after which the server lets one message go, by its own clock (ADR-43); the stream must allow it."""

MESSAGE_ID = "Nats-Msg-Id"

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


class Streams:
    """JetStream, as far as two actors need it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._away_since: float | None = None

    @classmethod
    async def connect(cls, url: str, identity: ActorIdentity, on_closed: Callable[[], None]) -> Self:
        """Connect as the actor's user in STREAMS. Raises `Unavailable`."""
        options = identity.options(f"{identity.role}-streams")
        return cls(await connect_nats(url, on_closed=on_closed, **options))

    async def close(self) -> None:
        with suppress(Error):
            await self.client.close()

    async def state(self, stream: str) -> StreamState:
        """Return what the stream holds now. Raises `NotFound`, `Unavailable`."""
        answer = await self.ask(f"STREAM.INFO.{stream}", {})
        held = answer["state"]
        return StreamState(answer["created"], held["first_seq"], held["last_seq"])

    async def health(self, stream: str) -> str:
        """Say how a stream is: what it holds, and (in a cluster) its leader and replicas. Raises `BusError`."""
        answer = await self.ask(f"STREAM.INFO.{stream}", {})
        held, cluster = answer["state"], answer.get("cluster") or {}
        said = f"{held['messages']} messages, {held['bytes']} bytes"
        if "raft_group" not in cluster:  # a server alone
            return said
        if not cluster.get("leader"):
            raise Unavailable(f"the stream {stream} has no leader")
        replicas = cluster.get("replicas") or ()
        behind = sorted(each["name"] for each in replicas if each.get("offline") or not each.get("current"))
        copies, wanted = 1 + len(replicas) - len(behind), answer["config"].get("num_replicas", 1)
        said = f"{said}, leader {cluster['leader']}, {copies} of {wanted} copies current"
        if copies < wanted:
            raise Unavailable(f"degraded: {said}, not {', '.join(behind) or 'placed'}")
        return said

    async def last(self, stream: str, subject: str) -> Stored:
        """Return the last message of a subject, as the stream's leader has it. Raises `NotFound`, `Unavailable`."""
        message = (await self.ask(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}))["message"]
        headers = _headers(base64.b64decode(message.get("hdrs", "")))
        at = int(datetime.fromisoformat(message["time"]).timestamp() * 1e9)
        return Stored(message["subject"], message["seq"], at, base64.b64decode(message.get("data", "")), headers)

    async def put(
        self, subject: str, data: bytes, headers: dict[str, str], *, after: int | None = None, ttl: int | None = None
    ) -> int:
        """Store a message, for `ttl` seconds where given, and return its sequence.

        With `after`, only if that is the subject's last sequence still (0: there is none); else `Conflict`.
        Raises `Unavailable`, and `DeadlineExceeded` where it may have been stored all the same.
        """
        if after is not None:
            headers = headers | {EXPECTED_LAST: str(after)}
        if ttl is not None:
            headers = headers | {TTL: f"{ttl}s"}
        headers = headers | {MESSAGE_ID: f"{random.getrandbits(96):024x}"}  # asked twice, it is stored once
        return int((await self._request(subject, data, headers))["seq"])

    async def subjects(self, stream: str, fitting: str) -> list[str]:
        """Return the subjects that fit and have messages, in their order. Raises `NotFound`, `Unavailable`."""
        found: dict[str, None] = {}
        offset = 0
        while True:
            answer = await self.ask(f"STREAM.INFO.{stream}", {"subjects_filter": fitting, "offset": offset})
            page = answer["state"].get("subjects") or {}
            found.update(dict.fromkeys(page))
            offset += len(page)  # the server tells `total` where one answer does not hold them all
            if not page or offset >= answer.get("total", 0):
                return sorted(found)

    async def purge(self, stream: str, subject: str) -> None:
        """Remove all messages of the subjects that fit. Raises `NotFound`, `Unavailable`."""
        await self.ask(f"STREAM.PURGE.{stream}", {"filter": subject})

    async def make_consumer(self, stream: str, name: str, config: dict[str, object]) -> None:
        """Make a consumer, or bring the one of that name to `config`. Raises `NotFound`, `Unavailable`."""
        request = {"stream_name": stream, "config": {"name": name, **config}}
        await self.ask(f"CONSUMER.CREATE.{stream}.{name}.{config['filter_subject']}", request)

    async def follow(self, stream: str, subject: str, name: str, start: int) -> AsyncGenerator[Stored, None]:
        """Yield the heads of a stream's messages from sequence `start` on, without their bodies.

        Ends with `Unavailable` after a gap, or when the server has been silent for three heartbeats: then
        follow again from where this ended.
        """
        async with Deliveries.heard(self.client) as arriving:
            await self.make_consumer(
                stream,
                name,
                {
                    "filter_subject": subject,
                    "deliver_subject": arriving.inbox,
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
            try:
                async for stored in _in_order(arriving):
                    yield stored
            finally:
                with suppress(Error):
                    await self.client.request(f"{API}.CONSUMER.DELETE.{stream}.{name}", timeout=WAIT)

    async def ask(self, verb: str, request: Mapping[str, object]) -> dict[str, Any]:
        """Ask the API itself. Raises `NotFound`, `Unavailable`."""
        return await self._request(f"{API}.{verb}", orjson.dumps(request), None)

    async def _request(self, subject: str, data: bytes, headers: dict[str, str] | None) -> dict[str, Any]:
        """Ask until there is an answer, as long as the servers may be choosing a leader; later only once.

        All that is asked here may be asked twice.
        """
        give_up = time.monotonic() + remaining(ELECTION)
        while True:
            try:
                answer = await self._attempt(subject, data, headers)
            except (Unavailable, DeadlineExceeded):
                self._away_since = self._away_since or time.monotonic()
                over = min(give_up, self._away_since + (ELECTION if is_clustered(self.client) else WAIT))
                if time.monotonic() + PAUSE > over or self.client.is_closed:
                    raise
            except BusError:
                self._away_since = None
                raise
            else:
                self._away_since = None
                return answer
            await asyncio.sleep(PAUSE)

    async def _attempt(self, subject: str, data: bytes, headers: dict[str, str] | None) -> dict[str, Any]:
        try:
            reply = await self.client.request(subject, data, timeout=remaining(WAIT) or PAUSE, headers=headers)
        except NoRespondersError as error:
            raise Unavailable("JetStream is not there, or is choosing a leader") from error
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


async def _in_order(arriving: Deliveries) -> AsyncGenerator[Stored, None]:
    """Yield deliveries, answering the server's flow control. Raises `Unavailable` where one is missing."""
    expected = 1
    while True:
        delivery = await arriving.next(3 * HEARTBEAT)
        if isinstance(delivery, Status):
            if delivery.delivered is not None and delivery.delivered >= expected:
                raise Unavailable("JetStream's deliveries were lost")
            await arriving.go_on(delivery)
            continue
        if delivery.delivery != expected:
            raise Unavailable("JetStream's deliveries were lost")
        expected += 1
        yield delivery


def _headers(block: bytes) -> Mapping[str, str]:
    """Read a NATS header block: one status line, then lines as in a mail."""
    return dict(BytesParser().parsebytes(block.partition(b"\r\n")[2], headersonly=True).items())
