"""What calls feel when servers of the bus die, freeze, or are restarted in turn: one of each part, three servers."""

import asyncio
import json
import time

import pytest

from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import audit, token
from mcpctl.bus.identity import ActorIdentity
from tests.bench.failover import Load

pytestmark = pytest.mark.asyncio(loop_scope="session")

IN_FLIGHT = 4.0
"""Seconds after a fault in which a request that is lost has begun: two to notice a frozen server, on a busy machine."""

WORKERS = 2


class Traffic(Load):
    """Calls and old-era sessions; `lost` are the requests that failed, by when they began after the fault."""

    def __init__(self, system):
        super().__init__([system.url], "p", system.token_of_p, "count_up")

    async def __aenter__(self):
        self.start(WORKERS, 0.2)
        while len(self.calls.answers) < 5 or len(self.sessions.answers) < 2:
            await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_):
        await self.stop()

    @property
    def failed(self):
        return [request for request in self.calls.requests + self.sessions.requests if request[2] != 200]

    async def answered(self, count=5):
        """Return when so many more calls and sessions have been answered well: all is as before."""
        wanted = [(seen, len(seen.answers) + count) for seen in (self.calls, self.sessions)]
        give_up = time.monotonic() + 60
        while any(len(seen.answers) < number for seen, number in wanted):
            assert time.monotonic() < give_up, (self.calls.texts, self.sessions.texts)
            await asyncio.sleep(0.05)


def count_of(answer):
    text = answer.partition("data: ")[2].splitlines()[0] if answer.startswith(("event:", "data:", "id:")) else answer
    result = json.loads(text)["result"]
    return result.get("structuredContent", {}).get("count")


async def nothing_was_done_twice_or_forgotten(system, load):
    """Each answer has its own number, what ran without an answer is among the failures, and all is in the ledger."""
    counts = [count for answer in load.calls.answers + load.sessions.answers if (count := count_of(answer)) is not None]
    assert len(set(counts)) == len(counts)
    assert max(counts) - min(counts) + 1 - len(counts) <= len(load.failed)
    recorded, give_up = 0, time.monotonic() + 30
    while recorded < max(counts):
        assert time.monotonic() < give_up, (recorded, max(counts))
        await asyncio.sleep(0.1)
        asked = audit.GetUsage(bearer=system.bearer, project="p", kinds=("call",))
        usage = await system.operator.call(audit.usage, asked)
        recorded = sum(use.count for use in usage.items if use.method == "tools/call" and use.outcome == "allow")
    verified = await system.operator.call(audit.verify, audit.Verify(bearer=system.bearer))
    assert (verified.checked > 0, verified.faults) == (True, ())


async def test_a_question_that_is_lost_with_its_server_is_asked_again_as_soon_as_there_is_another(system, monkeypatch):
    monkeypatch.setattr("mcpctl.bus.connection.AGAIN", 60.0)
    node = await system.cluster.leader()
    bus = await Bus.connect(system.nats.url, ActorIdentity("router", system.nats.keys, ca=system.ca))
    while bus.client.connected_url.port != node.port:
        await bus.close(grace=0)
        bus = await Bus.connect(system.nats.url, ActorIdentity("router", system.nats.keys, ca=system.ca))
    node.freeze()
    asked = asyncio.create_task(bus.call(token.resolve, token.ResolveBearer(bearer=system.token_of_p), timeout=30))
    await asyncio.sleep(0)  # it is on its way to a server that will never read it
    await node.kill()
    try:
        assert (await asked).principal.name == "agent"
    finally:
        await bus.close(grace=0)
        await node.start()
        await system.cluster.whole()


async def test_the_leader_of_everything_is_killed_and_only_what_was_under_way_fails(system):
    cluster = system.cluster
    node = await cluster.leader()
    for stream in ("AUDIT", "KV_sessions", "KV_owners"):
        await cluster.lead(stream, node)
    async with Traffic(system) as load:
        at = time.monotonic()
        await node.kill()
        await load.answered()
        await node.start()
        await cluster.whole()
        await load.answered()

    assert all(began < at + IN_FLIGHT for began, _, _ in load.failed), (load.calls.texts, load.sessions.texts)
    assert len(load.failed) <= 3 * (WORKERS + 1)
    await nothing_was_done_twice_or_forgotten(system, load)


async def test_a_frozen_server_is_left_within_seconds(system):
    cluster = system.cluster
    node = await cluster.leader("AUDIT")
    here = system.operator.client.connected_url
    async with Traffic(system) as load:
        at = time.monotonic()
        node.freeze()
        await load.answered()
        node.resume()
        await cluster.whole()
        await load.answered()

    assert all(began < at + IN_FLIGHT + 1 for began, _, _ in load.failed), (load.calls.texts, load.sessions.texts)
    assert here is not None
    await nothing_was_done_twice_or_forgotten(system, load)


async def test_servers_are_restarted_in_turn_and_no_request_is_lost(system):
    cluster = system.cluster
    async with Traffic(system) as load:
        for node in cluster.nodes:
            await node.retire()
            await node.start()
            await cluster.whole()
        await load.answered()

    assert load.failed == [], (load.calls.texts, load.sessions.texts)
    await nothing_was_done_twice_or_forgotten(system, load)


async def test_without_a_majority_calls_are_refused_with_a_reason_and_come_back_by_themselves(system):
    cluster = system.cluster
    first, second, _ = cluster.nodes
    async with Traffic(system) as load:
        await asyncio.gather(first.kill(), second.kill())
        async with asyncio.timeout(30):
            while not (refused := [text for text in load.calls.texts if "does not acknowledge events" in text]):
                await asyncio.sleep(0.1)
        began = len(load.calls.requests)
        await asyncio.sleep(1)
        assert all(status == 503 and took < 1 for _, took, status in load.calls.requests[began + WORKERS :])
        await first.start()
        await load.answered()
        await second.start()
        await load.answered()

    assert refused[0].startswith("503")
    await nothing_was_done_twice_or_forgotten(system, load)
