"""A system that lacks a part: what still works, and how soon the rest is refused."""

import asyncio
import sys
import time
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus import provision
from mcpctl.bus.connection import connect_nats
from mcpctl.bus.contracts import audit, catalog
from mcpctl.bus.errors import BusError, Unavailable
from mcpctl.bus.nats_config import PROVISIONER
from tests.gateway.peers import http_upstream
from tests.gateway.test_edge import headers, modern
from tests.system import CONTROL_PLANE, System

COUNTING = str(Path(__file__).parents[1] / "upstreams" / "counting.py")


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


async def test_without_a_sink_calls_go_on_and_without_the_stream_or_the_bus_they_are_refused_at_once(without_audit):
    system, url = without_audit
    bearer = await system.token("p", "agent", "role:run,resource:servers")
    async with asyncio.timeout(60), aiohttp.ClientSession(base_url=url) as http:
        async with http.get("/readyz") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "degraded")
        call = modern("tools/call", name="echo", arguments={"text": "x"})
        sent = headers(bearer, "tools/call", Mcp_Name="echo")
        async with http.post("/projects/p/mcp", json=call, headers=sent) as answer:
            assert answer.status == 200

        await nothing_is_begun_without_the_stream(system, http)

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


async def nothing_is_begun_without_the_stream(system, http):
    await system.server("counting", command=[sys.executable, COUNTING])
    await system.project("counted", "counting")
    bearer = await system.token("counted", "agent", "role:run,resource:servers")
    call = modern("tools/call", name="count_up", arguments={})
    sent = headers(bearer, "tools/call", Mcp_Name="count_up")

    async def count_up():
        started = time.perf_counter()
        async with http.post("/projects/counted/mcp", json=call, headers=sent) as answer:
            return answer.status, await answer.json(), time.perf_counter() - started

    assert (await count_up())[1]["result"]["structuredContent"]["count"] == 1
    await delete_stream(system.nats)

    waiting = []  # calls that were let in before a second without an acknowledgement was over: no result leaves
    while not (done := await asyncio.wait({task := asyncio.create_task(count_up())}, timeout=0.3))[0]:
        waiting.append(task)
    for status, body, took in [done[0].pop().result(), *[await count_up() for _ in range(5)]]:
        assert status == 503
        assert "audit stream" in str(body)
        assert took < 1
    assert waiting
    assert not any(task.done() for task in waiting)
    with pytest.raises(BusError):
        await system.project("told-that-it-may-have-been-done")
    with pytest.raises(Unavailable, match="nothing was changed"):
        await system.project("not-begun")

    await provision.provision(system.nats.url, system.nats.keys)
    assert {status for status, _, _ in await asyncio.gather(*waiting)} == {200}
    while (last := await count_up())[0] == 503:
        pass
    assert last[1]["result"]["structuredContent"]["count"] == len(waiting) + 2
    found = await system.operator.call(catalog.list_projects, catalog.ListProjects(bearer=system.bearer))
    assert "not-begun" not in {project.spec.name for project in found.items}


async def delete_stream(nats):
    """As the one user who may do anything with streams."""
    client = await connect_nats(
        nats.url,
        on_closed=lambda: None,
        nkeys_seed=str(nats.keys / f"{PROVISIONER}.nk"),
        inbox_prefix=f"_INBOX.{PROVISIONER}".encode(),
    )
    await client.jetstream().delete_stream(audit.STREAM)
    await client.close()


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
