"""One system on a cluster of three nats-servers, with a stdio upstream that counts its calls."""

import sys
from pathlib import Path

import pytest_asyncio

from tests.system import System

COUNTING = str(Path(__file__).parents[1] / "upstreams" / "counting.py")


@pytest_asyncio.fixture(loop_scope="session")
async def system(running_system):
    """The whole system, each server up and every stream with all its copies."""
    await running_system.wake()
    await running_system.cluster.whole()
    return running_system


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def running_system(tmp_path_factory):
    """One of each part: what fails is seen, and no replica hides it. Project `p` has the server `counting`."""
    running = System(tmp_path_factory.mktemp("system"), nodes=3)
    try:
        await running.start()
        running.url = await running.gateway()
        await running.server("counting", command=(sys.executable, COUNTING))
        await running.project("p", "counting")
        running.token_of_p = await running.token("p", "agent", "role:run,resource:servers")
        yield running
    finally:
        await running.stop()
