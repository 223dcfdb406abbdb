"""Where clients connect: behind round robin over two gateways, or, to try the script itself, straight to a server."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest_asyncio

from tests.gateway.peers import http_upstream
from tests.injector import injecting
from tests.node import installed
from tests.system import System

UPSTREAMS = {"dual": (), "old": ("--legacy-only",), "new": ("--modern-only",)}


@dataclass(frozen=True)
class Endpoint:
    """Where a client connects, and the bearer that it sends: none straight to a server."""

    url: str
    token: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class Place(NamedTuple):
    """What stands at an endpoint: the servers behind it take one request each in turn."""

    targets: list[str]
    path: str
    token: str = ""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def places(tmp_path_factory):
    """The projects `dual`, `old` and `new`, each of one server of that kind; `straight` is the server of `dual`."""
    system = System(tmp_path_factory.mktemp("system"))
    found = {}
    try:
        await system.start()
        await system.run("router-2", "mcpctl.actors", "router")
        gateways = [await system.gateway("gateway"), await system.gateway("gateway-2")]
        async with AsyncExitStack() as stack:
            for name, options in UPSTREAMS.items():
                upstream = await stack.enter_async_context(http_upstream(*options))
                found.setdefault("straight", Place([upstream.url], "/mcp"))
                await system.server(name, url=upstream.url)
                await system.project(name, name)
                token = await system.token(name, "agent", "role:run,resource:servers")
                found[name] = Place(gateways, f"/projects/{name}/mcp", token)
            yield found
    finally:
        await system.stop()


@pytest_asyncio.fixture(loop_scope="session", params=["straight", *UPSTREAMS])
async def endpoint(request, places):
    """Each place in turn; what is answered there is held against the protocol's schema."""
    place = places[request.param]
    async with injecting(place.targets) as injector:
        yield Endpoint(injector.url + place.path, place.token)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def npm_clients(pytestconfig):
    """The folder in which the npm packages of `node/package-lock.json` are installed."""
    return await installed(Path(__file__).parent / "node", pytestconfig.cache.mkdir("node"))
