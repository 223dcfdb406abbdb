"""The official SDK's client, in both eras, against `mcpctl up --demo` and its third-party servers."""

import asyncio

import pytest

from tests.gateway.peers import sdk_client


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_tools_of_third_party_servers_are_listed_and_called(demo, mode):
    async with asyncio.timeout(60), sdk_client(demo.endpoint, demo.token, mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"time__get_current_time", "git__git_log", "notes__count"} <= names

        now = await client.call_tool("time__get_current_time", {"timezone": "UTC"})
        assert '"timezone": "UTC"' in now.content[0].text
        log = await client.call_tool("git__git_log", {"repo_path": str(demo.data / "demo" / "sample-repo")})
        assert not log.is_error

        steps = []

        async def progress(step, total, message):
            steps.append(step)

        counted = await client.call_tool("notes__count", {"to": 3}, progress_callback=progress)
        assert counted.content[0].text == "counted to 3"
        assert steps == [1, 2, 3]


async def test_a_single_server_has_no_prefixes(demo):
    url = f"{demo.url}/projects/demo/servers/time/mcp"
    async with asyncio.timeout(60), sdk_client(url, demo.token, "2026-07-28") as client:
        assert "get_current_time" in {tool.name for tool in (await client.list_tools()).tools}
