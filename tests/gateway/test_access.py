"""What a token may see and do, and what becomes of it when its rights end."""

import asyncio
import json
import re
from contextlib import suppress

import aiohttp
import pytest
from mcp.shared.exceptions import MCPError

from mcpctl.bus.contracts import audit, catalog, token
from tests.gateway.peers import sdk_client
from tests.gateway.test_edge import META, headers, modern

pytestmark = pytest.mark.asyncio(loop_scope="session")


def endpoint(system, project, gateway=0):
    return f"{system.urls[gateway]}/projects/{project}/mcp"


async def test_a_token_without_bindings_sees_nothing(system):
    bearer = await system.token("dual", "empty")
    async with asyncio.timeout(30), sdk_client(endpoint(system, "dual"), bearer, "2026-07-28") as client:
        assert (await client.list_tools()).tools == []
        with pytest.raises(MCPError):
            await client.call_tool("echo", {"text": "x"})


async def test_a_hidden_tool_answers_like_an_unknown_one(system):
    bearer = await system.token("dual", "only-echo", "role:run,resource:tools,name:dual/echo")
    async with asyncio.timeout(30), sdk_client(endpoint(system, "dual"), bearer, "2026-07-28") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["echo"]
        assert (await client.call_tool("echo", {"text": "x"})).content[0].text == "x"
        refusals = []
        for name in ("add", "no-such-tool"):
            with pytest.raises(MCPError) as refusal:
                await client.call_tool(name, {})
            refusals.append((refusal.value.error.code, refusal.value.error.message.replace(name, "NAME")))
        assert refusals[0] == refusals[1]
        assert (await client.list_resources()).resources == []
        with pytest.raises(MCPError):
            await client.read_resource("note://today")


async def test_a_tool_that_may_be_seen_but_not_run_is_refused(system):
    bearer = await system.token("dual", "viewer", "role:view,resource:servers")
    async with asyncio.timeout(30), sdk_client(endpoint(system, "dual"), bearer, "2026-07-28") as client:
        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        with pytest.raises(MCPError):
            await client.call_tool("echo", {"text": "x"})


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_revoked_token_ends_its_running_call_and_is_refused_on_every_gateway(system, mode):
    name = f"doomed-{'old' if mode == 'legacy' else 'new'}"
    bearer = await system.token("dual", name, "role:run,resource:servers")
    running = asyncio.Event()

    async def progress(*_):
        running.set()

    async with asyncio.timeout(30), sdk_client(endpoint(system, "dual"), bearer, mode) as client:
        key = f"revoked-{mode}"
        call = asyncio.create_task(client.call_tool("wait_forever", {"key": key}, progress_callback=progress))
        await running.wait()
        revoke = token.RevokeToken(bearer=system.bearer, project="dual", name=name)
        await system.operator.call(token.revoke, revoke)
        with pytest.raises(MCPError, match="revoked"):
            await call
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        for gateway in (0, 1):
            async with http.post(endpoint(system, "dual", gateway), json=modern(), headers=headers(bearer)) as answer:
                assert answer.status == 401
                assert 'error_description="the token is revoked"' in answer.headers["WWW-Authenticate"]
    url, agent = endpoint(system, "dual"), system.tokens["dual"]
    async with asyncio.timeout(30), sdk_client(url, agent, "2026-07-28") as client:
        assert (await client.call_tool("was_cancelled", {"key": key})).structured_content == {"result": True}


async def test_a_refused_token_works_as_soon_as_it_is_created_again(system):
    create = token.IssueToken(bearer=system.bearer, project="dual", name="again", bindings=())
    first = (await system.operator.call(token.issue, create)).bearer
    await system.operator.call(token.revoke, token.RevokeToken(bearer=system.bearer, project="dual", name="again"))
    second = (await system.operator.call(token.issue, create)).bearer
    async with aiohttp.ClientSession() as http:
        statuses = []
        for bearer in (first, second):
            async with http.post(endpoint(system, "dual"), json=modern(), headers=headers(bearer)) as answer:
                statuses.append(answer.status)

    assert statuses == [401, 200]


async def test_a_call_leaves_two_events_with_one_correlation_and_no_values(system):
    bearer = await system.token("dual", "audited", "role:run,resource:servers")
    async with asyncio.timeout(30), sdk_client(endpoint(system, "dual"), bearer, "2026-07-28") as client:
        await client.call_tool("echo", {"text": "a-value-that-must-not-be-kept"})
    query = audit.Follow(bearer=system.bearer, project="dual", filter=audit.Filter(token="audited"), cursor=0)
    seen: dict[str, audit.Event] = {}
    async with asyncio.timeout(20):
        while "result" not in seen:
            found = await system.operator.call(audit.follow, query)
            seen |= {e.event.kind: e.event for e in found.items if e.event.method == "tools/call"}
            query = query.model_copy(update={"cursor": found.cursor})

    call, result = seen["call"], seen["result"]
    assert call.correlation == result.correlation
    assert (call.outcome, call.server, call.name, call.token_name) == ("allow", "dual", "echo", "audited")
    assert len(call.args or "") == len(call.token_sha or "") == 64
    assert (result.outcome, result.ms is not None) == ("allow", True)
    assert "a-value-that-must-not-be-kept" not in call.model_dump_json() + result.model_dump_json()


async def test_a_denial_is_an_event(system):
    bearer = await system.token("dual", "denied")
    async with asyncio.timeout(30), sdk_client(endpoint(system, "dual"), bearer, "2026-07-28") as client:
        with pytest.raises(MCPError):
            await client.call_tool("echo", {"text": "x"})
    asked = audit.Filter(token="denied", outcome="deny", kind="call")
    follow = audit.Follow(bearer=system.bearer, project="dual", filter=asked, cursor=0)
    async with asyncio.timeout(20):
        found = await system.operator.call(audit.follow, follow)

    assert [(entry.event.name, entry.event.method) for entry in found.items] == [("echo", "tools/call")]


async def test_a_changed_definition_acts_at_once(system):
    bearer = await system.token("many", "narrowed", "role:run,resource:servers")
    url = endpoint(system, "many")
    async with asyncio.timeout(30), sdk_client(url, bearer, "2026-07-28") as client:
        assert (await client.call_tool("pipe__echo", {"text": "x"})).content[0].text == "x"
        spec = catalog.ProjectSpec(name="many", servers=("dual", "old"))
        edit = catalog.EditProject(bearer=system.bearer, spec=spec)
        await system.operator.call(catalog.edit_project, edit)
        try:
            async with asyncio.timeout(5):
                while True:
                    try:
                        await client.call_tool("pipe__echo", {"text": "x"})
                    except MCPError as refusal:
                        assert "Unknown tool" in refusal.error.message
                        break
        finally:
            whole = catalog.ProjectSpec(name="many", servers=("dual", "old", "pipe"))
            await system.operator.call(catalog.edit_project, catalog.EditProject(bearer=system.bearer, spec=whole))


async def raw_call(system, bearer, params, name):
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":' + params + b"}"
    meta = b'"_meta":' + json.dumps(META).encode()
    sent = {**headers(bearer, "tools/call", Mcp_Name=name), "Content-Type": "application/json"}
    async with aiohttp.ClientSession() as http:
        url = endpoint(system, "dual")
        async with http.post(url, data=body.replace(b"META", meta), headers=sent) as answer:
            return await answer.json()


async def test_the_name_that_is_decided_is_the_only_one_that_is_sent(system):
    bearer = await system.token("dual", "sly", "role:run,resource:tools,name:dual/echo")
    twice = b'{"name":"add","name":"echo","arguments":{"text":"once"},META}'
    cased = b'{"Name":"add","name":"echo","arguments":{"text":"once"},META}'

    assert (await raw_call(system, bearer, twice, "echo"))["result"]["content"][0]["text"] == "once"
    assert (await raw_call(system, bearer, cased, "echo"))["error"]["code"] == -32602


async def test_an_endless_name_is_denied_and_nobody_else_notices(system):
    bearer = await system.token("dual", "wordy")
    name = "n" * 60_000
    denied = await raw_call(system, bearer, b'{"name":"' + name.encode() + b'",META}', name)
    url, agent = endpoint(system, "dual"), system.tokens["dual"]
    async with asyncio.timeout(30), sdk_client(url, agent, "2026-07-28") as client:
        for _ in range(20):
            assert (await client.call_tool("echo", {"text": "x"})).content[0].text == "x"

    assert denied["error"]["code"] == -32602
    assert len(denied["error"]["message"]) < 300


async def test_a_call_ends_when_its_right_is_taken_away(system):
    await system.server("lent", url=(await server_spec(system, "dual")).url)
    await system.project("lending", "lent")
    bearer = await system.token("lending", "agent", "role:run,resource:servers")
    running = asyncio.Event()

    async def progress(*_):
        running.set()

    url = endpoint(system, "lending")
    async with asyncio.timeout(30), sdk_client(url, bearer, "2026-07-28") as client:
        call = asyncio.create_task(client.call_tool("wait_forever", {"key": "lent"}, progress_callback=progress))
        await running.wait()
        spec = catalog.ProjectSpec(name="lending", servers=())
        await system.operator.call(catalog.edit_project, catalog.EditProject(bearer=system.bearer, spec=spec))
        with pytest.raises(MCPError, match="the right to this call was taken away"):
            await call


async def server_spec(system, name):
    get = catalog.GetServer(bearer=system.bearer, name=name)
    return (await system.operator.call(catalog.get_server, get)).spec


async def test_a_server_that_answers_nonsense_does_not_empty_the_list_of_others(system):
    async def answer(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
            request = json.loads(await reader.readexactly(length))
            nonsense = {
                "tools": [{"description": "no name"}],
                "resultType": "complete",
                "ttlMs": 0,
                "cacheScope": "private",
            }
            found = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"}
            result = found if request["method"] == "server/discover" else nonsense
            body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()

    async def serve(reader, writer):
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await answer(reader, writer)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    await system.server("nonsense", url=f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp")
    await system.project("mad", "nonsense", "dual")
    bearer = await system.token("mad", "agent", "role:run,resource:servers")
    async with (
        listener,
        asyncio.timeout(30),
        aiohttp.ClientSession() as http,
        http.post(endpoint(system, "mad"), json=modern(), headers=headers(bearer)) as got,
    ):
        result = (await got.json())["result"]

    assert "dual__echo" in {tool["name"] for tool in result["tools"]}
    assert set(result["_meta"]["mcpctl/unavailable"]) == {"nonsense"}
