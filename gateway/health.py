"""`/healthz` and `/readyz`: whether this process is alive, and whether it could serve a call now."""

import asyncio
import time
from contextlib import aclosing

import orjson
from aiohttp import web

import mcpctl
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import ACTORS
from mcpctl.gateway.door import Door
from mcpctl.gateway.endpoint import McpEndpoint

NEEDED: frozenset[str] = frozenset(ACTORS) - {"audit"}
"""Actors without which no call succeeds. Audit events need only JetStream, so a missing AuditSink degrades."""

PATIENCE = 0.3
KEPT_SECONDS = 1.0


class Health:
    """Asks the bus who is there, at most once a second."""

    def __init__(self, bus: Bus, endpoint: McpEndpoint, door: Door) -> None:
        self._bus, self._endpoint, self._door = bus, endpoint, door
        self.stopping = False
        self._seen: tuple[float, frozenset[str]] | None = None
        self._asking = asyncio.Lock()

    async def healthz(self, _request: web.Request) -> web.Response:
        return _json(200, {"status": "ok", "version": mcpctl.__version__})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Answer 200 where a call could be served now, else 503 with what is missing."""
        missing = await self.missing()
        if missing:
            return _json(503, {"status": "unready", "missing": missing})
        present = await self._present()
        return _json(200, {"status": "ok" if "audit" in present else "degraded", "actors": sorted(present)})

    async def missing(self) -> list[str]:
        """Return what a call would need that is not there."""
        if self.stopping:
            return ["stopping"]
        if not self._bus.client.is_connected:
            return [f"bus ({self._door.reason})" if self._door.reason else "bus"]
        present = await self._present()
        missing: list[str] = sorted(NEEDED - present)
        followers = (self._endpoint.principals.follower, self._endpoint.sessions.follower)
        missing += [f"lease of {follower.feed.actor}" for follower in followers if not follower.trusted]
        if not self._endpoint.audit.healthy:
            missing.append("audit stream")
        return missing

    async def _present(self) -> frozenset[str]:
        async with self._asking:
            if self._seen is None or time.monotonic() - self._seen[0] > KEPT_SECONDS:
                self._seen = (time.monotonic(), await self._ask())
            return self._seen[1]

    async def _ask(self) -> frozenset[str]:
        names: set[str] = set()
        async with aclosing(self._bus.scatter("$SRV.PING", patience=PATIENCE)) as answers:
            async for answer in answers:
                names.add(str(orjson.loads(answer).get("name")))
                if names.issuperset(ACTORS):
                    break
        return frozenset(names)


def _json(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")
