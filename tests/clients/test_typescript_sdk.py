"""The official TypeScript SDK's client, of both generations, as npm installs it."""

import asyncio
import json
import os
import uuid
from pathlib import Path

import pytest

from tests.clients.scenario import NEW, OLD, done
from tests.node import NODE

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPT = Path(__file__).parent / "node" / "typescript.mjs"


async def run(npm_clients, endpoint, generation, mode):
    """Run the script where its packages are; return the report that it prints."""
    environment = {"MCP_GENERATION": generation, "MCP_MODE": mode, "MCP_KEY": uuid.uuid4().hex}
    process = await asyncio.create_subprocess_exec(
        NODE,
        *("--input-type=module", "-"),
        cwd=npm_clients,
        env=os.environ | environment | {"MCP_URL": endpoint.url, "MCP_TOKEN": endpoint.token},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            said, complaint = await process.communicate(SCRIPT.read_bytes())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complaint.decode()
    return json.loads(said)


async def test_the_first_generation_does_every_step_in_the_old_era(endpoint, npm_clients):
    done(await run(npm_clients, endpoint, "v1", "legacy"), OLD)


async def test_the_second_generation_does_every_step_in_the_old_era(endpoint, npm_clients):
    done(await run(npm_clients, endpoint, "v2", "legacy"), OLD)


@pytest.mark.parametrize("mode", ["auto", "modern"])
async def test_the_second_generation_does_every_step_in_the_new_era(endpoint, npm_clients, mode):
    done(await run(npm_clients, endpoint, "v2", mode), NEW)
