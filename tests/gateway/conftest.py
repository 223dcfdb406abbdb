"""One whole system for the gateway's tests: two gateways, two routers, real upstreams of every kind."""

import sys

import pytest_asyncio

from mcpctl.cli.nats_server import free_port
from tests.gateway.peers import UPSTREAM, http_upstream
from tests.system import System, WebsocketServer


@pytest_asyncio.fixture(loop_scope="session")
async def system(running_system):
    """The whole system, with the operator's connection alive: its loop stood still while tests of other loops ran."""
    await running_system.wake()
    return running_system


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def running_system(tmp_path_factory):
    """Projects `dual`, `old`, `new` (HTTP) and `pipe` (stdio) have one server each; `many` has three."""
    running = System(tmp_path_factory.mktemp("system"))
    running.nats = WebsocketServer(running.folder / "nats", free_port())
    try:
        await running.start()
        await running.run("router-2", "mcpctl.actors", "router")
        running.urls = [await running.gateway("gateway"), await running.gateway("gateway-2")]
        async with (
            http_upstream() as dual,
            http_upstream("--legacy-only") as old,
            http_upstream("--modern-only") as new,
        ):
            for name, upstream in (("dual", dual), ("old", old), ("new", new)):
                await running.server(name, url=upstream.url)
                await running.project(name, name)
            await running.server("pipe", command=(sys.executable, UPSTREAM, "--stdio"))
            await running.project("pipe", "pipe")
            await running.project("many", "dual", "old", "pipe")
            running.tokens = {
                project: await running.token(project, "agent", "role:run,resource:servers")
                for project in ("dual", "old", "new", "pipe", "many")
            }
            yield running
    finally:
        await running.stop()
