"""`mcpctl mcp`: a project over stdio, used by the official SDK's client and by hand."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.installation import PROGRAM

UPSTREAM = str(Path(__file__).parents[1] / "upstreams" / "everything.py")
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


@pytest.fixture(scope="module")
def bridged(cli):
    """A project whose only server shows every kind of answer."""
    cli.ok("create", "server", "everything", "--command", f"{sys.executable} {UPSTREAM} --stdio")
    cli.ok("create", "project", "bridged", "--server", "everything")
    return "bridged"


def parameters(cli, *options, project="demo", **environment):
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcpctl.cli.main", "mcp", "-p", project, *options],
        env=cli.environment | environment,
    )


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
async def test_the_sdk_lists_and_calls_tools_and_hears_progress(cli, mode):
    heard = []

    async def progress(done, total, message):
        heard.append(done)

    async with asyncio.timeout(60), Client(stdio_client(parameters(cli)), mode=mode) as client:
        tools = await client.list_tools()
        result = await client.call_tool("time__get_current_time", {"timezone": "UTC"})
        await client.call_tool("notes__count", {"to": 3}, progress_callback=progress)

    assert "time__get_current_time" in {tool.name for tool in tools.tools}
    assert '"timezone": "UTC"' in result.content[0].text
    assert heard[-1] == 3


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_a_call_that_the_sdk_gives_up_is_cancelled_at_the_server(cli, bridged, mode):
    running = asyncio.Event()

    async def progress(*_):
        running.set()

    async with asyncio.timeout(60), Client(stdio_client(parameters(cli, project=bridged)), mode=mode) as client:
        waiting = client.call_tool("wait_forever", {"key": mode}, progress_callback=progress)
        given_up = asyncio.create_task(waiting)
        await running.wait()
        given_up.cancel()
        await asyncio.wait({given_up})
        known = await client.call_tool("was_cancelled", {"key": mode})

    assert known.structured_content == {"result": True}


async def test_an_agents_token_shows_what_the_agent_may_see(cli):
    bearer = cli.ok("create", "mcptoken", "of-bridge", "-p", "demo", "-o", "token").strip()

    async with asyncio.timeout(60), Client(stdio_client(parameters(cli, MCPCTL_TOKEN=bearer))) as client:
        tools = await client.list_tools()

    assert tools.tools == []


class Talk:
    """The bridge as a process, line by line."""

    def __init__(self, cli, *options, project="demo", **environment):
        self.process = subprocess.Popen(
            [*PROGRAM, "mcp", "-p", project, *options],
            env=cli.environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        self.process.wait()

    def say(self, message):
        self.process.stdin.write((message if isinstance(message, str) else json.dumps(message)) + "\n")
        self.process.stdin.flush()

    def hear(self):
        return json.loads(self.process.stdout.readline())


def test_a_line_that_is_no_message_is_answered_and_the_next_one_works(cli):
    with Talk(cli) as talk:
        talk.say("{")
        assert talk.hear()["error"]["code"] == -32700
        talk.say(INITIALIZE)
        assert talk.hear()["result"]["protocolVersion"] == "2025-11-25"


def test_a_bearer_that_is_not_accepted_is_an_error_that_says_so(cli):
    with Talk(cli, MCPCTL_TOKEN="mcpctl_pat_" + "x" * 49) as talk:
        talk.say(INITIALIZE)
        answer = talk.hear()

    assert answer["id"] == 1
    assert "run mcpctl login" in answer["error"]["message"]


def test_a_project_that_may_not_be_used_is_an_error_that_says_so(cli):
    with Talk(cli, project="nowhere") as talk:
        talk.say(INITIALIZE)
        answer = talk.hear()

    assert answer["id"] == 1
    assert "this bearer may not use this project" in answer["error"]["message"]


def test_a_stateless_request_and_its_cancellation_pass(cli, bridged):
    def asks(number, name, **arguments):
        meta = MODERN_META | {"progressToken": number}
        params = {"name": name, "arguments": arguments, "_meta": meta}
        return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}

    with Talk(cli, project=bridged) as talk:
        talk.say(asks(1, "wait_forever", key="raw"))
        assert talk.hear()["method"] == "notifications/progress"
        talk.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        talk.say(asks(2, "was_cancelled", key="raw"))
        answer = talk.hear()

    assert (answer["id"], answer["result"]["structuredContent"]) == (2, {"result": True})


def test_a_method_that_no_header_can_carry_is_answered(cli):
    with Talk(cli) as talk:
        talk.say({"jsonrpc": "2.0", "id": 1, "method": "tools list\n", "params": {"_meta": MODERN_META}})
        assert talk.hear()["error"]["code"] == -32600
        talk.say({"jsonrpc": "2.0", "id": 2, "method": 5})
        assert talk.hear()["error"]["code"] == -32600
        talk.say({"jsonrpc": "2.0", "id": 3, "method": "nothing/known", "params": {"_meta": MODERN_META}})
        assert talk.hear()["error"]["code"] == -32601


@pytest.mark.parametrize("end", ["eof", "term", "hangup"])
def test_it_ends_when_its_client_goes(cli, end):
    with Talk(cli) as talk:
        talk.say(INITIALIZE)
        talk.hear()

        if end == "eof":
            talk.process.stdin.close()
            talk.process.stdin = None
        elif end == "hangup":
            talk.process.stdout.close()
            talk.say({"jsonrpc": "2.0", "id": 2, "method": "ping"})
        else:
            talk.process.send_signal(signal.SIGTERM)

        assert talk.process.wait(timeout=20) == 0
        assert talk.process.stderr.read() == ""


def test_calls_run_side_by_side(cli):
    with Talk(cli) as talk:
        talk.say(INITIALIZE)
        talk.hear()
        talk.say({"jsonrpc": "2.0", "method": "notifications/initialized"})
        for number in range(2, 12):
            talk.say({"jsonrpc": "2.0", "id": f"n{number}", "method": "ping"})
        answers = [talk.hear() for _ in range(10)]

    assert {answer["id"] for answer in answers} == {f"n{number}" for number in range(2, 12)}
    assert all(answer["result"] == {} for answer in answers)


def test_stdin_cannot_carry_the_token(cli):
    assert "stdin carries the messages" in cli.refused("mcp", "-p", "demo", "--token", "-", code=2)
