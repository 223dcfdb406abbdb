"""A durable consumer of which one reader at a time is served while the others stand by (ADR-42, `pinned_client`).

Were several served at once, each would get every other message, and what must be handled in order would go from
hand to hand with each of them.
"""

from collections.abc import AsyncGenerator
from contextlib import suppress

import orjson
from nats.errors import Error

from mcpctl.bus.deliveries import Deliveries, Status, Stored
from mcpctl.bus.errors import BusError, Unavailable
from mcpctl.bus.streams import API, WAIT, Streams

GROUP = "readers"
PIN = "Nats-Pin-Id"

HAND_OVER_SECONDS = 3
"""A reader that has not asked for so long loses its turn to another."""


class SharedConsumer:
    """One process's way to read a consumer that it shares with its replicas."""

    def __init__(self, streams: Streams, stream: str, name: str) -> None:
        self._streams, self._stream, self._name = streams, stream, name
        self._pin = ""

    async def make(self, config: dict[str, object]) -> None:
        """Make the consumer, or bring it to `config`. Raises `NotFound`, `Unavailable`."""
        shared = {
            "durable_name": self._name,
            "ack_policy": "explicit",
            "priority_groups": [GROUP],
            "priority_policy": "pinned_client",
            "priority_timeout": HAND_OVER_SECONDS * 1_000_000_000,
        }
        await self._streams.make_consumer(self._stream, self._name, shared | config)

    async def pull(self, batch: int, max_bytes: int, expires: float) -> AsyncGenerator[Stored, None]:
        """Yield at most `batch` messages, as they arrive within `expires` seconds: none while standing by.

        Raises `Unavailable`.
        """
        request = {"batch": batch, "max_bytes": max_bytes, "expires": int(expires * 1e9), "group": GROUP}
        if self._pin:
            request["id"] = self._pin
        async with Deliveries.heard(self._streams.client) as arriving:
            await self._ask(orjson.dumps(request), arriving.inbox)
            for _ in range(batch):
                delivery = await arriving.next(expires + WAIT)
                if isinstance(delivery, Status):
                    self._check_end(delivery)
                    return
                self._pin = delivery.headers.get(PIN, self._pin)
                yield delivery

    async def _ask(self, request: bytes, inbox: str) -> None:
        try:
            await self._streams.client.publish(f"{API}.CONSUMER.MSG.NEXT.{self._stream}.{self._name}", request, inbox)
        except Error as error:
            raise Unavailable(f"JetStream is away ({error})") from error

    def _check_end(self, status: Status) -> None:
        """Raise `Unavailable` where a pull ended for another reason than that there is nothing more for us."""
        if status.code == "423":
            self._pin = ""  # it is another reader's turn
        elif status.code not in ("404", "408", "409") or "Consumer" in status.text:
            raise Unavailable(f"the consumer {self._name} of {self._stream} is gone ({status.code} {status.text})")

    async def hand_over(self) -> None:
        """Let another reader have its turn at once."""
        if self._pin:
            self._pin = ""
            with suppress(BusError):
                await self._streams.ask(f"CONSUMER.UNPIN.{self._stream}.{self._name}", {"group": GROUP})

    async def ack(self, stored: Stored) -> None:
        """Let a message go; where the ack is lost, the message comes again."""
        await self._answer(stored, b"+ACK")

    async def give_back(self, stored: Stored) -> None:
        """Have a message delivered again, here or to another reader."""
        await self._answer(stored, b"-NAK")

    async def _answer(self, stored: Stored, word: bytes) -> None:
        with suppress(Error):
            await self._streams.client.publish(stored.reply, word)
