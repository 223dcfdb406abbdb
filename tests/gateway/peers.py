"""What stands at the two ends: the SDK's client in one era, and the SDK's server over HTTP."""

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

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


@asynccontextmanager
async def sdk_client(url: str, token: str, mode: str, **options):
    """The official SDK's client, in one era."""
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, **options) as client,
    ):
        yield client
