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

WRONG = "mcpctl_pat_wrong"
SCRIPT = Path(__file__).parent / "node" / "typescript.mjs"


async def ran(npm_clients, endpoint, generation, mode):
    """Run the script where its packages are; return its exit code, and what it printed to stdout and stderr."""
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
    return process.returncode, said.decode(), complaint.decode()


async def run(npm_clients, endpoint, generation, mode):
    """Do every step; return the report of it."""
    code, said, complaint = await ran(npm_clients, endpoint, generation, mode)
    assert code == 0, complaint
    return json.loads(said)


async def test_the_first_generation_does_every_step_in_the_old_era(endpoint, npm_clients):
    done(await run(npm_clients, endpoint, "v1", "legacy"), OLD)


async def test_the_second_generation_does_every_step_in_the_old_era(endpoint, npm_clients):
    done(await run(npm_clients, endpoint, "v2", "legacy"), OLD)


@pytest.mark.parametrize("mode", ["auto", "modern"])
async def test_the_second_generation_does_every_step_in_the_new_era(endpoint, npm_clients, mode):
    done(await run(npm_clients, endpoint, "v2", mode), NEW)


@pytest.mark.parametrize(("generation", "mode"), [("v1", "legacy"), ("v2", "legacy"), ("v2", "auto")])
async def test_a_wrong_bearer_is_refused_in_words(front, npm_clients, generation, mode):
    endpoint = front.endpoint("dual", token=WRONG)

    code, _, complaint = await ran(npm_clients, endpoint, generation, mode)

    assert code == 1
    assert "the token is not valid" in complaint or "requires authorization" in complaint
    assert WRONG not in complaint
