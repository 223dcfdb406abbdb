"""What a call costs, counted instead of timed: messages on the bus, SQL statements, JSON documents read."""

import asyncio
import json
import signal
import sys
import time
from collections import Counter

import aiohttp
import pytest

from tests.gateway.peers import http_upstream
from tests.gateway.raw_session import RawSession
from tests.gateway.test_edge import headers, modern
from tests.system import System

CALLS, AT_ONCE = 400, 8
PARTS = {"gateway": "mcpctl.gateway", "router": "router", "sink": "audit", "deciding": "session"}

BACKGROUND = {"in": 20, "out": 20, "sql": 45, "json": 20}
"""What a process does a second whether there are calls or not: pulls of feeds, leases, pings."""

ON_THE_WAY = {"gateway": {"in": 1, "out": 1}, "router": {"in": 2, "out": 2}, "deciding": {"in": 0, "out": 0, "sql": 0}}
"""A request and its answer; at the router also an audit message and its acknowledgement, which calls may share.

Where a machine is so busy that a call takes 50 ms, one more says that it was accepted.
"""

PARSED = {"legacy": {"gateway": 4, "router": 10, "sink": 2}, "modern": {"gateway": 3, "router": 7, "sink": 2}}
"""JSON documents that are read for one call, the small ones of the bus included."""

NOISE = 0.25


class Counted:
    """A system whose processes count."""

    def __init__(self, system, folder):
        self.system, self.folder = system, folder

    async def counts(self) -> dict[str, Counter]:
        found = {}
        for part, word in PARTS.items():
            path = self.folder / f"counted-{word}"
            path.unlink(missing_ok=True)
            self.system.parts[part].process.send_signal(signal.SIGUSR1)
            async with asyncio.timeout(10):
                while not path.exists():
                    await asyncio.sleep(0.01)
            found[part] = Counter(json.loads(path.read_text()))
        return found

    async def cost(self, call) -> tuple[dict[str, Counter], float]:
        """Return what `CALLS` calls cost, by part, and the seconds that they took, without what the first ones do."""
        for _ in range(AT_ONCE):
            await call()
        before, began = await self.counts(), time.monotonic()

        async def some():
            for _ in range(CALLS // AT_ONCE):
                await call()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(some())
        after, seconds = await self.counts(), time.monotonic() - began
        return {part: after[part] - before[part] for part in PARTS}, seconds


@pytest.fixture
async def counted(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.cost.counted "$@"\n')
    python.chmod(0o700)
    monkeypatch.setenv("COUNTED", str(tmp_path / "counted"))
    monkeypatch.delenv("MCPCTL_TEST_DATABASE", raising=False)  # statements are counted in SQLite's driver
    system = System(tmp_path, python=str(python))
    async with http_upstream() as upstream:
        try:
            await system.start("token", "rbac", "catalog", "session")
            system.parts["deciding"] = system.parts["actors"]
            await system.run("sink", "mcpctl.actors", "audit")
            system.urls = [await system.gateway()]
            await system.server("echo", url=upstream.url)
            await system.project("web", "echo")
            system.tokens = {"web": await system.token("web", "agent", "role:run,resource:servers")}
            yield Counted(system, tmp_path)
        finally:
            await system.stop()


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_call_costs_one_hop_and_no_statement_before_its_answer(counted, era):
    system = counted.system
    async with aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "web")
        url = session.url(0)
        body = modern("tools/call", name="echo", arguments={"text": "x"})
        sent = headers(system.tokens["web"], "tools/call", Mcp_Name="echo")

        async def call():
            async with (
                session.call("echo", text="x") if era == "legacy" else http.post(url, json=body, headers=sent) as answer
            ):
                assert answer.status == 200
                assert b'"x"' in await answer.read()

        cost, seconds = await counted.cost(call)

    def a_call(part: str, what: str) -> float:
        """Return how many of these a call costs, without what there is when nobody calls."""
        return max(cost[part][what] - BACKGROUND[what] * seconds, 0) / CALLS

    for part, limits in ON_THE_WAY.items():
        for what, limit in limits.items():
            assert a_call(part, what) <= limit + NOISE, (part, what, cost, seconds)
    for part, limit in PARSED[era].items():
        assert a_call(part, "json") <= limit + NOISE, (part, cost, seconds)
    assert cost["gateway"]["sql"] == cost["router"]["sql"] == 0
    assert cost["sink"]["sql"] <= 11 * cost["sink"]["commits"]
