"""Waking those who wait for the ledger to grow: by this replica's own commits, and by what others broadcast."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import audit

GATHER = 0.02
"""Seconds between two looks at the least: a busy ledger is not to be asked once an event."""

LOOK_AGAIN = 1.0
"""Seconds after which one who waits looks by itself: a broadcast may be lost."""


class Tail:
    """Hears the broadcasts while somebody waits: with nobody waiting, each event would cost for nothing."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting = 0
        self._hearing = AsyncExitStack()
        self._grown = asyncio.Event()

    @property
    def growth(self) -> asyncio.Event:
        """What is set when the ledger grows from now on: take it before looking."""
        return self._grown

    @asynccontextmanager
    async def heard(self) -> AsyncIterator[None]:
        """Hear the broadcasts inside of this."""
        self._waiting += 1
        try:
            if self._waiting == 1:
                await self._hearing.enter_async_context(self._bus.receiving(audit.TAIL, self._hear))
            yield
        finally:
            self._waiting -= 1
            if self._waiting == 0:
                hearing, self._hearing = self._hearing, AsyncExitStack()
                await hearing.aclose()

    async def _hear(self, _msg: object) -> None:
        self.grow()

    def grow(self) -> None:
        """Wake everybody who waits."""
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()
