"""The whole wiring of a gateway."""

import asyncio
from contextlib import suppress

import orjson
from aiohttp import hdrs, web

from mcpctl.bus.connection import Bus, Tasks
from mcpctl.bus.contract import PREFIX
from mcpctl.bus.service import Service
from mcpctl.gateway.certificate import Certificate
from mcpctl.gateway.door import Door
from mcpctl.gateway.endpoint import McpEndpoint
from mcpctl.gateway.health import Health
from mcpctl.gateway.rest.api import RestApi
from mcpctl.gateway.settings import GatewaySettings
from mcpctl.gateway.shedding import Shedding
from mcpctl.gateway.streaming import VOUCHES

FIRST_LEASES_SECONDS = 5.0


class Gateway:
    """An HTTP application on a bus connection: `start` before it serves, `stop` after."""

    def __init__(self, bus: Bus, settings: GatewaySettings, door: Door) -> None:
        self._bus = bus
        self._service = Service("gateway", "Speaks MCP over HTTP to agents")
        counts = self._service.endpoint("mcp", f"{PREFIX}.mcp.*.{bus.caller}", "")
        self._endpoint = McpEndpoint(bus, settings, counts)
        bus.misuse.tell = lambda event: self._endpoint.audit.append_later({"kind": "edge"} | event)
        self._background = Tasks()
        self._health = health = Health(bus, self._endpoint, door)
        self.missing = health.missing
        self.certificate = Certificate(settings.tls_cert) if settings.tls_cert is not None else None
        asked = self._service.endpoint("rest", f"{PREFIX}.*.*.{bus.caller}", "")
        rest = RestApi(bus, self._endpoint.admission, asked)
        self.app = web.Application(client_max_size=settings.body_limit)
        self.addresses, self.shedding = self._endpoint.addresses, Shedding(self._endpoint.plane.turns)
        self.app[VOUCHES] = self._endpoint.vouches
        self.app.on_shutdown.append(self._endpoint.stop_streams)
        self.app.on_response_prepare.append(self._send_away)
        for path in ("/projects/{project}/mcp", "/projects/{project}/servers/{server}/mcp"):
            self.app.router.add_post(path, self._endpoint.post)
            self.app.router.add_get(path, self._endpoint.get, allow_head=False)
            self.app.router.add_delete(path, self._endpoint.delete)
            self.app.router.add_route("*", path, self._endpoint.other)
        self.app.router.add_get("/healthz", health.healthz)
        self.app.router.add_get("/readyz", health.readyz)
        rest.register(self.app.router)
        self.app.router.add_route("*", "/{rest:.*}", _not_found)

    async def start(self) -> None:
        """Follow the feeds; return when a request could be served."""
        followers = (self._endpoint.principals.follower, self._endpoint.sessions.follower)
        for follower in followers:
            await follower.start()
        await self._endpoint.plane.start()
        await self._endpoint.peers.start()
        await self._service.serve(self._bus)
        await self._bus.ready()
        for follower in followers:
            self._background.start(follower.run())
        self._background.start(self._endpoint.plane.sweep())
        self._background.start(self._endpoint.logs.sweep())
        # Without the first leases every answer is 503: give the actors a moment, but do not depend on them.
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LEASES_SECONDS):
                for follower in followers:
                    await follower.first_lease()

    def drain(self) -> None:
        """Go on to serve, but be ready no more, and end each connection with the answer that it gets."""
        self._health.stopping = self.shedding.stopping = True

    async def _send_away(self, _request: web.Request, response: web.StreamResponse) -> None:
        if self._health.stopping:
            response.headers[hdrs.CONNECTION] = "close"
            response.force_close()

    async def stop(self) -> None:
        await self._background.cancel()
        await self._endpoint.close()
        await self._endpoint.audit.close()
        await self._bus.close()


async def _not_found(_request: web.Request) -> web.Response:
    text = "not found: the MCP endpoint of a project is /projects/<project>/mcp, the control plane is /api/v1"
    return web.Response(status=404, body=orjson.dumps({"error": text}), content_type="application/json")
