"""Several gateways and routers side by side; parts that die; upstreams that do."""

import asyncio
import json
import os
import signal

import aiohttp
import pytest
import pytest_asyncio

from tests.gateway.peers import http_upstream, sdk_client
from tests.gateway.test_edge import BOTH, META, headers, modern

pytestmark = pytest.mark.asyncio(loop_scope="session")

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


def endpoint(system, project, gateway=0):
    return f"{system.urls[gateway]}/projects/{project}/mcp"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def hasty(running_system):
    """A gateway that gives a request up after two seconds."""
    await running_system.wake()
    url = await running_system.gateway("gateway-hasty", MCPCTL_CALL_TIMEOUT_MS="2000")
    yield url
    await running_system.parts["gateway-hasty"].stop()


async def message_of(answer):
    text = await answer.text()
    if answer.content_type == "text/event-stream":
        text = [line for line in text.splitlines() if line.startswith("data:")][-1].removeprefix("data:")
    return json.loads(text)


async def initialize(http, system, project="dual", version="2025-11-25"):
    asked = {**INITIALIZE, "params": {**INITIALIZE["params"], "protocolVersion": version}}
    sent = {"Authorization": f"Bearer {system.tokens[project]}", "Accept": BOTH}
    async with http.post(endpoint(system, project), json=asked, headers=sent) as answer:
        assert answer.status == 200
        assert (await message_of(answer))["result"]["protocolVersion"] == version
        return {**sent, "Mcp-Session-Id": answer.headers["Mcp-Session-Id"], "MCP-Protocol-Version": version}


async def test_a_legacy_session_is_used_through_two_gateways_in_turn(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        sent = await initialize(http, system)
        for turn in range(1, 7):
            call = {"name": "echo", "arguments": {"text": str(turn)}}
            body = {"jsonrpc": "2.0", "id": turn, "method": "tools/call", "params": call}
            async with http.post(endpoint(system, "dual", turn % 2), json=body, headers=sent) as answer:
                assert answer.status == 200
                message = await message_of(answer)
                assert (message["id"], message["result"]["content"][0]["text"]) == (turn, str(turn))
                assert "resultType" not in message["result"]


async def test_a_session_deleted_at_one_gateway_is_404_at_the_other_at_once(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        sent = await initialize(http, system)
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        for gateway in (0, 1):
            async with http.post(endpoint(system, "dual", gateway), json=ping, headers=sent) as answer:
                assert answer.status == 200
        async with http.delete(endpoint(system, "dual"), headers=sent) as answer:
            assert answer.status == 204
        for gateway in (1, 0):
            async with http.post(endpoint(system, "dual", gateway), json=ping, headers=sent) as answer:
                assert answer.status == 404
            async with http.delete(endpoint(system, "dual", gateway), headers=sent) as answer:
                assert answer.status == 404


async def test_a_session_belongs_to_the_bearer_and_the_project_that_opened_it(system):
    other = await system.token("dual", "other", "role:run,resource:servers")
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        sent = await initialize(http, system)
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        stolen = {**sent, "Authorization": f"Bearer {other}"}
        async with http.post(endpoint(system, "dual"), json=ping, headers=stolen) as answer:
            assert answer.status == 404
        single = f"{system.urls[0]}/projects/dual/servers/dual/mcp"
        async with http.post(single, json=ping, headers=sent) as answer:
            assert answer.status == 404


async def test_cancelling_through_another_gateway_reaches_the_upstream(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        sent = await initialize(http, system)
        call = {"name": "wait_forever", "arguments": {"key": "elsewhere"}, "_meta": {"progressToken": "p"}}
        body = {"jsonrpc": "2.0", "id": "abc", "method": "tools/call", "params": call}
        async with http.post(endpoint(system, "dual", 0), json=body, headers=sent) as running:
            assert running.status == 200
            for _ in range(2):  # the second event is the progress: the upstream has the call
                await running.content.readuntil(b"\n\n")
            cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "abc"}}
            async with http.post(endpoint(system, "dual", 1), json=cancel, headers=sent) as answer:
                assert answer.status == 202
            assert await running.content.read() == b""
        check = {"name": "was_cancelled", "arguments": {"key": "elsewhere"}}
        body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": check}
        async with http.post(endpoint(system, "dual", 1), json=body, headers=sent) as answer:
            assert (await message_of(answer))["result"]["structuredContent"] == {"result": True}


async def test_the_upstream_never_sees_what_the_client_sent_beside_its_request(system):
    seen: list[dict[str, str]] = []

    async def record(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2]))
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(record, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    await system.server("recorder", url=f"http://127.0.0.1:{port}/mcp", headers={"X-Own": "yes"})
    await system.project("recorded", "recorder")
    bearer = await system.token("recorded", "agent", "role:run,resource:servers")
    sent = {**headers(bearer, "tools/call", Mcp_Name="x"), "Cookie": "a=b", "X-Forwarded-For": "10.0.0.1"}
    async with listener, asyncio.timeout(30), aiohttp.ClientSession() as http:
        call = modern("tools/call", name="x", arguments={})
        async with http.post(endpoint(system, "recorded"), json=call, headers=sent) as answer:
            assert answer.status == 502
            assert "recorder" in (await message_of(answer))["error"]["message"]

    assert seen
    for request in seen:
        names = {name.lower() for name in request}
        assert not names & {"authorization", "cookie", "x-forwarded-for", "mcp-session-id"}
        assert bearer not in str(request)
        assert request["X-Own"] == "yes"


async def test_a_hanging_and_a_dead_server_leave_the_others_lists_whole(system):
    async def hang(reader, writer):
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    await system.server("hanging", url=f"http://127.0.0.1:{port}/mcp")
    await system.server("dead", url="http://127.0.0.1:1/mcp")
    await system.project("mixed", "hanging", "dual", "dead")
    bearer = await system.token("mixed", "agent", "role:run,resource:servers")
    async with listener, asyncio.timeout(30), aiohttp.ClientSession() as http:
        for _ in range(2):
            async with http.post(endpoint(system, "mixed"), json=modern(), headers=headers(bearer)) as answer:
                result = (await message_of(answer))["result"]
            assert "dual__echo" in {tool["name"] for tool in result["tools"]}
            assert set(result["_meta"]["mcpctl/unavailable"]) == {"hanging", "dead"}
            assert result["ttlMs"] == 0


async def test_a_server_that_comes_back_is_listed_again(system):
    async with http_upstream() as upstream:
        await system.server("wobbly", url=upstream.url)
        await system.project("coming", "wobbly", "dual")
        bearer = await system.token("coming", "agent", "role:run,resource:servers")
        url, port = endpoint(system, "coming"), upstream.url.rpartition(":")[2].partition("/")[0]

        async def listed(http):
            async with http.post(url, json=modern(), headers=headers(bearer)) as answer:
                return "wobbly__echo" in {tool["name"] for tool in (await message_of(answer))["result"]["tools"]}

        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            assert await listed(http)
            upstream.process.kill()
            await upstream.process.wait()
            while await listed(http):
                pass
            async with http_upstream("--port", port):
                while not await listed(http):
                    await asyncio.to_thread(os.sched_yield)


async def test_a_killed_stdio_server_is_started_again(system):
    async with asyncio.timeout(60), sdk_client(endpoint(system, "pipe"), system.tokens["pipe"], "2026-07-28") as client:
        assert (await client.call_tool("echo", {"text": "a"})).content[0].text == "a"
        killed = children_of(system.parts["router"].process.pid, system.parts["router-2"].process.pid)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        assert killed
        last = None
        while last != "b":
            try:
                last = (await client.call_tool("echo", {"text": "b"})).content[0].text
            except Exception as error:  # noqa: BLE001 - the call that was at hand is lost, and says so
                assert "ended" in str(error)


def children_of(*pids):
    found = []
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as file:
                found += [int(child) for child in file.read().split()]
    return found


async def test_with_every_router_dead_a_call_is_503_at_once_and_a_running_one_ends(system):
    url, bearer = endpoint(system, "dual"), system.tokens["dual"]
    call = modern("tools/call", name="wait_forever", arguments={"key": "orphan"}, meta=None)
    call["params"]["_meta"] = {**call["params"]["_meta"], "progressToken": 1}
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        sent = headers(bearer, "tools/call", Mcp_Name="wait_forever")
        async with http.post(url, json=call, headers=sent) as running:
            assert running.status == 200
            await running.content.readuntil(b"\n\n")
            for name in ("router", "router-2"):
                await system.parts[name].kill()
            async with http.post(url, json=modern(), headers=headers(bearer)) as answer:
                assert answer.status == 503
                assert answer.headers["Retry-After"]
            async with http.get(f"{system.urls[0]}/readyz") as answer:
                assert answer.status == 503
                assert "router" in (await answer.json())["missing"]
            end = await running.content.read()
            assert b'"code":-32603' in end
        for name in ("router", "router-2"):
            await system.run(name, "mcpctl.actors", "router")
        async with http.post(url, json=modern(), headers=headers(bearer)) as answer:
            assert answer.status == 200


async def test_a_dead_gateway_cancels_its_calls_at_the_upstream(system):
    url = await system.gateway("gateway-3")
    call = modern("tools/call", name="wait_forever", arguments={"key": "widow"})
    call["params"]["_meta"] = {**call["params"]["_meta"], "progressToken": 1}
    sent = headers(system.tokens["dual"], "tools/call", Mcp_Name="wait_forever")
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/projects/dual/mcp", json=call, headers=sent) as running:
            assert running.status == 200
            await running.content.readuntil(b"\n\n")
            await system.parts["gateway-3"].kill()
        check = modern("tools/call", name="was_cancelled", arguments={"key": "widow"})
        sent = headers(system.tokens["dual"], "tools/call", Mcp_Name="was_cancelled")
        async with http.post(endpoint(system, "dual"), json=check, headers=sent) as answer:
            assert (await message_of(answer))["result"]["structuredContent"] == {"result": True}


async def test_a_stopped_actor_process_is_503_once_the_lease_is_over_and_recovers(system):
    url, bearer = endpoint(system, "dual"), system.tokens["dual"]
    actors = system.parts["actors"].process
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        actors.send_signal(signal.SIGSTOP)
        try:
            status = 200
            while status != 503:
                async with http.post(url, json=modern(), headers=headers(bearer)) as answer:
                    status = answer.status
                    assert status in (200, 503)
        finally:
            actors.send_signal(signal.SIGCONT)
        good = 0
        while good < 12:  # either router may have asked all actors anew, and the other not yet
            for gateway in (0, 1):
                async with http.post(
                    endpoint(system, "dual", gateway), json=modern(), headers=headers(bearer)
                ) as answer:
                    good = good + 1 if answer.status == 200 else 0
        await initialize(http, system)


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_hanging_up_cancels_at_the_upstream(system, era):
    url, key = endpoint(system, "dual"), f"hung-up-{era}"
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        if era == "legacy":
            # A client of the newest handshake revision may come back for the rest of its stream.
            sent = await initialize(http, system, version="2025-06-18")
            arguments = {"name": "wait_forever", "arguments": {"key": key}, "_meta": {"progressToken": 1}}
            call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": arguments}
        else:
            sent = headers(system.tokens["dual"], "tools/call", Mcp_Name="wait_forever")
            call = modern("tools/call", name="wait_forever", arguments={"key": key})
            call["params"]["_meta"] = {**call["params"]["_meta"], "progressToken": 1}
        async with http.post(url, json=call, headers=sent) as running:
            await running.content.readuntil(b"\n\n")
            running.close()
        check = modern("tools/call", name="was_cancelled", arguments={"key": key})
        sent = headers(system.tokens["dual"], "tools/call", Mcp_Name="was_cancelled")
        async with http.post(url, json=check, headers=sent) as answer:
            assert (await message_of(answer))["result"]["structuredContent"] == {"result": True}


@pytest.mark.parametrize("asked", [{}, {"elicitation": {}}], ids=["unasked", "askable"])
@pytest.mark.parametrize("project", ["old", "new"])
async def test_a_call_that_takes_longer_than_the_gateway_waits_is_504_and_cancelled_at_the_upstream(
    system, hasty, project, asked
):
    key = f"late-{project}-{bool(asked)}"
    meta = {**META, "io.modelcontextprotocol/clientCapabilities": asked}
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:

        async def call(url, tool):
            body = modern("tools/call", meta=meta, name=tool, arguments={"key": key})
            sent = headers(system.tokens[project], "tools/call", Mcp_Name=tool)
            async with http.post(f"{url}/projects/{project}/mcp", json=body, headers=sent) as answer:
                return answer.status, await message_of(answer)

        waiting = asyncio.create_task(call(hasty, "wait_forever"))
        _, started = await call(system.urls[0], "has_started")
        assert started["result"]["structuredContent"] == {"result": True}
        status, refusal = await waiting
        assert (status, refusal["error"]["code"]) == (504, -32603)
        _, was_cancelled = await call(system.urls[0], "was_cancelled")
        assert was_cancelled["result"]["structuredContent"] == {"result": True}
