"""What a server asks its client during a call, where the client speaks a handshake revision."""

import asyncio
import json

import aiohttp
import pytest

from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.session import Session
from mcpctl.bus.mcp_messages import decode_fields
from mcpctl.gateway import server_requests
from tests.gateway.raw_session import RawSession, events_of, last_message

pytestmark = pytest.mark.asyncio(loop_scope="session")

UPSTREAMS = pytest.mark.parametrize("project", ["dual", "old", "new", "pipe"])
RED = {"action": "accept", "content": {"colour": "red"}}


@UPSTREAMS
@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18"])
async def test_an_answer_posted_to_another_gateway_reaches_the_server(system, project, version):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, project, version=version)
        async with session.call("ask_colour") as running:
            asked = await question_of(running)
            assert asked["method"] == "elicitation/create"
            assert asked["params"]["message"] == "Which colour?"
            assert "colour" in asked["params"]["requestedSchema"]["properties"]
            assert await session.answer(asked["id"], gateway=1, result=RED) == 202

            ended = await last_message(running)
            assert ended["result"]["content"][0]["text"] == "red"
            assert "resultType" not in ended["result"]


@UPSTREAMS
async def test_models_and_roots_are_asked_for_too(system, project):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, project)
        async with session.call("ask_model", question="why?") as running:
            asked = await question_of(running)
            assert asked["method"] == "sampling/createMessage"
            said = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "so"}}
            assert await session.answer(asked["id"], result=said) == 202
            assert (await last_message(running))["result"]["content"][0]["text"] == "m: so"
        async with session.call("ask_roots") as running:
            asked = await question_of(running)
            assert asked["method"] == "roots/list"
            assert await session.answer(asked["id"], gateway=1, result={"roots": [{"uri": "file:///a"}]}) == 202
            assert (await last_message(running))["result"]["structuredContent"] == {"result": ["file:///a"]}


@UPSTREAMS
async def test_a_question_by_url_has_an_id_for_the_client(system, project):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, project)
        async with session.call("ask_visit") as running:
            asked = await question_of(running)
            assert asked["params"]["mode"] == "url"
            assert asked["params"]["elicitationId"]
            assert await session.answer(asked["id"], result={"action": "accept"}) == 202
            assert (await last_message(running))["result"]["content"][0]["text"] == "accept"


@UPSTREAMS
async def test_an_error_of_the_client_fails_the_call(system, project):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, project)
        async with session.call("ask_roots") as running:
            asked = await question_of(running)
            error = {"code": -32000, "message": "roots are none of your business"}
            assert await session.answer(asked["id"], gateway=1, error=error) == 202
            assert "none of your business" in str(await last_message(running))


async def test_what_nobody_waits_for_is_taken_all_the_same(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        for request_id in (7, "unknown", "gateway-aaaaaaaaaaaaaaaa." + "0" * 32):
            assert await session.answer(request_id, result={}) == 202


async def test_no_other_session_and_no_other_bearer_can_answer(system):
    other_bearer = await system.token("dual", "stranger", "role:run,resource:servers")
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        others = [
            await RawSession.open(http, system, "dual"),
            await RawSession.open(http, system, "dual", bearer=other_bearer),
        ]
        async with session.call("ask_colour") as running:
            asked = await question_of(running)
            for other in others:
                for gateway in (0, 1):
                    blue = {"action": "accept", "content": {"colour": "blue"}}
                    assert await other.answer(asked["id"], gateway=gateway, result=blue) == 202
            assert await session.answer(asked["id"], gateway=1, result=RED) == 202
            assert (await last_message(running))["result"]["content"][0]["text"] == "red"


@pytest.mark.parametrize("gateway", [0, 1])
async def test_cancelling_while_the_client_is_asked_ends_the_call(system, gateway):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.call("ask_colour", id="abc") as running:
            events = events_of(running)
            asked = [(await anext(events)).message, (await anext(events)).message][1]
            async with session.notify("notifications/cancelled", gateway=gateway, requestId="abc") as taken:
                assert taken.status == 202
            assert [event async for event in events] == []
        assert await session.answer(asked["id"], result=RED) == 202


@UPSTREAMS
async def test_a_client_that_cannot_be_asked_is_not(system, project):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, project, capabilities={"sampling": {}})
        async with session.call("ask_colour") as running:
            ended = await last_message(running)
        assert ended["id"] == 1
        assert "error" in ended or ended["result"]["isError"]


async def test_revoking_the_token_ends_a_call_that_waits_for_its_client(system):
    bearer = await system.token("dual", "brief", "role:run,resource:servers")
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual", bearer=bearer)
        async with session.call("ask_colour") as running:
            await question_of(running)
            revoke = token.RevokeToken(bearer=system.bearer, project="dual", name="brief")
            await system.operator.call(token.revoke, revoke)
            assert "revoked" in (await last_message(running))["error"]["message"]


async def test_closing_the_session_ends_a_call_that_waits_for_its_client(system):
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, system, "dual")
        async with session.call("ask_colour") as running:
            await question_of(running)
            async with session.delete(gateway=1) as closed:
                assert closed.status == 204
            assert [event.message async for event in events_of(running) if "result" in event.message] == []


async def test_a_client_that_does_not_answer_in_time_is_told_so(monkeypatch):
    monkeypatch.setattr(server_requests, "SIGN_OF_LIFE", 0.01)
    monkeypatch.setattr(server_requests, "ANSWER_WITHIN", 0.0)
    asked = decode_fields(b'{"q":{"method":"elicitation/create","params":{"message":"Which colour?"}}}')
    session = Session(
        key="k",
        owner="o",
        project="p",
        server=None,
        version="2025-11-25",
        client_info="{}",
        capabilities='{"elicitation":{}}',
    )

    waiting = server_requests.ServerRequests("gateway-" + "a" * 16).begin(session, None, "1", asked)
    answers = await waiting.answers()

    (question,), (withdrawn,) = waiting.messages, waiting.withdrawn
    assert b"did not answer in time" in bytes(answers["q"])
    assert json.loads(withdrawn)["method"] == "notifications/cancelled"
    assert json.loads(withdrawn)["params"]["requestId"] == json.loads(question)["id"]


async def question_of(running):
    """The first request of the server on a call's stream."""
    async for event in events_of(running):
        if event.method is not None and "id" in event.message:
            return event.message
    raise AssertionError("the server asked nothing")
