"""Bearers that are refused, counted by the address that sends them: who tries many is made to wait, and nobody else."""

import asyncio
import time
from collections import Counter, OrderedDict

import structlog

from mcpctl.bus.mcp_messages import INVALID_REQUEST
from mcpctl.gateway.wire import Fault

log = structlog.get_logger()

AT_ONCE = 5
"""Seconds' worth of refusals that an address may have in one moment."""

REMEMBERED = 10_000
"""Addresses of which refusals are counted; the one that was quiet longest is forgotten first."""

PAUSE = 1.0
"""Seconds for which the answer to one refusal too many is held back, and its connection with it."""

PAUSING = 64
"""Such answers that may wait for one address; further ones are given at once, and the connection is closed."""


class Refusals:
    """How many refusals each address has left; `per_second` come back, 0 means that nothing is counted.

    Who goes on is refused unasked until it has been quiet for some seconds.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second, self._most = per_second, per_second * AT_ONCE
        self._counted: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._pausing: Counter[str] = Counter()

    def note(self, address: str) -> None:
        """Count one more."""
        if not self._per_second:
            return
        level = self._level(address) + 1
        if level > self._most >= level - 1:
            log.warning("an address sends many bearers that are refused", address=address)
        self._counted[address] = min(level, 2 * self._most), time.monotonic()
        self._counted.move_to_end(address)
        if len(self._counted) > REMEMBERED:
            self._counted.popitem(last=False)

    def exhausted(self, address: str) -> bool:
        """Tell whether an address has none left."""
        return bool(self._counted) and self._level(address) > self._most - 1

    def _level(self, address: str) -> float:
        level, since = self._counted.get(address, (0.0, 0.0))
        return max(0.0, level - (time.monotonic() - since) * self._per_second)

    async def turn_away(self, address: str) -> Fault:
        """Count one more, and return the answer for an address that has none left, after a pause."""
        self.note(address)
        headers = {"Retry-After": str(AT_ONCE)}
        if self._pausing[address] >= PAUSING:
            headers["Connection"] = "close"
        else:
            self._pausing[address] += 1
            try:
                await asyncio.sleep(PAUSE)
            finally:
                self._pausing[address] -= 1
                if not self._pausing[address]:
                    del self._pausing[address]
        text = "too many bearers that are not valid came from this address"
        return Fault(429, INVALID_REQUEST, text, headers=headers)
