"""Tells the TokenRegistry what bearers are used for: coarsely, and beside the calls."""

import time
from collections import OrderedDict

import structlog

from mcpctl.actors.upstream_router.call import Call
from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError

log = structlog.get_logger()

EVERY = 60.0
"""Seconds between two reports of one kind on one bearer."""

REMEMBERED = 10_000
"""Reports of which the time is remembered; one more, and the oldest is forgotten."""


class Uses:
    """Reports the first list and the first call of a bearer in a minute."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._told: OrderedDict[tuple[str, bool], float] = OrderedDict()

    def note(self, call: Call, tool: str | None = None) -> None:
        """Report that a call's bearer was used, for a tool (`server/tool`) or a method, if it is time."""
        key, now = (digest(call.head.bearer), tool is None), time.monotonic()
        told = self._told.get(key)
        if (told is not None and now - told < EVERY) or self._bus.tasks.full:
            return
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        self._bus.tasks.start(self._tell(key, call, None if tool is None else tool[:400]))

    async def _tell(self, key: tuple[str, bool], call: Call, tool: str | None) -> None:
        used = token.UsedToken(bearer=call.head.bearer, gateway=call.caller[:200], tool=tool)
        try:
            await self._bus.call(token.used, used)
        except BusError as error:
            self._told.pop(key, None)  # the next use is reported
            log.warning("use not reported", error=str(error))
