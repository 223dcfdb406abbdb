"""Stateless clients at a server of a handshake revision that asks its client: the call waits for their return."""

import asyncio
import json

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus.contracts import token

pytestmark = pytest.mark.asyncio(loop_scope="session")

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
}
ACCEPTED = {"action": "accept", "content": {"colour": "green"}}


@pytest_asyncio.fixture(loop_scope="session")
async def http(system):
    async with aiohttp.ClientSession() as session:
        yield session


async def call(system, http, name="ask_colour", arguments=None, *, gateway=0, project="old", bearer=None, **params):
    """POST a tools/call and return the JSON-RPC response, whether it came as JSON or as a stream."""
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": name, "arguments": arguments or {}, "_meta": META, **params},
    }
    headers = {
        "Authorization": f"Bearer {bearer or system.tokens[project]}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": name,
    }
    url = f"{system.urls[gateway]}/projects/{project}/mcp"
    async with asyncio.timeout(20), http.post(url, json=body, headers=headers) as answer:
        text = await answer.text()
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")] or [text]
    return json.loads(lines[-1])


async def ask(system, http, **options):
    """Call the tool that asks, and return what it asks and the state."""
    result = (await call(system, http, **options))["result"]
    assert result["resultType"] == "input_required"
    ((key, request),) = result["inputRequests"].items()
    return key, request, result["requestState"]


async def test_the_question_comes_as_a_result_and_the_answer_goes_on_with_the_call(system, http):
    key, request, state = await ask(system, http)
    assert request["method"] == "elicitation/create"
    assert request["params"]["message"] == "Which colour?"
    assert "colour" in request["params"]["requestedSchema"]["properties"]

    done = await call(system, http, inputResponses={key: ACCEPTED}, requestState=state)

    assert done["result"]["content"][0]["text"] == "green"
    assert done["result"]["resultType"] == "complete"


async def test_whichever_gateway_and_router_get_the_answer(system, http):
    async def converse(turn):
        key, _, state = await ask(system, http, gateway=turn % 2)
        answer = {"action": "accept", "content": {"colour": f"colour {turn}"}}
        done = await call(system, http, gateway=(turn + 1) % 2, inputResponses={key: answer}, requestState=state)
        return done["result"]["content"][0]["text"]

    # Twelve calls over two routers: that each answer meets its own router by chance is one in 4096.
    assert await asyncio.gather(*map(converse, range(12))) == [f"colour {turn}" for turn in range(12)]


async def test_a_declined_question_is_told_to_the_server(system, http):
    key, _, state = await ask(system, http)

    done = await call(system, http, inputResponses={key: {"action": "decline"}}, requestState=state)

    assert done["result"]["content"][0]["text"] == "decline"


async def test_a_request_that_brings_no_answer_is_asked_again(system, http):
    key, request, state = await ask(system, http)

    again = (await call(system, http, requestState=state))["result"]

    assert again["inputRequests"] == {key: request}


async def test_the_state_is_good_for_one_end_only(system, http):
    key, _, state = await ask(system, http)
    await call(system, http, inputResponses={key: ACCEPTED}, requestState=state)

    late = await call(system, http, inputResponses={key: ACCEPTED}, requestState=state)

    assert (late["error"]["code"], "begin the request again" in late["error"]["message"]) == (-32602, True)


async def test_the_state_is_good_for_its_own_request_and_caller_only(system, http):
    key, _, state = await ask(system, http)
    other = await system.token("old", "another-agent", "role:run,resource:servers")
    answers = {"inputResponses": {key: ACCEPTED}}

    for wrong in (
        call(system, http, requestState=state[:-6] + "AAAAAA", **answers),
        call(system, http, requestState=state, bearer=other, **answers),
        call(system, http, requestState=state, arguments={"more": 1}, **answers),
        call(system, http, "echo", {"text": "x"}, requestState=state, **answers),
    ):
        refused = await wrong
        assert refused["error"]["code"] == -32602
        assert "requestState" in refused["error"]["message"]

    done = await call(system, http, requestState=state, **answers)
    assert done["result"]["content"][0]["text"] == "green"


async def test_a_revoked_token_cannot_come_back(system, http):
    bearer = await system.token("old", "soon-revoked", "role:run,resource:servers")
    key, _, state = await ask(system, http, bearer=bearer)

    revoke = token.RevokeToken(bearer=system.bearer, project="old", name="soon-revoked")
    await system.operator.call(token.revoke, revoke)

    body = await call(system, http, bearer=bearer, inputResponses={key: ACCEPTED}, requestState=state)
    assert body["error"]["message"] == "the token is revoked"


async def test_a_client_that_cannot_be_asked_is_not(system, http):
    bare = META | {"io.modelcontextprotocol/clientCapabilities": {}}

    refused = await call(system, http, _meta=bare)

    assert "did not declare the form elicitation capability" in refused["error"]["message"]
