"""The official conformance suite passes through the gateway as it does without: on both wires, on all replicas."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conformance.results import RESULTS, write_down, written_down
from tests.conformance.suite import REVISIONS
from tests.gateway.peers import UPSTREAM, http_upstream, sdk_client
from tests.injector import injecting
from tests.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIXTURE = str(Path(__file__).parents[1] / "upstreams" / "conformance.py")
RECORD = "MCPCTL_RECORD_CONFORMANCE"
"""Set in the environment: write the results down instead of comparing them with what is written."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def upstream():
    async with http_upstream(program=FIXTURE) as running:
        yield running.url


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(tmp_path_factory, upstream):
    running = System(tmp_path_factory.mktemp("conformance"))
    try:
        await running.start()
        running.urls = [await running.gateway()]
        await running.server("conformance", url=upstream)
        yield running
    finally:
        await running.stop()


async def _replicas(system):
    """Have two routers and three gateways."""
    if len(system.urls) == 1:
        await system.run("router-2", "mcpctl.actors", "router")
        system.urls += [await system.gateway(f"gateway-{number}") for number in (2, 3)]


async def _project(system, name, *servers, bindings=("role:run,resource:servers",), **more):
    await system.project(name, *servers, **more)
    return f"/projects/{name}/mcp", await system.token(name, "suite", *bindings)


async def _alone(system):
    return await _project(system, "alone", "conformance")


async def _replicated(system):
    await _replicas(system)
    return await _project(system, "replicated", "conformance")


async def _filtered(system):
    """A token that is given tools by name, nothing of another server, and is through the gate, sees no difference."""
    await _replicas(system)
    await system.server("hidden", command=(sys.executable, UPSTREAM, "--stdio"))
    named = ("role:view,resource:servers,name:conformance", "role:run,resource:tools,name:conformance/*")
    path, token = await _project(system, "filtered", "conformance", "hidden", bindings=named, gate={})
    async with sdk_client(system.urls[0] + path, token, "2026-07-28") as client:
        await client.call_tool("begin_session", {})
    return "/projects/filtered/servers/conformance/mcp", token


SETUPS = {
    "1 gateway, 1 router": _alone,
    "3 gateways, 2 routers": _replicated,
    "filtered, gated project": _filtered,
}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["direct", *SETUPS])
async def setup(request, suite, system, upstream, tmp_path_factory):
    """The name of a setup, and what both wires' runs in it found: verdicts and violations of the schema."""
    await system.wake()
    way = None if request.param == "direct" else await SETUPS[request.param](system)

    async def run(revision):
        out, violations = tmp_path_factory.mktemp("suite") / "out", []
        if way is None:
            return await suite.run(upstream.replace("127.0.0.1", "localhost"), revision, out), violations
        path, token = way
        async with injecting(system.urls, token, violations) as injector:
            return await suite.run(injector.url + path, revision, out), violations

    # Side by side: most of a run is waiting for what must not come.
    return request.param, dict(zip(REVISIONS, await asyncio.gather(*map(run, REVISIONS)), strict=True))


@pytest.mark.parametrize("revision", REVISIONS)
async def test_every_scenario_passes(suite, setup, revision):
    name, runs = setup
    verdicts, violations = runs[revision]

    lines = [
        f"{scenario}: {verdict.word}: {text}"
        for scenario, verdict in verdicts.items()
        for text in verdict.failed + verdict.warned
    ]
    lines += [f"schema: {violation}" for violation in violations]
    assert not lines, "\n" + "\n".join(lines)
    assert set(verdicts) == {*suite.scored(revision), *suite.unscored(revision)}
    if os.environ.get(RECORD):
        write_down(revision, suite.scored(revision), suite.unscored(revision), name)
    written = written_down()[revision]
    assert (written["scored"], written["unscored"]) == (suite.scored(revision), suite.unscored(revision))
    assert name in written["setups"], f"not in {RESULTS}: run again with {RECORD}=1"
