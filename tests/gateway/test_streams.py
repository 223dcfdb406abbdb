"""Streams that outlast a request, or a connection: what is heard on them, on which gateway, and how they go on."""

import asyncio
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from urllib.parse import urlsplit

import aiohttp
import pytest

from mcpctl.bus.contracts import token
from tests.gateway.peers import sdk_client
from tests.gateway.raw_session import RawSession, events_of, last_message
from tests.gateway.test_edge import headers, modern

pytestmark = pytest.mark.asyncio(loop_scope="session")

UPSTREAMS = pytest.mark.parametrize("project", ["dual", "old", "new", "pipe"])
OVER_HTTP = pytest.mark.parametrize("project", ["dual", "old", "new"])
GATEWAYS = pytest.mark.parametrize("gateway", [0, 1])
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
LIST_CHANGED = {f"notifications/{noun}/list_changed" for noun in ("tools", "prompts", "resources")}


# --- the GET stream of a session ---


@UPSTREAMS
@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18"])
async def test_a_change_is_heard_wherever_it_was_made(system, project, version):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, project, version=version)
        async with session.get() as stream:
            assert (stream.status, stream.content_type) == (200, "text/event-stream")
            hearing = asyncio.create_task(methods_of(stream, 3))
            # Over stdio each router has a process of its own, and changes one of them.
            while not hearing.done():
                for kind in ("tools", "prompts", "resources"):
                    for _ in range(2):
                        await session.asked("toggle", kind=kind, gateway=1)
                await asyncio.wait({hearing}, timeout=0.5)
            assert await hearing == LIST_CHANGED


@OVER_HTTP
@GATEWAYS
async def test_a_resource_is_heard_of_while_it_is_subscribed(system, project, gateway):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, project)
        async with session.listening() as events:
            async with session.post("resources/subscribe", gateway=gateway, uri="note://today") as answer:
                assert (await answer.json())["result"] == {}
            await session.asked("touch", uri="note://by-name/x")
            heard = await touched(session, events)
            assert (heard.method, heard.message["params"]["uri"]) == (UPDATED, "note://today")

            async with session.post("resources/unsubscribe", gateway=gateway, uri="note://today") as answer:
                assert (await answer.json())["result"] == {}
            await session.asked("touch", uri="note://today")
            await session.asked("toggle", kind="tools")
            await session.asked("toggle", kind="tools")
            async for event in events:
                assert event.method != UPDATED
                if event.method == "notifications/tools/list_changed":
                    break


UPDATED = "notifications/resources/updated"


async def test_what_was_subscribed_before_the_stream_is_heard_on_it(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.post("resources/subscribe", uri="note://today") as answer:
            assert (await answer.json())["result"] == {}
        async with session.listening(1) as events:
            await session.asked("touch", uri="note://today")
            assert (await anext(events)).method == UPDATED


@GATEWAYS
async def test_a_newer_stream_takes_the_place_of_the_older(system, gateway):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.listening() as older, session.listening(gateway) as newer:
            assert [event async for event in older] == []
            await session.asked("toggle", kind="tools")
            await session.asked("toggle", kind="tools")
            assert (await anext(newer)).method == "notifications/tools/list_changed"


async def test_closing_the_session_at_another_gateway_ends_its_stream(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.listening() as events:
            async with session.delete(1) as closed:
                assert closed.status == 204
            assert [event async for event in events] == []
        async with session.get() as refused:
            assert refused.status == 404


async def test_revoking_the_token_ends_every_stream_of_it(system):
    bearer = await system.token("dual", "passing", "role:run,resource:servers")
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual", bearer=bearer)
        async with (
            session.listening() as events,
            listen(http, system, "dual", gateway=1, bearer=bearer) as changes,
            session.call("wait_forever", key="revoked stream") as running,
        ):
            call = events_of(running)
            primed = await anext(call)
            async with session.get(1, primed.id) as resumed:
                rest = events_of(resumed)
                await anext(rest)
                revoke = token.RevokeToken(bearer=system.bearer, project="dual", name="passing")
                await system.operator.call(token.revoke, revoke)
                assert [event async for event in events] == []
                assert "revoked" in [event async for event in changes][-1].message["error"]["message"]
                assert "error" in [event async for event in rest][-1].message
        async with session.get(0, primed.id) as refused:
            assert refused.status == 401


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"Accept": "application/json"}, 406),
        ({"MCP-Protocol-Version": "2026-07-28"}, 405),
        ({"MCP-Protocol-Version": "1999-01-01"}, 405),
        ({"Mcp-Session-Id": "x" * 43}, 404),
    ],
)
async def test_a_stream_is_only_for_a_session_that_takes_one(system, sent, status):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.get(**sent) as refused:
            assert refused.status == status


async def test_another_bearer_gets_no_stream_of_a_session(system):
    bearer = await system.token("dual", "nosy", "role:run,resource:servers")
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.get(Authorization=f"Bearer {bearer}") as refused:
            assert refused.status == 404


# --- subscriptions/listen ---


@OVER_HTTP
@pytest.mark.parametrize("request_id", ["seven", 7])
async def test_every_message_of_a_listen_carries_its_id(system, project, request_id):
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["note://today"]}
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, project)
        async with listen(http, system, project, request_id=request_id, **wanted) as events:
            acknowledged = await anext(events)
            assert acknowledged.method == "notifications/subscriptions/acknowledged"
            assert acknowledged.message["params"]["notifications"] == wanted
            updated = await touched(session, events)
            assert (updated.method, updated.message["params"]["uri"]) == (UPDATED, "note://today")
            for event in (acknowledged, updated):
                named = event.message["params"]["_meta"][SUBSCRIPTION]
                assert (named, type(named)) == (request_id, type(request_id))
                assert not event.id


async def test_a_listen_goes_on_when_its_router_dies(system):
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with listen(http, system, "dual", toolsListChanged=True) as events, session.listening(1) as old_events:
            assert (await anext(events)).method == "notifications/subscriptions/acknowledged"
            for name in ("router", "router-2"):
                await system.parts[name].kill()
                await system.run(name, "mcpctl.actors", "router")
            # The listen began anew at least once: what may have been missed is announced.
            assert (await anext(events)).method == "notifications/tools/list_changed"
            assert (await anext(old_events)).method in LIST_CHANGED


async def test_a_gateway_that_stops_ends_its_streams_in_good_order(system):
    system.urls.append(await system.gateway("gateway-3"))
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            session = await RawSession.open(http, system, "dual")
            async with session.listening(2) as events, listen(http, system, "dual", gateway=2) as changes:
                assert (await anext(changes)).method == "notifications/subscriptions/acknowledged"
                stopping = asyncio.create_task(system.parts["gateway-3"].stop())
                assert [event async for event in events] == []
                last = [event async for event in changes][-1].message
                assert last == {"jsonrpc": "2.0", "id": "L", "result": ANY_END}
                assert await stopping == 0
    finally:
        system.urls.pop()


ANY_END = {"resultType": "complete", "_meta": {SUBSCRIPTION: "L"}}


# --- streams that are resumed ---


async def test_only_the_newest_handshake_revision_is_told_how_to_come_back(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        for version, told in (("2025-11-25", True), ("2025-06-18", False)):
            session = await RawSession.open(http, system, "dual", version=version)
            async with session.call("wait_forever", key=f"primed-{version}", token="p") as running:
                first = await anext(events_of(running))
                assert (bool(first.id), bool(first.retry), first.data == "") == (told, told, told)


async def test_an_answer_that_comes_at_once_is_no_stream(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        kind = None
        while kind != "application/json":  # the first answers wait for the upstream's session
            async with session.call("echo", text="x") as answer:
                kind = answer.content_type


@GATEWAYS
async def test_the_rest_of_a_call_is_read_on_another_connection(system, gateway):
    key = f"resumed-{gateway}"
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.call("has_started", id="a b", key=key) as running:
            primed = await anext(events_of(running))
            running.close()
        async with session.get(gateway, primed.id) as resumed, session.call("wait_forever", id=2, key=key, token=1):
            events = [event async for event in events_of(resumed)]
        assert [event.message for event in events[:-1]] == [None]
        assert events[-1].message["id"] == "a b"
        assert events[-1].message["result"]["structuredContent"] == {"result": True}

        async with session.get(1 - gateway, primed.id) as again:
            assert (await last_message(again)) == events[-1].message


async def test_only_what_came_after_the_last_event_is_sent_again(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.call("count", steps=5, token="p") as running:
            events = [event async for event in events_of(running)]
        for gateway in (0, 1):
            async with session.get(gateway, events[3].id) as resumed:
                rest = [event async for event in events_of(resumed)]
            assert [(event.id, event.data) for event in rest[1:]] == [(event.id, event.data) for event in events[4:]]


@GATEWAYS
async def test_a_stream_is_resumed_in_its_own_session_alone(system, gateway):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        other = await RawSession.open(http, system, "dual")
        async with session.call("count", steps=2, token="p") as running:
            primed = await anext(events_of(running))
        async with other.get(gateway, primed.id) as refused:
            assert refused.status == 400


@GATEWAYS
async def test_a_stream_that_is_not_kept_answers_its_request_with_an_error(system, gateway):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.call("count", id=77, steps=2, token="p") as running:
            primed = await anext(events_of(running))
        holder, _, rest = primed.id.split(".", 2)
        async with session.get(gateway, f"{holder}.{'0' * 16}.{rest}") as resumed:
            lost = await last_message(resumed)
        assert (lost["id"], lost["error"]["code"]) == (77, -32603)


@pytest.mark.parametrize("last", ["nonsense", "1", "é"])
async def test_an_id_that_no_gateway_made_opens_the_stream_of_changes(system, last):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.listening(0, last) as events:
            assert {(await anext(events)).method for _ in range(3)} == LIST_CHANGED


async def test_when_the_gateway_that_held_the_stream_dies_the_request_is_answered_with_an_error(system):
    third = await system.gateway("gateway-3")
    system.urls.append(third)
    try:
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            session = await RawSession.open(http, system, "dual")
            async with session.call("wait_forever", id=5, gateway=2, key="holder") as running:
                primed = await anext(events_of(running))
                running.close()
            async with session.get(0, primed.id) as resumed:
                events = events_of(resumed)
                await anext(events)
                await system.parts["gateway-3"].kill()
                lost = [event async for event in events][-1].message
            assert (lost["id"], lost["error"]["code"]) == (5, -32603)
            async with session.get(1, primed.id) as resumed:
                assert (await last_message(resumed))["id"] == 5
    finally:
        system.urls.remove(third)


async def test_a_call_outlives_the_connection_until_its_session_is_closed(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.call("wait_forever", key="outlives") as running:
            await anext(events_of(running))
            running.close()
        other = await RawSession.open(http, system, "dual")
        assert (await other.asked("has_started", key="outlives"))["structuredContent"] == {"result": True}
        async with session.delete(1) as closed:
            assert closed.status == 204
        assert (await other.asked("was_cancelled", key="outlives"))["structuredContent"] == {"result": True}


async def test_the_sdks_client_resumes_a_call_whose_connection_is_cut(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http, cutting(system.urls) as cutter:
        url = f"{cutter.url}/projects/dual/mcp"
        async with sdk_client(url, system.tokens["dual"], "legacy") as client:
            call = asyncio.create_task(client.call_tool("has_started", {"key": "cut"}))
            await cutter.primed.wait()
            cutter.cut()
            other = await RawSession.open(http, system, "dual")
            async with other.call("wait_forever", key="cut"):
                assert (await call).structured_content == {"result": True}
            async with other.delete():
                pass


# --- means ---


async def touched(session, events):
    """What is heard when a resource changes."""
    await session.asked("touch", uri="note://today", gateway=1)
    return await anext(events)


async def methods_of(stream, count):
    """The methods of the first messages that differ."""
    found = set()
    async for event in events_of(stream):
        if event.method is not None:
            found.add(event.method)
        if len(found) == count:
            return found
    return found


@asynccontextmanager
async def listen(http, system, project, *, request_id="L", gateway=0, bearer=None, **wanted):
    """The events of `subscriptions/listen`."""
    sent = headers(bearer or system.tokens[project], "subscriptions/listen")
    body = modern("subscriptions/listen", request_id, notifications=wanted or {"toolsListChanged": True})
    async with http.post(f"{system.urls[gateway]}/projects/{project}/mcp", json=body, headers=sent) as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream"), await answer.text()
        yield events_of(answer)


class Cutter:
    """A proxy that hands each connection to the next gateway, and cuts those on which a call's stream has begun."""

    def __init__(self, urls):
        self._targets = cycle([urlsplit(url).netloc.split(":") for url in urls])
        self.primed = asyncio.Event()
        self._streaming = set()
        self._tasks = set()

    async def accept(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        host, port = next(self._targets)
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            onward = await asyncio.open_connection(host, int(port))
            onward[1].write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            is_call = head.startswith(b"POST")
            back = asyncio.create_task(self._pump(onward[0], writer, watched=is_call))
            await self._pump(reader, onward[1], watched=False)
            await back
        writer.close()

    async def _pump(self, reader, writer, *, watched):
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                if watched and b"retry:" in data:
                    self._streaming.add(writer)
                    self.primed.set()
            writer.close()

    def cut(self):
        for writer in self._streaming:
            writer.transport.abort()


@asynccontextmanager
async def cutting(urls):
    cutter = Cutter(urls)
    server = await asyncio.start_server(cutter.accept, "127.0.0.1", 0)
    cutter.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield cutter
