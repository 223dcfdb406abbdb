"""Clients that keep no session: LiteLLM opens one for each operation and closes it; others drop the id at once."""

from contextlib import asynccontextmanager

import aiohttp
import pytest
import pytest_asyncio

from tests.clients.conftest import UPSTREAMS
from tests.clients.scenario import OLD, TOOLS
from tests.gateway.raw_session import RawSession, events_of, last_message

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.parametrize("project", UPSTREAMS)]

COLOUR = {"action": "accept", "content": {"colour": "green"}}


@pytest_asyncio.fixture(loop_scope="session")
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as client:
        yield client


@asynccontextmanager
async def session(http, front, project, **capabilities):
    """One operation's session, as LiteLLM has it: with its stream for changes open, and deleted at the end."""
    one = await RawSession.open(http, front, project, version=OLD, capabilities=capabilities)
    try:
        async with one.listening():
            yield one
    finally:
        async with one.delete() as answer:
            assert answer.status == 204
    async with one.post("ping") as answer:
        assert answer.status == 404


async def operation(http, front, project, method, **params):
    """Return the result of one request, in a session of its own."""
    async with session(http, front, project) as one, one.post(method, **params) as answer:
        return (await last_message(answer))["result"]


async def call(http, front, project, tool, **arguments):
    return await operation(http, front, project, "tools/call", name=tool, arguments=arguments)


async def test_each_operation_has_a_session_of_its_own(http, front, project):
    listed = await operation(http, front, project, "tools/list")
    called = await call(http, front, project, "add", a=2, b=40)
    failed = await call(http, front, project, "fail", text="on purpose")
    read = await operation(http, front, project, "resources/read", uri="note://today")
    prompt = await operation(http, front, project, "prompts/get", name="greet", arguments={"name": "Ann"})

    assert {tool["name"] for tool in listed["tools"]} >= TOOLS
    assert called["structuredContent"] == {"result": 42}
    assert failed["isError"]
    assert read["contents"][0]["text"] == "the note of today"
    assert prompt["messages"][0]["content"]["text"] == "Say hello to Ann."


async def test_progress_reaches_the_session_of_the_call(http, front, project):
    async with session(http, front, project) as one, one.call("count", token="t", steps=3) as answer:
        messages = [event.message async for event in events_of(answer) if event.message]

    assert [(m["params"]["progressToken"], m["params"]["progress"]) for m in messages[:-1]] == [
        ("t", 1),
        ("t", 2),
        ("t", 3),
    ]
    assert messages[-1]["result"]["content"][0]["text"] == "counted to 3"


async def test_an_elicitation_is_answered_in_the_session_of_the_call(http, front, project):
    async with session(http, front, project, elicitation={}) as one, one.call("ask_colour") as answer:
        async for event in events_of(answer):
            if event.method == "elicitation/create":
                assert await one.answer(event.message["id"], result=COLOUR) == 202
            elif event.message:
                result = event.message["result"]

    assert result["content"][0]["text"] == "green"


async def test_a_client_that_answers_no_elicitation_is_told_that_the_tool_needs_one(http, front, project):
    async with session(http, front, project) as one, one.call("ask_colour") as answer:
        told = await last_message(answer)

    assert "elicitation" in str(told.get("error") or told["result"])


async def test_a_call_that_is_left_is_cancelled_at_the_server_with_its_session(http, front, project):
    key = f"left-{project}"

    async with session(http, front, project) as one, one.call("wait_forever", token="t", key=key) as answer:
        async for event in events_of(answer):
            if event.method == "notifications/progress":
                break

    assert (await call(http, front, project, "was_cancelled", key=key))["structuredContent"] == {"result": True}


async def test_a_client_that_drops_the_session_id_is_told_to_send_it(http, front, project):
    one = await RawSession.open(http, front, project, version=OLD)
    del one.sent["Mcp-Session-Id"]
    told = []

    for method, params in (
        ("ping", {}),
        ("tools/list", {}),
        ("tools/call", {"name": "add", "arguments": {"a": 2, "b": 40}}),
        ("resources/read", {"uri": "note://today"}),
        ("prompts/get", {"name": "greet", "arguments": {"name": "Ann"}}),
    ):
        async with one.post(method, id=7, **params) as answer:
            told.append((answer.status, await answer.json()))
    async with one.notify("notifications/initialized") as answer:
        told.append((answer.status, await answer.json() | {"id": 7}))

    for status, message in told:
        assert status == 400
        assert message["id"] == 7
        assert "Mcp-Session-Id" in message["error"]["message"]
