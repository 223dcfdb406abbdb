"""The official SDK's client, in both eras, against upstreams of every kind."""

import asyncio

import pytest

from tests.gateway.peers import sdk_client

pytestmark = pytest.mark.asyncio(loop_scope="session")

ERAS = pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
PROJECTS = pytest.mark.parametrize("project", ["dual", "old", "new", "pipe"])


def endpoint(system, project, gateway=0):
    return f"{system.urls[gateway]}/projects/{project}/mcp"


@ERAS
@PROJECTS
async def test_lists_calls_reads_and_gets_a_prompt(system, project, mode):
    async with asyncio.timeout(30), sdk_client(endpoint(system, project), system.tokens[project], mode) as client:
        tools = await client.list_tools()
        assert {"echo", "add", "fail"} <= {tool.name for tool in tools.tools}

        called = await client.call_tool("add", {"a": 2, "b": 40})
        assert called.structured_content == {"result": 42}

        failed = await client.call_tool("fail", {"text": "on purpose"})
        assert failed.is_error

        read = await client.read_resource("note://today")
        assert read.contents[0].text == "the note of today"
        templated = await client.read_resource("note://by-name/ann")
        assert templated.contents[0].text == "the note ann"
        assert (await client.list_resource_templates()).resource_templates[0].uri_template == "note://by-name/{name}"

        prompt = await client.get_prompt("greet", {"name": "Ann"})
        assert prompt.messages[0].content.text == "Say hello to Ann."


async def test_auto_mode_finds_the_modern_era(system):
    async with asyncio.timeout(30), sdk_client(endpoint(system, "dual"), system.tokens["dual"], "auto") as client:
        assert client.protocol_version == "2026-07-28"


@pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")
async def test_a_legacy_client_may_ping(system):
    async with asyncio.timeout(30), sdk_client(endpoint(system, "dual"), system.tokens["dual"], "legacy") as client:
        await client.send_ping()


@ERAS
@PROJECTS
async def test_progress_arrives_while_the_call_runs(system, project, mode):
    url, token = endpoint(system, project), system.tokens[project]
    key = f"progress-{project}-{mode}"
    heard = asyncio.Event()

    async def progress(step, total, message):
        heard.set()

    async with asyncio.timeout(30), sdk_client(url, token, mode) as client:
        call = asyncio.create_task(client.call_tool("wait_forever", {"key": key}, progress_callback=progress))
        await heard.wait()  # the tool itself never returns

        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


@ERAS
@pytest.mark.parametrize("project", ["dual", "old", "new"])
async def test_a_cancelled_call_is_cancelled_at_the_upstream(system, project, mode):
    url, token = endpoint(system, project), system.tokens[project]
    key = f"cancel-{project}-{mode}"
    heard = asyncio.Event()

    async def progress(step, total, message):
        heard.set()

    async with asyncio.timeout(30), sdk_client(url, token, mode) as client:
        call = asyncio.create_task(client.call_tool("wait_forever", {"key": key}, progress_callback=progress))
        await heard.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        other = await client.call_tool("was_cancelled", {"key": key})
        assert other.structured_content == {"result": True}


@ERAS
async def test_several_servers_are_merged_under_prefixes(system, mode):
    async with asyncio.timeout(30), sdk_client(endpoint(system, "many"), system.tokens["many"], mode) as client:
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert {"dual__echo", "old__echo", "pipe__echo"} <= set(names)
        assert names == sorted(names, key=lambda name: ["dual", "old", "pipe"].index(name.partition("__")[0]))

        for server in ("dual", "old", "pipe"):
            called = await client.call_tool(f"{server}__echo", {"text": server})
            assert called.content[0].text == server
            read = await client.read_resource(f"{server}+note://today")
            assert str(read.contents[0].uri) == f"{server}+note://today"
            prompt = await client.get_prompt(f"{server}__greet", {"name": server})
            assert prompt.messages[0].content.text == f"Say hello to {server}."
        uris = {str(resource.uri) for resource in (await client.list_resources()).resources}
        assert uris == {"dual+note://today", "old+note://today", "pipe+note://today"}


@ERAS
async def test_a_single_server_of_a_project_is_seen_without_prefixes(system, mode):
    url = f"{system.urls[0]}/projects/many/servers/old/mcp"
    async with asyncio.timeout(30), sdk_client(url, system.tokens["many"], mode) as client:
        assert "echo" in {tool.name for tool in (await client.list_tools()).tools}
        assert (await client.call_tool("echo", {"text": "plain"})).content[0].text == "plain"
