"""The MCP Inspector's two command lines: one connects for each command, the other (`mcpdo`) holds a connection."""

import asyncio
import json
import os
import signal
import tempfile
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients.scenario import TOOLS, tells
from tests.node import NODE

pytestmark = pytest.mark.asyncio(loop_scope="session")

ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])
WAIT = ("--method", "tools/call", "--tool-name", "wait_forever", "--tool-arg", "key={key}")
HELD_WAIT = ("@here", "tools/call", "wait_forever", "key:={key}")
AUTHORIZATION_NEEDED = 3
TOOL_FAILED = 5
"""Exit codes: the bearer was refused; a tool returned an error itself."""


class CommandLine:
    """A command, and the options that each use of it begins with."""

    def __init__(self, endpoint, environment, *command):
        self.endpoint, self._environment, self._command = endpoint, environment, command

    @asynccontextmanager
    async def running(self, *arguments):
        process = await asyncio.create_subprocess_exec(
            NODE,
            *self._command,
            *arguments,
            env=os.environ | self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(30):
                yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def ran(self, *arguments):
        """Run to the end; return the exit code, and what was printed to stdout and stderr."""
        async with self.running(*arguments) as process:
            said, complaint = await process.communicate()
            return process.returncode, said.decode(), complaint.decode()

    async def says(self, *arguments, code=0):
        """Return the JSON that is printed."""
        ended, said, complaint = await self.ran(*arguments)
        assert ended == code, complaint
        return json.loads(said)

    async def interrupted(self, *arguments):
        """Interrupt a call of `wait_forever` when it has reached the server; return the key of the call."""
        key = uuid.uuid4().hex
        async with self.running(*(argument.format(key=key) for argument in arguments)) as process:
            assert await tells(self.endpoint, "has_started", key)
            process.send_signal(signal.SIGINT)
            await process.wait()
        return key


@pytest.fixture
def folder():
    """A folder with a short name: the path of a socket may not have more than 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mcpctl-") as name:
        yield Path(name)


@pytest.fixture
def token():
    """No other bearer than the project's own."""
    return ""


@pytest.fixture
def command_line(folder, npm_clients, front, token):
    """Make one of the Inspector's command lines; the bearer is in a file."""
    endpoint = front.endpoint("dual", token)
    servers = folder / "servers.json"
    servers.touch(0o600)
    entry = {"type": "streamable-http", "url": endpoint.url, "headers": endpoint.headers}
    servers.write_text(json.dumps({"mcpServers": {"here": entry}}))
    environment = {
        "HOME": str(folder),
        "MCP_INSPECTOR_SECRET_STORE": "memory",
        "MCP_INSPECTOR_DAEMON_DIR": str(folder / "daemon"),
        "MCP_INSPECTOR_DAEMON_TOKEN": uuid.uuid4().hex,
    }
    package = npm_clients / "node_modules" / "@modelcontextprotocol" / "inspector" / "clients"

    def make(script, *options):
        options = (*options, "--config", str(servers), "--format", "json")
        return CommandLine(endpoint, environment, str(package / script), *options)

    return make


@pytest.fixture
def inspect(command_line, era):
    return command_line("launcher/build/index.js", "--cli", "--server", "here", "--protocol-era", era)


@pytest_asyncio.fixture(loop_scope="session")
async def mcpdo(command_line, era):
    """Have a connection, `@here`, that a process in the background holds until the end of the test."""
    command = command_line("mcpdo/build/mcp-bin.js")
    try:
        assert (await command.says("connect", "here", "--era", era))["protocolEra"] == era
        yield command
    finally:
        await command.says("daemon", "stop")


@ERAS
async def test_lists_calls_reads_and_gets_a_prompt(inspect):
    tools, resources, prompts, called, failed, read, prompt = await asyncio.gather(
        inspect.says("--method", "tools/list"),
        inspect.says("--method", "resources/list"),
        inspect.says("--method", "prompts/list"),
        inspect.says("--method", "tools/call", "--tool-name", "add", "--tool-arg", "a=2", "b=40"),
        inspect.says(
            "--method", "tools/call", "--tool-name", "fail", "--tool-arg", "text=on purpose", code=TOOL_FAILED
        ),
        inspect.says("--method", "resources/read", "--uri", "note://today"),
        inspect.says("--method", "prompts/get", "--prompt-name", "greet", "--prompt-args", "name=Ann"),
    )

    assert {tool["name"] for tool in tools["result"]["tools"]} >= TOOLS
    assert [resource["name"] for resource in resources["result"]["resources"]] == ["today"]
    assert [prompt["name"] for prompt in prompts["result"]["prompts"]] == ["greet"]
    assert called["result"]["structuredContent"] == {"result": 42}
    assert failed["result"]["isError"]
    assert read["result"]["contents"][0]["text"] == "the note of today"
    assert prompt["result"]["messages"][0]["content"]["text"] == "Say hello to Ann."


@ERAS
async def test_shows_the_result_but_not_the_progress_of_a_call(inspect):
    said = await inspect.says("--method", "tools/call", "--tool-name", "count", "--tool-arg", "steps=3")

    assert said["result"]["content"] == [{"type": "text", "text": "counted to 3"}]
    assert "step 1" not in str(said)


@ERAS
async def test_answers_no_elicitation_and_says_that_the_tool_needs_one(inspect):
    code, _, complaint = await inspect.ran("--method", "tools/call", "--tool-name", "ask_colour")

    assert code == 1
    assert "elicitation" in json.loads(complaint.splitlines()[-1])["error"]["message"]


@ERAS
async def test_a_held_connection_answers_an_elicitation(mcpdo):
    asked = await mcpdo.says("@here", "tools/call", "ask_colour")
    waiting = asked["elicitationPending"]
    assert waiting["message"] == "Which colour?"

    answered = await mcpdo.says("elicitation/respond", waiting["elicitationId"], "colour:=green")
    assert answered["content"] == [{"type": "text", "text": "green"}]


@pytest.mark.parametrize("era", ["modern"])
async def test_cancels_in_the_new_era_by_hanging_up(inspect, mcpdo):
    key = await inspect.interrupted(*WAIT)
    held = await mcpdo.interrupted(*HELD_WAIT)
    await mcpdo.says("disconnect", "here")

    assert await tells(inspect.endpoint, "was_cancelled", key)
    assert await tells(mcpdo.endpoint, "was_cancelled", held)


@pytest.mark.parametrize("era", ["legacy"])
async def test_cancels_nothing_in_the_old_era_where_hanging_up_is_no_cancellation(inspect, mcpdo):
    key = uuid.uuid4().hex
    async with inspect.running(*(argument.format(key=key) for argument in WAIT)) as process:
        assert await tells(inspect.endpoint, "has_started", key)
        # By the end of this the first stream has begun; a call whose stream has not ends with its connection.
        held = await mcpdo.interrupted(*HELD_WAIT)
        await mcpdo.says("disconnect", "here")
        process.send_signal(signal.SIGINT)
        await process.wait()

    told = await asyncio.gather(*(tells(inspect.endpoint, "was_cancelled", call) for call in (key, held)))
    assert told == [False, False]


@ERAS
@pytest.mark.parametrize("token", ["mcpctl_pat_wrong"])
async def test_a_wrong_bearer_is_refused_in_words(inspect, token):
    code, _, complaint = await inspect.ran("--stored-auth-only", "--method", "tools/list")

    assert code == AUTHORIZATION_NEEDED
    assert json.loads(complaint.splitlines()[-1])["error"]["code"] == "auth_required"
    assert token not in complaint
