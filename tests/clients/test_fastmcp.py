"""FastMCP's client."""

import asyncio
import uuid

import pytest
from fastmcp import Client
from fastmcp.client.transports import StreamableHttpTransport
from mcp.shared.exceptions import MCPError

from tests.clients.scenario import NEW, OLD, done

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def run(endpoint, mode):
    """Do every step; return the report of it."""
    asked, steps, key = [], [], uuid.uuid4().hex

    async def answer(message, response_type, params, context):
        asked.append(message)
        return response_type(colour="green")

    async def step(progress, total, message):
        steps.append([progress, total, message])

    transport = StreamableHttpTransport(endpoint.url, auth=endpoint.token or None)
    async with asyncio.timeout(30), Client(transport, mode=mode, elicitation_handler=answer) as client:
        return {
            "version": client.session.protocol_version,
            "tools": [tool.name for tool in await client.list_tools()],
            "resources": [resource.name for resource in await client.list_resources()],
            "templates": [template.name for template in await client.list_resource_templates()],
            "prompts": [prompt.name for prompt in await client.list_prompts()],
            "sum": (await client.call_tool("add", {"a": 2, "b": 40})).data.result,
            "failure": (await client.call_tool("fail", {"text": "on purpose"}, raise_on_error=False)).is_error,
            "read": (await client.read_resource("note://today"))[0].text,
            "templated": (await client.read_resource("note://by-name/ann"))[0].text,
            "prompt": (await client.get_prompt("greet", {"name": "Ann"})).messages[0].content.text,
            "counted": (await client.call_tool("count", {"steps": 3}, progress_handler=step)).data.result,
            "steps": steps,
            "colour": (await client.call_tool("ask_colour")).data.result,
            "asked": asked,
            "gave_up": await gave_up(client, key),
            "cancelled": (await client.call_tool("was_cancelled", {"key": key})).data.result,
        }


async def gave_up(client, key):
    """Call the tool that never returns, and cancel the call at its first step of progress."""
    heard = asyncio.Event()

    async def hear(progress, total, message):
        heard.set()

    call = asyncio.create_task(client.call_tool("wait_forever", {"key": key}, progress_handler=hear))
    await heard.wait()
    call.cancel()
    await asyncio.wait({call})
    return call.cancelled()


@pytest.mark.parametrize(("mode", "version"), [("legacy", OLD), ("auto", NEW), (NEW, NEW)])
async def test_does_every_step(endpoint, mode, version):
    done(await run(endpoint, mode), version)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_a_wrong_bearer_is_refused(front, mode):
    with pytest.raises(MCPError):
        await run(front.endpoint("dual", token="mcpctl_pat_wrong"), mode)
