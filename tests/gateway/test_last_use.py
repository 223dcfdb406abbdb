"""A call through a gateway shows in the token's last use."""

import asyncio

import pytest

from mcpctl.bus.contracts import token
from tests.gateway.peers import sdk_client

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_the_last_use_says_which_gateway_and_which_tool(system, mode):
    name = f"used-{mode[:3]}".replace("202", "new")
    bearer = await system.token("dual", name, "role:run,resource:servers")
    async with asyncio.timeout(30), sdk_client(f"{system.urls[0]}/projects/dual/mcp", bearer, mode) as client:
        await client.list_tools()
        await client.call_tool("echo", {"text": "x"})

    asked = token.DescribeToken(bearer=system.bearer, project="dual", name=name)
    async with asyncio.timeout(5):
        while (use := (await system.operator.call(token.describe, asked)).last_use) is None or use.tool is None:
            await asyncio.sleep(0.02)

    assert use.tool == "dual/echo"
    assert use.gateway.startswith("gateway-")
