"""Every client era with every upstream era, feature by feature: one test for each cell of the table in the docs."""

import asyncio
import sys

import pytest
import pytest_asyncio

from tests.conformance import features, unbridged
from tests.conformance.cells import CLIENTS, FEATURES, UNBRIDGED, UPSTREAMS
from tests.conformance.features import Cell
from tests.gateway.peers import UPSTREAM, http_upstream
from tests.system import System

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

CELL_SECONDS = 15


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(tmp_path_factory):
    """Two gateways and one router: over stdio, each router has a process of its own, and changes are the process's."""
    running = System(tmp_path_factory.mktemp("matrix"))
    try:
        await running.start()
        running.urls = [await running.gateway(), await running.gateway("gateway-2")]
        async with (
            http_upstream("--legacy-only") as old,
            http_upstream("--modern-only") as new,
            http_upstream() as dual,
        ):
            for name, upstream in (("old", old), ("new", new), ("dual", dual)):
                await running.server(name, url=upstream.url)
            await running.server("stdio", command=(sys.executable, UPSTREAM, "--stdio"))
            running.tokens = {}
            for name in UPSTREAMS:
                await running.project(name, name)
                running.tokens[name] = await running.token(name, "agent", "role:run,resource:servers")
            yield running
    finally:
        await running.stop()


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("upstream", UPSTREAMS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_it_works(system, client, upstream, feature):
    async with asyncio.timeout(CELL_SECONDS):
        await getattr(features, feature)(Cell(system, upstream, client))


@pytest.mark.parametrize("what", UNBRIDGED)
async def test_it_is_refused_where_it_cannot_be_bridged(system, what):
    async with asyncio.timeout(CELL_SECONDS):
        await getattr(unbridged, what)(system)
