"""The suite, and whole systems in front of its fixture server."""

import pytest_asyncio

from tests.conformance.suite import Suite


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def suite(pytestconfig):
    return await Suite.install(pytestconfig.cache.mkdir("node"))
