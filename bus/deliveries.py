"""What JetStream delivers to an inbox: stored messages, and between them its own statuses."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from mcpctl.bus.errors import Unavailable

ACK = "$JS.ACK."


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of a stream, and (where it was delivered) the how manieth of its consumer.

    `at` is when it was stored, in nanoseconds since 1970; `reply` is where it is acked.
    """

    subject: str
    seq: int
    at: int
    data: bytes
    headers: Mapping[str, str]
    reply: str = ""
    delivery: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """A word of the server's own: `code` 100 is a sign of life, the others end a pull."""

    code: str
    text: str
    reply: str
    delivered: int | None


class Deliveries:
    """An inbox to which a consumer delivers."""

    def __init__(self, client: Client, inbox: str) -> None:
        self.inbox = inbox
        self._client = client
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def heard(cls, client: Client) -> AsyncIterator[Self]:
        """Hear a new inbox inside of this. Raises `Unavailable`."""
        deliveries = cls(client, client.new_inbox())
        try:
            subscription = await client.subscribe(deliveries.inbox, cb=deliveries._arrived.put)
        except Error as error:
            raise Unavailable(f"JetStream is away ({error})") from error
        try:
            yield deliveries
        finally:
            with suppress(Error):
                await subscription.unsubscribe()

    async def next(self, patience: float) -> Stored | Status:
        """Return what comes next. Raises `Unavailable` after `patience` seconds of silence."""
        if not self._arrived.empty():
            return _read(self._arrived.get_nowait())
        try:
            async with asyncio.timeout(patience):
                return _read(await self._arrived.get())
        except TimeoutError as error:
            raise Unavailable("JetStream is silent") from error

    async def go_on(self, status: Status) -> None:
        """Answer the server's flow control, where it asks."""
        if status.reply:
            with suppress(Error):
                await self._client.publish(status.reply)


def _read(msg: Msg) -> Stored | Status:
    headers = msg.headers or {}
    # Not told apart by its headers, which the writer of a stored message chose.
    if not msg.reply.startswith(ACK):
        delivered = headers.get("Nats-Last-Consumer")
        return Status(
            headers.get("Status", ""),
            headers.get("Description", ""),
            msg.reply,
            None if delivered is None else int(delivered),
        )
    tokens = msg.reply.split(".")
    start = 4 if len(tokens) == 9 else 6  # ADR-15: newer servers put a domain and an account in front
    seq, delivery, at = (int(token) for token in tokens[start + 1 : start + 4])
    return Stored(msg.subject, seq, at, msg.data, headers, msg.reply, delivery)
