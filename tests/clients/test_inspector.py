"""The MCP Inspector's two command lines: one that connects for each command, and `mcpdo`, which holds a connection."""

import asyncio
import json
import os
import signal
import tempfile
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.clients.scenario import TOOLS, tells
from tests.node import NODE

pytestmark = pytest.mark.asyncio(loop_scope="session")

ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])
ONE_SHOT = "launcher/build/index.js", "--cli"
HELD = ("mcpdo/build/mcp-bin.js",)
TOOL_SAID_ERROR = 5
"""The exit code of the command line for a tool's own error."""


class Inspector:
    """A command line of the Inspector, with a folder of its own; the bearer stands in a file there."""

    def __init__(self, npm_clients, folder, endpoint, *program):
        script, *arguments = program
        package = npm_clients / "node_modules" / "@modelcontextprotocol" / "inspector" / "clients"
        self.endpoint = endpoint
        self._command = (NODE, str(package / script), *arguments, "--format", "json")
        self.config = folder / "servers.json"
        server = {"type": "streamable-http", "url": endpoint.url, "headers": endpoint.headers}
        self.config.touch(0o600)
        self.config.write_text(json.dumps({"mcpServers": {"gateway": server}}))
        self._environment = os.environ | {
            "HOME": str(folder),
            "MCP_INSPECTOR_SECRET_STORE": "memory",
            "MCP_INSPECTOR_DAEMON_DIR": str(folder / "daemon"),
            "MCP_INSPECTOR_DAEMON_TOKEN": uuid.uuid4().hex,
        }

    @asynccontextmanager
    async def running(self, *arguments):
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            env=self._environment,
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
        """Run a command to its end; return its exit code, and what it printed to stdout and stderr."""
        async with self.running(*arguments) as process:
            said, complaint = await process.communicate()
            return process.returncode, said.decode(), complaint.decode()

    async def says(self, *arguments, code=0):
        """Return the JSON that a command prints."""
        ended, said, complaint = await self.ran(*arguments)
        assert ended == code, complaint
        return json.loads(said)

    async def cancelled(self, *arguments):
        """Interrupt a command that calls `wait_forever` when the call is there; tell whether it was cancelled there."""
        key = uuid.uuid4().hex
        async with self.running(*[part.format(key=key) for part in arguments]) as process:
            assert await tells(self.endpoint, "has_started", key)
            process.send_signal(signal.SIGINT)
            await process.wait()
        return await tells(self.endpoint, "was_cancelled", key)


@pytest.fixture
def folder():
    """A folder with a short name: a socket's path may have no more than 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mcpctl-") as name:
        yield Path(name)


class OneShot(Inspector):
    """Connects, runs one method, and disconnects."""

    def __init__(self, npm_clients, folder, endpoint, era):
        super().__init__(npm_clients, folder, endpoint, *ONE_SHOT)
        self._where = ("--config", str(self.config), "--server", "gateway", "--protocol-era", era)

    async def result(self, method, *arguments, code=0):
        return (await self.says(*self._where, "--method", method, *arguments, code=code))["result"]

    async def call(self, tool, *pairs, code=0):
        given = ("--tool-arg", *pairs) if pairs else ()
        return await self.result("tools/call", "--tool-name", tool, *given, code=code)


@pytest.fixture
def one_shot(npm_clients, folder, front, era):
    return OneShot(npm_clients, folder, front.endpoint("dual"), era)
