"""Conditions on arguments, from the client to the upstream and back."""

import asyncio

import pytest
from mcp.shared.exceptions import MCPError

from mcpctl.bus.conditions import GLOB_CHARACTERS, READ_BYTES
from mcpctl.bus.contracts import audit, rbac, token
from mcpctl.bus.contracts.rbac import Binding, Definition
from tests.gateway.peers import sdk_client
from tests.gateway.test_access import endpoint, raw_call

pytestmark = pytest.mark.asyncio(loop_scope="session")

ECHO = 'role:run,resource:tools,name:dual/echo,when:{"text":{"glob":"ok-*"}}'
ADD = 'role:run,resource:tools,name:dual/add,when:{"a":{"min":1,"max":3}}'


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize(("project", "prefix"), [("dual", ""), ("many", "dual__")])
async def test_a_conditional_tool_is_listed_and_runs_where_its_arguments_fit(system, mode, project, prefix):
    bearer = await system.token(project, f"careful-{mode[:1]}", ECHO, ADD)

    async with asyncio.timeout(30), sdk_client(endpoint(system, project), bearer, mode) as client:
        listed = {tool.name for tool in (await client.list_tools()).tools}
        told = (await client.call_tool(f"{prefix}echo", {"text": "ok-1"})).content[0].text
        with pytest.raises(MCPError) as text:
            await client.call_tool(f"{prefix}echo", {"text": "no"})
        with pytest.raises(MCPError) as number:
            await client.call_tool(f"{prefix}add", {"a": True, "b": 1})

    assert listed == {f"{prefix}echo", f"{prefix}add"}
    assert told == "ok-1"
    assert text.value.error.message == f"not allowed to call tool {prefix}echo: argument text must be like ok-*"
    assert number.value.error.message == f"not allowed to call tool {prefix}add: argument a must be from 1 to 3"


AMBIGUOUS = (
    b'{"text":"ok-1","text":"no"}',
    b'{"text":"no","text":"ok-1"}',
    b'{"text":"ok-1","te\\u0078t":"no"}',
    b'{"text":"ok-1","Text":"no"}',
    b'{"Text":"ok-1"}',
    b'{"text":["ok-1"]}',
    b'{"text":"ok-/../no"}',
    b'{"text":"ok-1\\u0000no"}',
    b'{"text":"ok-' + b"1" * GLOB_CHARACTERS + b'"}',
    b'{"text":"ok-1","n":"' + b"1" * READ_BYTES + b'"}',
    b'["ok-1"]',
    b"null",
)


async def test_arguments_that_can_be_read_in_two_ways_are_refused(system):
    bearer = await system.token("dual", "sly-reader", ECHO)

    for arguments in AMBIGUOUS:
        answer = await raw_call(system, bearer, b'{"name":"echo","arguments":' + arguments + b",META}", "echo")

        assert answer["error"]["message"].startswith("not allowed to call tool echo: "), arguments


async def test_arguments_given_twice_are_decided_as_they_are_sent(system):
    bearer = await system.token("dual", "twice", ECHO)
    good, bad = b'"arguments":{"text":"ok-1"}', b'"arguments":{"text":"no"}'

    refused = await raw_call(system, bearer, b'{"name":"echo",' + good + b"," + bad + b",META}", "echo")
    answered = await raw_call(system, bearer, b'{"name":"echo",' + bad + b"," + good + b",META}", "echo")

    assert "must be like ok-*" in refused["error"]["message"]
    assert answered["result"]["content"][0]["text"] == "ok-1"


async def test_a_refusal_by_a_condition_is_an_event_without_the_values(system):
    bearer = await system.token("dual", "watched", ECHO)
    await raw_call(system, bearer, b'{"name":"echo","arguments":{"text":"a-value-not-to-be-kept"},META}', "echo")
    asked = audit.Filter(token="watched", outcome="deny", kind="call")
    follow = audit.Follow(bearer=system.bearer, project="dual", filter=asked, cursor=0)

    async with asyncio.timeout(20):
        found = await system.operator.call(audit.follow, follow)

    assert [entry.event.rule for entry in found.items] == ["run on tools dual/echo: argument text must be like ok-*"]
    assert "a-value-not-to-be-kept" not in found.model_dump_json()


async def test_a_running_call_ends_when_its_arguments_fit_no_more(system):
    name = "role:run,resource:tools,name:dual/wait_*"
    bearer = await system.token("dual", "narrowing", f'{name},when:{{"key":{{"in":["first","second"]}}}}')
    sha = (
        await system.operator.call(
            token.describe, token.DescribeToken(bearer=system.bearer, project="dual", name="narrowing")
        )
    ).id
    running = {key: asyncio.Event() for key in ("first", "second")}

    def started(key):
        async def note(*_):
            running[key].set()

        return note

    async with asyncio.timeout(30), sdk_client(endpoint(system, "dual"), bearer, "2026-07-28") as client:
        calls = {
            key: asyncio.create_task(client.call_tool("wait_forever", {"key": key}, progress_callback=started(key)))
            for key in running
        }
        for event in running.values():
            await event.wait()
        narrowed = Definition(
            name=f"mcptoken-{sha[:32]}",
            project="dual",
            subjects=(f"McpToken:{sha}",),
            bindings=(Binding.parse(f'{name},when:{{"key":{{"equals":"second"}}}}'),),
        )
        await system.operator.call(rbac.redefine, rbac.Define(bearer=system.bearer, definition=narrowed))
        with pytest.raises(MCPError, match="the right to this call was taken away"):
            await calls["first"]
        assert not calls["second"].done()
        calls["second"].cancel()
