"""Servers with `isolation: session`: one state for a session, at one router, whichever gateway and router are asked."""

import asyncio
import os
import select
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus.contracts.session import ROUTER_LEASE
from tests.gateway.raw_session import RawSession, last_message
from tests.installation import parent_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNTING = str(Path(__file__).parents[1] / "upstreams" / "counting.py")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def counting(running_system):
    """The project `counting` has a server that counts, a process for each session."""
    await running_system.wake()
    command = (sys.executable, COUNTING)
    await running_system.server("counting", command=command, isolation="session")
    await running_system.project("counting", "counting")
    token = await running_system.token("counting", "agent", "role:run,resource:servers")
    running_system.tokens["counting"] = token


@pytest_asyncio.fixture(loop_scope="session")
async def http(system, counting):
    async with aiohttp.ClientSession() as session:
        yield session


async def count(session, gateway=0):
    return (await session.asked("count_up", gateway=gateway))["structuredContent"]


async def ended(process):
    """Tell whether a process is over within ten seconds."""
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool((await asyncio.to_thread(select.select, [watched], [], [], 10))[0])
    finally:
        os.close(watched)


async def test_every_call_of_a_session_meets_its_own_state(system, http):
    async with asyncio.timeout(60):
        sessions = [await RawSession.open(http, system, "counting", gateway=n % 2) for n in range(3)]
        for turn in range(1, 9):
            for at, session in enumerate(sessions):
                assert (await count(session, (turn + at) % 2))["count"] == turn
        # Eight calls each over two routers: that chance alone kept them together is one in 2 ** 21.


async def test_calls_at_once_begin_one_state(system, http):
    async with asyncio.timeout(60):
        session = await RawSession.open(http, system, "counting")
        counted = await asyncio.gather(*(count(session, n % 2) for n in range(8)))

        assert sorted(each["count"] for each in counted) == list(range(1, 9))
        assert len({each["process"] for each in counted}) == 1


async def test_ending_the_session_ends_the_state(system, http):
    async with asyncio.timeout(60):
        session = await RawSession.open(http, system, "counting")
        process = (await count(session))["process"]
        async with session.delete(1) as answer:
            assert answer.status == 204

        assert await ended(process)


async def test_a_list_over_several_servers_comes_from_the_process_of_the_session(system, http):
    await system.project("beside", "dual", "counting")
    system.tokens["beside"] = await system.token("beside", "agent", "role:run,resource:servers")
    async with asyncio.timeout(60):
        for turn in range(6):  # that chance alone found the right router each time is one in 4096
            session = await RawSession.open(http, system, "beside", gateway=turn % 2)
            process = (await session.asked("counting__count_up", gateway=turn % 2))["structuredContent"]["process"]
            for gateway in (0, 1):
                async with session.post("tools/list", gateway=gateway) as answer:
                    tools = {tool["name"]: tool for tool in (await last_message(answer))["result"]["tools"]}
                assert "dual__echo" in tools
                assert tools["counting__count_up"]["_meta"]["process"] == process


async def test_a_session_whose_owner_was_killed_is_told_that_it_is_over(system, http):
    async with asyncio.timeout(90):
        sessions = [await RawSession.open(http, system, "counting") for _ in range(12)]
        for session in sessions:
            await count(session)
        await system.parts["router"].kill()
        try:
            fates = [await _fate(session) for session in sessions]
        finally:
            await system.run("router", "mcpctl.actors", "router")

        assert set(fates) <= {"over", 2}
        assert "over" in fates  # twelve sessions, all at the other router by chance: one in 4096
        again = await RawSession.open(http, system, "counting")
        assert (await count(again))["count"] == 1


async def test_a_loss_that_is_known_after_the_stream_has_begun_is_told_on_the_stream(system, http):
    async with asyncio.timeout(60):
        session = await RawSession.open(http, system, "counting")
        parent = parent_of((await count(session))["process"])
        owner = next(name for name in ("router", "router-2") if system.parts[name].process.pid == parent)
        actors = system.parts["actors"].process.pid
        await system.parts[owner].stop()
        try:
            os.kill(actors, signal.SIGSTOP)
            try:
                answer = await session.call("count_up")
            finally:
                os.kill(actors, signal.SIGCONT)
            async with answer:
                said = await last_message(answer)
        finally:
            await system.run(owner, "mcpctl.actors", "router")

        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        assert "is lost: initialize again" in said["error"]["message"]
        assert await _fate(session) == "over"


async def _fate(session):
    """Call until the session is over or answers: in the time of the lease it is only told to come again."""
    for _ in range(2 * ROUTER_LEASE + 10):
        async with session.call("count_up", gateway=1) as answer:
            if answer.status == 404:
                return "over"
            if answer.status == 200:
                said = await last_message(answer)
                if "result" in said:
                    return said["result"]["structuredContent"]["count"]
                continue  # it was told on a stream that had begun
            assert answer.status == 503, await answer.text()
            await asyncio.sleep(int(answer.headers["Retry-After"]) / 2)
    return "no end"
