"""Where clients connect: behind round robin over two gateways, or, to try the script itself, straight to a server."""

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.gateway.peers import http_upstream
from tests.injector import injecting
from tests.node import installed
from tests.system import System

pytest.register_assert_rewrite("tests.clients.scenario")

UPSTREAMS = {"dual": (), "old": ("--legacy-only",), "new": ("--modern-only",)}


@dataclass(frozen=True)
class Endpoint:
    """Where a client connects, and the bearer that it sends: none straight to a server."""

    url: str
    token: str = field(default="", repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


class Installation(NamedTuple):
    """The URLs at which it is reached, the bearer of each project by its name, and a server to try a script on."""

    urls: list[str]
    tokens: dict[str, str]
    server: str

    def endpoint(self, project: str, token: str = "") -> Endpoint:
        """Return the endpoint of a project, with its bearer or another one."""
        return Endpoint(f"{self.urls[0]}/projects/{project}/mcp", token or self.tokens[project])


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def installation(tmp_path_factory):
    """The projects `dual`, `old` and `new` have one server each, of that kind; two routers reach them."""
    system, tokens, urls = System(tmp_path_factory.mktemp("system")), {}, {}
    try:
        await system.start()
        await system.run("router-2", "mcpctl.actors", "router")
        gateways = [await system.gateway("gateway"), await system.gateway("gateway-2")]
        async with AsyncExitStack() as stack:
            for name, options in UPSTREAMS.items():
                urls[name] = (await stack.enter_async_context(http_upstream(*options))).url
                await system.server(name, url=urls[name])
                await system.project(name, name)
                tokens[name] = await system.token(name, "agent", "role:run,resource:servers")
            yield Installation(gateways, tokens, urls["dual"])
    finally:
        await system.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def front(installation):
    """The installation behind round robin: each request reaches the next gateway.

    What is sent from there is held against the protocol's schema.
    """
    async with injecting(installation.urls) as injector:
        yield installation._replace(urls=[injector.url])


@pytest.fixture(params=["server", *UPSTREAMS])
def endpoint(request, front):
    """A project of each kind; and a server with no gateway: what fails there is the client's fault, or the script's."""
    return Endpoint(front.server) if request.param == "server" else front.endpoint(request.param)


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def npm_clients(pytestconfig):
    """The folder in which the npm packages of `node/package-lock.json` are installed."""
    return await installed(Path(__file__).parent / "node", pytestconfig.cache.mkdir("node"))
