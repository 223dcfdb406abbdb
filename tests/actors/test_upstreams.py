"""How the router keeps its upstreams: started when asked for, stopped when idle, not started for ever."""

import asyncio
import sys
from pathlib import Path

import pytest

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router.era import NOTHING
from mcpctl.actors.upstream_router.server_logs import ServerLogs
from mcpctl.actors.upstream_router.upstreams import Upstreams
from mcpctl.bus.contracts.catalog import Connection, UpstreamServer
from mcpctl.bus.errors import BadGateway, Unauthenticated, Unavailable

EVERYTHING = (sys.executable, str(Path(__file__).parents[1] / "upstreams" / "everything.py"), "--stdio")
SERVER = UpstreamServer(name="s", slug="s", revision="1", transport="stdio", isolation="shared")
AUTHORITY = ("bearer", "project")


@pytest.fixture
async def upstreams_of():
    made = []

    def make(connection, **settings):
        async def unseal(_server, authority):
            if authority[0] == "revoked":
                raise Unauthenticated("revoked")
            return connection

        made.append(
            Upstreams(
                ActorSettings(**{"upstream_networks": "loopback", "stdio_commands": "*"} | settings),
                unseal,
                ServerLogs("r1", None),
            )
        )
        return made[-1]

    yield make
    for upstreams in made:
        await upstreams.close()


async def test_an_idle_stdio_server_is_stopped_and_started_again_when_asked(upstreams_of):
    upstreams = upstreams_of(Connection(revision="1", command=EVERYTHING), stdio_idle_ms=1000)
    upstream = upstreams.get(SERVER, "", AUTHORITY, "modern", NOTHING)
    async with asyncio.timeout(30):
        await upstream.connected()
        client = upstream._client
        sweeping = asyncio.create_task(upstreams.sweep())
        await client._process.exited.wait()
        sweeping.cancel()

        again = upstreams.get(SERVER, "", AUTHORITY, "modern", NOTHING)
        assert (await again.connected()).era == "modern"
        assert again is not upstream


async def test_a_server_that_keeps_ending_is_left_alone_for_a_while(upstreams_of):
    upstreams = upstreams_of(Connection(revision="1", command=(sys.executable, "-c", "import sys; sys.exit(3)")))
    upstream = upstreams.get(SERVER, "", AUTHORITY, "modern", NOTHING)
    async with asyncio.timeout(30):
        for _ in range(ActorSettings().breaker_failures):
            with pytest.raises(BadGateway, match="exit status 3"):
                await upstream.connected()
        with pytest.raises(Unavailable, match=r"exit status 3.*; not asked for 0 s, tried again in 1 s"):
            await upstream.connected()


async def test_a_start_that_takes_too_long_is_reason_enough_to_leave_a_server_alone(upstreams_of):
    silent = Connection(revision="1", command=(sys.executable, "-c", "import time; time.sleep(60)"))
    upstream = upstreams_of(silent, upstream_start_ms=500).get(SERVER, "", AUTHORITY, "modern", NOTHING)
    async with asyncio.timeout(30):
        both = await asyncio.gather(upstream.connected(), upstream.connected(0.1), return_exceptions=True)
        assert str(both[0]).startswith("server s: no answer to initialize within 0.")
        assert str(both[1]) == "server s is still starting: no connection within 0.1 s"
        with pytest.raises(Unavailable, match="no answer to initialize"):
            await upstream.connected()
    assert upstream.breaker.cause == "slow"


async def test_a_header_that_cannot_be_sent_is_an_error_without_its_value(upstreams_of):
    broken = Connection(revision="1", url="http://127.0.0.1:1/mcp", headers={"X-Key": "s3cret\nInjected: yes"})
    upstream = upstreams_of(broken).get(SERVER, "", AUTHORITY, "modern", NOTHING)

    with pytest.raises(BadGateway) as refused:
        await upstream.connected()
    assert "s3cret" not in str(refused.value)


async def test_a_callers_lack_of_rights_is_no_fault_of_the_server(upstreams_of):
    upstreams = upstreams_of(Connection(revision="1", command=EVERYTHING))
    with pytest.raises(Unauthenticated):
        await upstreams.get(SERVER, "", ("revoked", "project"), "modern", NOTHING).connected()
    upstream = upstreams.get(SERVER, "", AUTHORITY, "modern", NOTHING)

    assert upstream.fault is None
    async with asyncio.timeout(30):
        assert (await upstream.connected()).era == "modern"


async def test_a_newer_revision_ends_the_older_connection(upstreams_of):
    upstreams = upstreams_of(Connection(revision="1", command=EVERYTHING))
    old = upstreams.get(SERVER, "", AUTHORITY, "modern", NOTHING)
    async with asyncio.timeout(30):
        await old.connected()
        process = old._client._process
        new = upstreams.get(SERVER.model_copy(update={"revision": "2"}), "", AUTHORITY, "modern", NOTHING)
        await process.exited.wait()
        assert (await new.connected()).era == "modern"
