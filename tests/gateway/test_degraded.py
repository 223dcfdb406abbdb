"""A system that lacks a part: what still works, and how soon the rest is refused."""

import asyncio
import time

import aiohttp
import pytest_asyncio

from tests.gateway.peers import http_upstream
from tests.gateway.test_edge import headers, modern
from tests.system import CONTROL_PLANE, System


@pytest_asyncio.fixture
async def without_audit(tmp_path):
    system = System(tmp_path)
    try:
        await system.start("token", "rbac", "catalog", "session")
        async with http_upstream() as upstream:
            await system.server("one", url=upstream.url)
            await system.project("p", "one")
            yield system, await system.gateway()
    finally:
        await system.stop()


async def test_without_an_audit_sink_calls_go_on_and_without_a_bus_they_are_refused_at_once(without_audit):
    system, url = without_audit
    bearer = await system.token("p", "agent", "role:run,resource:servers")
    async with asyncio.timeout(60), aiohttp.ClientSession(base_url=url) as http:
        async with http.get("/readyz") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "degraded")
        call = modern("tools/call", name="echo", arguments={"text": "x"})
        sent = headers(bearer, "tools/call", Mcp_Name="echo")
        async with http.post("/projects/p/mcp", json=call, headers=sent) as answer:
            assert answer.status == 200

        await system.nats.stop()
        status, took = 0, 0.0
        while status != 503:
            started = time.perf_counter()
            async with http.post("/projects/p/mcp", json=call, headers=sent) as answer:
                status = answer.status
            took = time.perf_counter() - started
        assert took < 1.5  # at once: not the seconds of a lease, nor the minutes of a call
        async with http.get("/readyz") as answer:
            assert answer.status == 503


async def test_a_second_process_of_all_actors_takes_over_from_one_that_is_killed(tmp_path):
    system = System(tmp_path)
    try:
        await system.start()
        await system.run("actors-2", "mcpctl.actors", *CONTROL_PLANE)
        async with http_upstream() as upstream:
            await system.server("one", url=upstream.url)
            await system.project("p", "one")
            url = await system.gateway()
            await system.parts["actors"].kill()
            async with asyncio.timeout(60), aiohttp.ClientSession(base_url=url) as http:
                bearer = await system.token("p", "agent", "role:run,resource:servers")
                call = modern("tools/call", name="echo", arguments={"text": "x"})
                sent = headers(bearer, "tools/call", Mcp_Name="echo")
                async with http.post("/projects/p/mcp", json=call, headers=sent) as answer:
                    assert answer.status == 200
    finally:
        await system.stop()
