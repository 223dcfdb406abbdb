"""How far the ledger is behind the stream: looked at now and then, for metrics."""

import asyncio
import time
from collections.abc import Callable, Iterator

from mcpctl.actors.audit_sink.ledger import Position
from mcpctl.bus import measured, metrics
from mcpctl.bus.contracts import audit
from mcpctl.bus.errors import BusError
from mcpctl.bus.streams import Streams

LOOK_EVERY = 5.0
"""Seconds between two looks: one small request each."""


class Watching:
    """Asks the stream where it ends; `position` tells where the ledger does. What cannot be asked goes on ageing."""

    def __init__(self, streams: Streams, position: Callable[[], Position]) -> None:
        self._streams, self._position = streams, position
        self._last = 0
        self._even = time.time()
        self._replicas = self._current = 1
        metrics.watch(self)

    def measures(self) -> Iterator[metrics.Measured]:
        """Yield how many messages wait, and for how long the oldest does at the most."""
        position = self._position()
        pending = max(self._last - position.seq, 0)
        lag = time.time() - max(position.at / 1e9, self._even)
        yield measured.LEDGER_PENDING, pending, ()
        yield measured.LEDGER_LAG, max(lag, 0.0) if pending else 0.0, ()
        yield measured.STREAM_REPLICAS, self._replicas, ()
        yield measured.STREAM_CURRENT, self._current, ()

    async def run(self) -> None:
        """Look for ever."""
        while True:
            try:
                await self._look()
            except BusError:
                self._current = 0
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self) -> None:
        asked = time.time()
        info = await self._streams.ask(f"STREAM.INFO.{audit.STREAM}", {})
        others = (info.get("cluster") or {}).get("replicas") or ()
        self._replicas = info["config"]["num_replicas"]
        self._current = 1 + sum(1 for other in others if other.get("current") and not other.get("offline"))
        self._last = info["state"]["last_seq"]
        if self._last <= self._position().seq:
            self._even = asked
