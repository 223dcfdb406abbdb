"""The fleet of `compose/compose.yaml`, whole: from outside, while it is restarted, and while parts of it die."""

import asyncio
import os
import sys
import time

import pytest
import pytest_asyncio

from tests.fleet.fleet import PROJECT, ROOT, TOOL, running_fleet
from tests.fleet.traffic import Traffic
from tests.soak.fleet import disturb

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAULTY_SECONDS = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory):
    async with running_fleet(tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def traffic(fleet):
    """A few clients of each kind, in use before and after what a test does."""
    clients = Traffic(fleet.url, PROJECT, fleet.token, TOOL, wait_ms=(0, 20, 300))
    async with clients.running(raw=2, legacy=2, sdk=1, streams=2):
        yield clients


async def test_it_passes_the_smoke_tests_that_operators_run(fleet):
    environment = os.environ | {
        "MCPGW_URL": f"https://{fleet.addresses['balancer']}:8443",
        "MCPGW_PROJECT": PROJECT,
        "MCPGW_TOKEN": fleet.token,
        "MCPGW_ADMIN_TOKEN": fleet.bearer,
        "SSL_CERT_FILE": str(fleet.secrets / "ca.pem"),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/smoke"),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()

    assert process.returncode == 0, out.decode()
    assert b"6 passed" in out, out.decode()


async def test_a_rolling_restart_of_everything_fails_no_request(fleet, traffic):
    """PostgreSQL apart, of which there is one."""
    began = time.monotonic()
    for number in ("1", "2", "3"):
        wave = [
            part for part in fleet.parts.values() if part.name.endswith(f"-{number}") and part.service[:4] != "nats"
        ]
        await asyncio.gather(*(part.restart() for part in wave))
        await fleet.parts[f"nats-{number}"].restart()
        await fleet.status()
    await traffic.stop()

    assert len([a for a in traffic.attempts if a.ended > began]) > 100
    assert [a for a in traffic.attempts if a.outcome != "done"] == []
    assert traffic.sessions_lost == []
    assert {ended for ended in traffic.streams if ended != "clean"} == set()


async def test_whatever_dies_freezes_or_is_restarted_nothing_is_wrong_lost_or_done_twice(fleet):
    verdict = await disturb(fleet, FAULTY_SECONDS, seed=int(time.time()))

    assert verdict.broken == {}, "\n".join((*map(str, verdict.figures.items()), *fleet.said))
