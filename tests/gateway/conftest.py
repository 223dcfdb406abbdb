"""One whole system for the gateway's tests: two gateways, two routers, real upstreams of every kind."""

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest_asyncio
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from system import System

UPSTREAM = str(Path(__file__).parents[1] / "upstreams" / "everything.py")


class Upstream:
    """The SDK fixture over HTTP."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}/mcp"


@asynccontextmanager
async def http_upstream(*options: str):
    process = await asyncio.create_subprocess_exec(
        sys.executable, UPSTREAM, "--port", "0", *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            port = int(await process.stdout.readline())
        yield Upstream(process, port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def system(tmp_path_factory):
    """Projects: `dual`, `old`, `new` and `pipe` have one server each (HTTP of both eras, of one, stdio); `many` has all."""
    running = System(tmp_path_factory.mktemp("system"))
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


@asynccontextmanager
async def sdk_client(url: str, token: str, mode: str, **options):
    """The official SDK's client, in one era."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, **options) as client,
    ):
        yield client
