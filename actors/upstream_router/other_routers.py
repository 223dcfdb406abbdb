"""What is heard of servers here, told to the other routers; and what they have heard, told here."""

from collections.abc import Callable
from contextlib import suppress

from mcpctl.bus.connection import Bus, Delivery, Tasks
from mcpctl.bus.contracts.catalog import UpstreamServer
from mcpctl.bus.errors import BadRequest, BusError
from mcpctl.bus.frames import heard_subject
from mcpctl.bus.identity import site_of
from mcpctl.bus.router_frames import Heard, decode, encode

Hear = Callable[[Heard, bytes], None]


class OtherRouters:
    """The routers beside this one, of its own site. `on_heard` hears what they tell."""

    def __init__(self, bus: Bus, router: str) -> None:
        self._bus, self._router, self._site = bus, router, site_of(bus.caller)
        self._subject = heard_subject(self._site, bus.caller)
        self._tasks = Tasks()
        self.on_heard: list[Hear] = []

    async def open(self) -> None:
        await self._bus.receive(heard_subject(self._site, "*"), self._take)

    def tell(self, server: UpstreamServer, kind: str, uri: str, message: bytes) -> None:
        """Tell of a changed list, or of a resource. A server that keeps state for each session is nobody else's."""
        if server.isolation == "shared" and server.placement == self._site and not self._tasks.full:
            heard = Heard(self._router, server.name, server.revision, kind, uri)
            self._tasks.start(self._send(encode(heard, message)))

    async def _send(self, data: bytes) -> None:
        with suppress(BusError):
            await self._bus.send(self._subject, data)

    async def _take(self, msg: Delivery) -> None:
        try:
            heard, message = decode(msg.data)
        except BadRequest:
            return
        if heard.router != self._router:
            for hear in self.on_heard:
                hear(heard, message)

    async def close(self) -> None:
        await self._tasks.cancel()
