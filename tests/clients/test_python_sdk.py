"""The official Python SDK's client."""

import asyncio
import uuid

import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult

from tests.clients.scenario import NEW, OLD, done

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def run(endpoint, mode):
    """Do every step; return the report of it."""
    asked, steps, key = [], [], uuid.uuid4().hex

    async def answer(context, params):
        asked.append(params.message)
        return ElicitResult(action="accept", content={"colour": "green"})

    async def step(progress, total, message):
        steps.append([progress, total, message])

    async with (
        asyncio.timeout(30),
        httpx2.AsyncClient(headers=endpoint.headers, timeout=30) as http,
        Client(
            streamable_http_client(endpoint.url, http_client=http), mode=mode, elicitation_callback=answer
        ) as client,
    ):
        return {
            "version": client.protocol_version,
            "tools": [tool.name for tool in (await client.list_tools()).tools],
            "resources": [resource.name for resource in (await client.list_resources()).resources],
            "templates": [template.name for template in (await client.list_resource_templates()).resource_templates],
            "prompts": [prompt.name for prompt in (await client.list_prompts()).prompts],
            "sum": (await client.call_tool("add", {"a": 2, "b": 40})).structured_content["result"],
            "failure": (await client.call_tool("fail", {"text": "on purpose"})).is_error,
            "read": (await client.read_resource("note://today")).contents[0].text,
            "templated": (await client.read_resource("note://by-name/ann")).contents[0].text,
            "prompt": (await client.get_prompt("greet", {"name": "Ann"})).messages[0].content.text,
            "counted": (await client.call_tool("count", {"steps": 3}, progress_callback=step)).content[0].text,
            "steps": steps,
            "colour": (await client.call_tool("ask_colour")).content[0].text,
            "asked": asked,
            "gave_up": await gave_up(client, key),
            "cancelled": (await client.call_tool("was_cancelled", {"key": key})).structured_content["result"],
        }


async def gave_up(client, key):
    """Call the tool that never returns, and cancel the call at its first step of progress."""
    heard = asyncio.Event()

    async def hear(progress, total, message):
        heard.set()

    call = asyncio.create_task(client.call_tool("wait_forever", {"key": key}, progress_callback=hear))
    await heard.wait()
    call.cancel()
    await asyncio.wait({call})
    return call.cancelled()


@pytest.mark.parametrize(("mode", "version"), [("legacy", OLD), ("auto", NEW), (NEW, NEW)])
async def test_does_every_step(endpoint, mode, version):
    done(await run(endpoint, mode), version)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_wrong_bearer_is_refused(front, mode):
    with pytest.RaisesGroup(MCPError, flatten_subgroups=True):
        await run(front.endpoint("dual", token="mcpctl_pat_wrong"), mode)
