"""`mcpctl mcp`: a project over stdio, used by the official SDK's client and by hand."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tests.installation import PROGRAM

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


def parameters(cli, *options, **environment):
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", "mcpctl.cli.main", "mcp", "-p", "demo", *options],
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


class Talk:
    """The bridge as a process, line by line."""

    def __init__(self, cli, *options, **environment):
        self.process = subprocess.Popen(
            [*PROGRAM, "mcp", "-p", "demo", *options],
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
        self.process.communicate()

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
    assert "error" in answer


@pytest.mark.parametrize("end", ["eof", "term"])
def test_it_ends_when_its_client_goes(cli, end):
    with Talk(cli) as talk:
        talk.say(INITIALIZE)
        talk.hear()

        if end == "eof":
            talk.process.stdin.close()
            talk.process.stdin = None
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
