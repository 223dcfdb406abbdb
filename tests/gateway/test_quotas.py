"""Quotas of projects and tokens, through two gateways and two routers: exactly as many as there may be."""

import asyncio
import json
import re
from contextlib import asynccontextmanager
from itertools import count, cycle

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus.connection import cancel
from mcpctl.bus.contracts import audit, catalog, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.mcp_client import MODERN
from mcpctl.bus.quotas import Quota
from tests.gateway.raw_session import RawSession
from tests.gateway.test_edge import headers, modern
from tests.upstreams.raw_http import serving, whole

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAMES = count()
MORE = re.compile(r"; (\d+) more like this within a second")


class Holding:
    """A stateless server whose tool `hold` answers when the test says so; it counts what runs."""

    def __init__(self):
        self.running = self.begun = 0
        self.changed, self.go_on = asyncio.Condition(), asyncio.Event()

    async def __call__(self, peer):
        while (request := await peer.request()) is not None:
            result = {"content": [{"type": "text", "text": "well"}], "resultType": "complete"}
            if request.method == "server/discover":
                result = {"supportedVersions": [MODERN], "capabilities": {"tools": {"listChanged": True}}}
            elif request.method == "tools/call" and request.message["params"]["name"] == "hold":
                await self._hold(peer)
            body = {"jsonrpc": "2.0", "id": request.message["id"], "result": result}
            await peer.send(whole(json.dumps(body).encode()))

    async def _hold(self, peer):
        await self._count(1)
        gone, released = asyncio.create_task(peer.until_hung_up()), asyncio.create_task(self.go_on.wait())
        try:
            await asyncio.wait({gone, released}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                raise ConnectionError
        finally:
            await cancel(gone, released)
            await self._count(-1)

    async def _count(self, change):
        async with self.changed:
            self.running += change
            self.begun += max(0, change)
            self.changed.notify_all()

    async def until(self, running):
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: self.running == running)

    def release(self):
        self.go_on.set()
        self.go_on = asyncio.Event()


class Agent:
    """A token of a project, used through each gateway in turn."""

    def __init__(self, system, http, project, bearer):
        self.system, self.http, self.project, self.bearer = system, http, project, bearer
        self.urls = cycle(system.urls)

    async def call(self, tool="well"):
        """Return the status of a call, and what was said about it: the text of its error, or of its result."""
        body, sent = modern("tools/call", name=tool, arguments={}), headers(self.bearer, "tools/call", Mcp_Name=tool)
        async with self.http.post(f"{next(self.urls)}/projects/{self.project}/mcp", json=body, headers=sent) as answer:
            said = await answer.json()
            if answer.status == 429:
                assert int(answer.headers["Retry-After"]) >= 1
                assert said["error"]["code"] == -32600
            return answer.status, said["error"]["message"] if "error" in said else said["result"]["content"][0]["text"]

    async def calls(self, times, tool="well"):
        """Return what became of calls that were made at once."""
        return await asyncio.gather(*(self.call(tool) for _ in range(times)))

    async def listen(self):
        body = modern("subscriptions/listen", notifications={"toolsListChanged": True})
        sent = headers(self.bearer, "subscriptions/listen")
        return await self.http.post(f"{next(self.urls)}/projects/{self.project}/mcp", json=body, headers=sent)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def holding(running_system):
    await running_system.wake()
    server = Holding()
    async with serving(server) as raw:
        await running_system.server("holding", url=raw.url.partition("?")[0])
        yield server


@asynccontextmanager
async def agent(system, quota, token_quota=None):
    project = f"limited-{next(NAMES)}"
    await system.project(project, "holding", quota=quota, pin_tools=False)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        bearer = await system.token(project, "agent", "role:run,resource:servers", quota=token_quota)
        yield Agent(system, http, project, bearer)


def refusals(answers):
    assert {status for status, _ in answers} <= {200, 429}, answers
    return [said for status, said in answers if status == 429]


async def test_of_many_requests_at_once_the_burst_passes_whichever_way_they_take(system, holding):
    async with agent(system, {"requests_per_second": 0.1, "burst": 7}) as limited:
        said = refusals(await limited.calls(40))

        assert len(said) == 40 - 7
        assert set(said) == {f"project {limited.project} is at its quota of 0.1 requests a second"}


async def test_calls_that_run_at_the_same_time_are_counted_over_all_routers(system, holding):
    async with agent(system, {"concurrent_calls": 5}) as limited:
        running = asyncio.gather(*(limited.call("hold") for _ in range(5)))
        await holding.until(5)
        said = refusals(await limited.calls(10))
        assert said == [f"project {limited.project} is at its quota of 5 concurrent calls"] * 10

        holding.release()
        assert await running == [(200, "well")] * 5
        many = [asyncio.create_task(limited.call("hold")) for _ in range(30)]
        async with asyncio.timeout(10):
            while sum(call.done() for call in many) < 25:
                await asyncio.wait([call for call in many if not call.done()], return_when=asyncio.FIRST_COMPLETED)
        await holding.until(5)
        holding.release()
        assert len(refusals(await asyncio.gather(*many))) == 25, "exactly five of those that came at once"


async def test_one_call_after_the_other_is_never_one_too_many(system, holding):
    async with agent(system, {"concurrent_calls": 1}, {"concurrent_calls": 1}) as limited:
        for _ in range(60):
            assert await limited.call() == (200, "well")


async def test_a_call_whose_client_hangs_up_is_not_counted_any_more(system, holding):
    async with agent(system, {"concurrent_calls": 1}) as limited:
        left = asyncio.create_task(limited.call("hold"))
        await holding.until(1)
        left.cancel()
        await holding.until(0)
        async with asyncio.timeout(10):
            while (await limited.call())[0] != 200:
                pass


async def test_streams_are_counted_over_all_gateways_and_one_that_ends_makes_room(system, holding):
    async with agent(system, {"streams": 2}) as limited:
        streams = [await limited.listen() for _ in range(2)]
        assert [stream.status for stream in streams] == [200, 200]
        third = await limited.listen()
        assert third.status == 429
        assert "is at its quota of 2 open streams" in await third.text()
        assert await limited.call() == (200, "well"), "calls are counted for themselves"

        streams[0].close()
        async with asyncio.timeout(10):
            while (again := await limited.listen()).status != 200:
                again.close()
        streams[1].close()
        again.close()


async def test_the_stream_of_a_session_counts_as_one_when_it_is_opened_again(system, holding):
    async with agent(system, {"streams": 1}) as limited:
        session = await RawSession.open(limited.http, system, limited.project, bearer=limited.bearer)
        first = await session.get()
        assert first.status == 200
        second = await session.get(gateway=1)
        assert second.status == 200, await second.text()
        other = await RawSession.open(limited.http, system, limited.project, bearer=limited.bearer)
        third = await other.get()
        assert third.status == 429
        for stream in (first, second, third):
            stream.close()


async def test_a_tokens_children_count_as_the_token_and_each_quota_is_told_by_its_name(system, holding):
    async with agent(system, None) as maker:
        bindings = ("role:run,resource:servers", "role:create,resource:mcptokens")
        parent = await system.token(maker.project, "parent", *bindings, quota={"requests_per_second": 0.1, "burst": 6})
        child = await token_of(system, parent, maker.project, "child", {"requests_per_second": 0.1, "burst": 4})
        elder, younger = (Agent(system, maker.http, maker.project, bearer) for bearer in (parent, child))

        assert set(refusals(await younger.calls(8))) == {"token child is at its quota of 0.1 requests a second"}
        said = refusals(await elder.calls(8))
        assert said == ["token parent is at its quota of 0.1 requests a second"] * 6, "four of six were the child's"
        assert len(refusals(await maker.calls(20))) == 0


async def token_of(system, maker, project, name, quota):
    issue = token.IssueToken(
        bearer=maker,
        project=project,
        name=name,
        bindings=(Binding.parse("role:run,resource:servers"),),
        quota=Quota.model_validate(quota),
    )
    return (await system.operator.call(token.issue, issue)).bearer


async def test_a_quota_that_is_changed_or_taken_away_counts_at_once(system, holding):
    async with agent(system, {"requests_per_second": 0.1, "burst": 1}) as limited:
        assert len(refusals(await limited.calls(5))) == 4
        await change(system, limited.project, {"concurrent_calls": 100})
        assert refusals(await limited.calls(20)) == []
        await change(system, limited.project, {"concurrent_calls": 0})
        assert len(refusals(await limited.calls(5))) == 5
        await change(system, limited.project, None)
        assert refusals(await limited.calls(20)) == []


async def change(system, project, quota):
    known = await system.operator.call(catalog.get_project, catalog.GetProject(bearer=system.bearer, name=project))
    spec = known.spec.model_copy(update={"quota": None if quota is None else Quota.model_validate(quota)})
    edit = catalog.EditProject(bearer=system.bearer, spec=spec, revision=known.revision)
    await system.operator.call(catalog.edit_project, edit)


async def test_a_flood_of_refusals_is_few_events_that_count_them_all(system, holding):
    async with agent(system, {"requests_per_second": 0.1, "burst": 1}) as limited:
        refused = len(refusals(await limited.calls(100) + await limited.calls(101)))
        about = audit.Filter(project=limited.project, outcome="deny")
        query = audit.Query(bearer=system.bearer, filter=about)
        async with asyncio.timeout(20):
            counted = 0
            while counted < refused:
                events = [entry.event for entry in (await system.operator.call(audit.query, query)).items]
                counted = sum(int(MORE.search(event.detail)[1]) if MORE.search(event.detail) else 1 for event in events)
        assert counted == refused
        assert len(events) <= 12
        assert {(event.rule, event.token_name, event.method) for event in events} == {("quota", "agent", "tools/call")}


async def test_when_the_router_that_counts_dies_the_next_one_knows_what_is_held(system, holding):
    """The oldest router counts; what runs at the other goes on, and counts."""
    async with agent(system, {"concurrent_calls": 16}) as limited:
        calls = [asyncio.create_task(limited.call("hold")) for _ in range(16)]
        await holding.until(16)
        await system.parts["router"].kill()
        try:
            # What it carried out is over for the server at once, and for its callers when they have missed its beats.
            async with asyncio.timeout(20):
                while not any(call.done() for call in calls) or sum(c.done() for c in calls) + holding.running != 16:
                    await asyncio.wait(calls, timeout=0.1)
                while (await limited.call())[0] == 503:
                    pass
            left = holding.running
            more = [asyncio.create_task(limited.call("hold")) for _ in range(20)]
            await holding.until(16)
            while waiting := [call for call in more if not call.done()]:
                if len(waiting) == 16 - left:
                    break
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert len(refusals([call.result() for call in more if call.done()])) == 20 - (16 - left)
        finally:
            await system.run("router", "mcpctl.actors", "router")
        holding.release()
        await asyncio.gather(*calls, *more)
