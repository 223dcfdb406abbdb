"""The gateway as a client: the suite's scenarios for clients, with a gateway and a router between it and the SDK."""

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import pytest_asyncio
from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, TextContent

from mcpctl.bus.contracts import catalog
from tests.conformance.cells import LEGACY, MODERN
from tests.conformance.unbridged import ask, open_session
from tests.gateway.peers import sdk_client
from tests.injector import injecting
from tests.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")

STAND_IN = str(Path(__file__).parent / "stand_in.py")
OLD = "2025-11-25"
SCENARIOS = (
    (OLD, "initialize"),
    (OLD, "tools_call"),
    (OLD, "sse-retry"),
    (OLD, "json-schema-2020-12-preservation"),
    (MODERN, "tools_call"),
    (MODERN, "request-metadata"),
    (MODERN, "http-standard-headers"),
    (MODERN, "http-custom-headers"),
    (MODERN, "http-invalid-tool-headers"),
    (MODERN, "json-schema-ref-no-deref"),
    (MODERN, "json-schema-2020-12-preservation"),
    (MODERN, "sep-2322-client-request-state"),
)
"""Those that are not about OAuth, and not about what a user of the client decides."""

RETRY = "sep-2575-client-retry-supported-version"
EXAMPLES = {"number": 2, "integer": 2, "string": "text", "boolean": True, "object": {}, "array": []}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(tmp_path_factory):
    running = System(tmp_path_factory.mktemp("client-leg"))
    try:
        await running.start()
        running.url = await running.gateway()
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def told(exercise):
    """Run `exercise` with what each client under test tells; yield the port to tell it to."""

    async def serve(reader, writer):
        try:
            await exercise(**json.loads(await reader.readline()))
        except Exception as error:  # noqa: BLE001 - the suite's failure text shows it
            writer.write(repr(error).encode())
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(("revision", "scenario"), SCENARIOS)
async def test_the_router_is_a_good_client(suite, system, revision, scenario, tmp_path):
    name = f"scenario-{SCENARIOS.index((revision, scenario))}"

    async def exercise(url, context):
        await system.wake()
        await system.server(name, url=url)
        await system.project(name, name)
        bearer = await system.token(name, "agent", "role:run,resource:servers")
        url = f"{system.url}/projects/{name}/mcp"
        if scenario == "sse-retry":
            await call_once(url, bearer, "test_reconnection")
        else:
            await use(url, bearer, LEGACY if revision == OLD else MODERN, context)
        # The scenario ends when nobody is connected any more, and the router would keep its connection for a while.
        await system.operator.call(catalog.delete_server, catalog.DeleteServer(bearer=system.bearer, name=name))

    async with told(exercise) as port:
        verdict = await suite.run_client(f"{sys.executable} {STAND_IN} {port}", revision, scenario, tmp_path / "out")

    # The one warning is about a server that refuses 2026-07-28 and names it as what it speaks.
    assert not verdict.failed, "\n" + "\n".join(verdict.failed)
    assert verdict.passed
    assert all(RETRY in warning for warning in verdict.warned), verdict.warned


async def use(url, bearer, mode, context):
    """List everything, call every tool (as the scenario wants it, if it says), read and get the rest."""

    async def elicit(_, params):
        await client.call_tool("test_mrtr_unrelated", {})
        return ElicitResult(action="accept", content={"confirmed": True})

    async def sample(_, params):
        return CreateMessageResult(role="assistant", model="m", content=TextContent(text="4"))

    async def roots(_):
        return ListRootsResult(roots=[])

    callbacks = {"elicitation_callback": elicit, "sampling_callback": sample, "list_roots_callback": roots}
    async with sdk_client(url, bearer, mode, **callbacks) as client:
        can = client.server_capabilities
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        calls = context.get("toolCalls") or [{"name": name, "arguments": example(tools, name)} for name in tools]
        for call in calls:
            await client.call_tool(call["name"], call["arguments"])
        if can.resources:
            for resource in (await client.list_resources()).resources:
                await client.read_resource(resource.uri)
        if can.prompts:
            for prompt in (await client.list_prompts()).prompts:
                await client.get_prompt(prompt.name)


async def call_once(url, bearer, tool):
    """Call a tool as a client that has no stream of its own: the scenario answers on whichever stream is the newest."""
    async with injecting([url], bearer) as injector, httpx2.AsyncClient(timeout=20) as client:
        endpoint = injector.url + urlsplit(url).path
        _, headers = await open_session(client, endpoint)
        assert "successfully" in (await ask(client, endpoint, "tools/call", {"name": tool}, **headers)).text


def example(tools, name):
    """Return arguments for a tool; the one that takes a schema gets what came of another tool's."""
    properties = tools[name].input_schema.get("properties", {})
    if name == "json_schema_echo":
        return {"schema": tools["json_schema_2020_12_tool"].input_schema}
    return {key: EXAMPLES.get(value.get("type"), "text") for key, value in properties.items()}
