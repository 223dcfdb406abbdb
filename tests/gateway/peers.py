"""What stands at the two ends: the SDK's client in one era, and the SDK's server over HTTP."""

import asyncio
import os
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tests import forked
from tests.injector import injecting

UPSTREAM = str(Path(__file__).parents[1] / "upstreams" / "everything.py")


class Upstream:
    """The SDK fixture over HTTP."""

    def __init__(self, process: forked.Process, port: int) -> None:
        self.process, self.url = process, f"http://127.0.0.1:{port}/mcp"


@asynccontextmanager
async def http_upstream(*options: str, program: str = UPSTREAM):
    argv = (program, "--port", "0", *options)
    read, write = os.pipe()
    with open(read) as said, open(write) as out, open(os.devnull) as nothing:
        process = await asyncio.to_thread(forked.start, forked.UPSTREAM, argv, os.environ, nothing, out, sys.__stderr__)
        out.close()
        try:
            async with asyncio.timeout(20):
                port = int(await asyncio.to_thread(said.readline))
            yield Upstream(process, port)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def sdk_client(url: str, token: str, mode: str, **options):
    """The official SDK's client, in one era; every message that it is sent is held against the protocol's schema."""
    async with observed_client(url, token, mode, **options) as (client, _):
        yield client


@asynccontextmanager
async def observed_client(url: str, token: str, mode: str, **options):
    """The official SDK's client, and the injector through which it speaks."""
    try:
        async with (
            injecting([url], token) as injector,
            httpx2.AsyncClient(timeout=30) as http,
            Client(
                streamable_http_client(injector.url + urlsplit(url).path, http_client=http), mode=mode, **options
            ) as client,
        ):
            yield client, injector
    except BaseExceptionGroup as group:
        raise _leaf(group) from None


def _leaf(error: BaseException) -> BaseException:
    """Return what failed in a test, out of the groups into which the SDK's tasks wrap it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
