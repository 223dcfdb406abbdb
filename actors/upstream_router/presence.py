"""The signs of life of a site's router: each second, with what it says of the servers that it reaches."""

import asyncio
from contextlib import suppress

import structlog

from mcpctl.actors.upstream_router.server_states import ServerStates
from mcpctl.bus.connection import Bus
from mcpctl.bus.errors import BusError
from mcpctl.bus.frames import PRESENT_EVERY, present_subject
from mcpctl.bus.identity import site_of

log = structlog.get_logger()

REFUSED_FOR = 5.0
"""Seconds for which the bus may refuse the credential; then the process ends, for whoever started it to see."""


class Presence:
    """Tells the routers of the default group that this one is there; nothing where it is one of them itself."""

    def __init__(self, bus: Bus, states: ServerStates) -> None:
        self._bus, self._states = bus, states
        self._site = site_of(bus.caller)
        self._subject = present_subject(self._site, bus.caller)

    async def run(self) -> None:
        """For ever: tell. The connection is given up where the bus does not accept the credential any more."""
        away = 0.0
        while self._site:
            with suppress(BusError):
                await self._bus.send(self._subject, self._states.all().model_dump_json().encode())
            await asyncio.sleep(PRESENT_EVERY)
            away = 0.0 if self._bus.client.is_connected else away + PRESENT_EVERY
            if away >= REFUSED_FOR and "authorization" in str(self._bus.client.last_error).lower():
                log.error("the bus does not accept this router's credential", site=self._site)
                await self._bus.client.close()
                return

    async def leave(self) -> None:
        """Tell that this router takes nothing any more."""
        if self._site:
            with suppress(BusError):
                await self._bus.send(self._subject, b"")
