"""Signs of life for the gateways: one beat for each that has calls here, however many they are."""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

from mcpctl.bus.connection import Bus, Delivery
from mcpctl.bus.errors import BusError
from mcpctl.bus.frames import BEAT, BEAT_EVERY, Reply, encode
from mcpctl.bus.identity import inbox_of


class Beats:
    """Counts the calls of each gateway by the prefix of their reply subjects; `gone` hears of one that nobody hears.

    A beat asks for a reply: where the gateway is gone, the bus itself answers that nobody listens.
    """

    def __init__(self, bus: Bus, router: str, gone: Callable[[str], None]) -> None:
        self._bus, self._gone = bus, gone
        self._frame = encode(Reply("beat", 0, router=router))
        self._pulse = f"{inbox_of(bus.caller)}.pulse{secrets.token_hex(8)}"
        self._calls: dict[str, int] = {}
        self._pulses: dict[str, str] = {}
        self._count = 0

    async def open(self) -> None:
        await self._bus.receive(f"{self._pulse}.*", self._no_responders)

    def add(self, prefix: str) -> None:
        """Begin to beat for a call whose reply subject begins so."""
        self._calls[prefix] = self._calls.get(prefix, 0) + 1
        if self._calls[prefix] == 1:
            self._count += 1
            self._pulses[f"{self._pulse}.{self._count}"] = prefix

    def remove(self, prefix: str) -> None:
        self._calls[prefix] -= 1
        if not self._calls[prefix]:
            del self._calls[prefix]
            self._pulses = {pulse: known for pulse, known in self._pulses.items() if known != prefix}

    async def run(self) -> None:
        """For ever: beat."""
        while True:
            await asyncio.sleep(BEAT_EVERY)
            for pulse, prefix in list(self._pulses.items()):
                with suppress(BusError):
                    await self._bus.send(f"{prefix}.{BEAT}", self._frame, reply=pulse)

    async def _no_responders(self, msg: Delivery) -> None:
        prefix = self._pulses.get(msg.subject)
        if prefix is not None and (msg.headers or {}).get("Status") == "503":
            self._gone(prefix)
