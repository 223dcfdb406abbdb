"""A gateway as a pod has it: nothing but the bus's URL, its CA, and the projected token that the kubelet replaces."""

import asyncio
import json
import os
import sys
import time

import aiohttp
import pytest

from mcpctl.cli.nats_server import free_port
from tests.certificates import Certificates
from tests.gateway.peers import http_upstream
from tests.gateway.test_door import ready
from tests.gateway.test_edge import META, headers, modern
from tests.pod_issuer import ACCOUNT, PodIssuer
from tests.system import System
from tests.upstreams import ticking

LASTS = 12
"""Seconds that the first token is good for, on a machine that is loaded."""


@pytest.fixture
async def system(tmp_path):
    running = System(tmp_path)
    yield running
    await running.stop()


def project(path, token):
    """Replace the token as the kubelet does: at once."""
    fresh = path.with_suffix(".new")
    fresh.write_text(token + "\n")
    fresh.rename(path)


async def read_log(path, text, count=1):
    async with asyncio.timeout(30):
        while (said := path.read_text()).count(text) < count:
            await asyncio.sleep(0.05)
    return said


async def count_ticks(http, url, bearer, numbers):
    """Take the numbered notifications of one call, until cancelled."""
    call = modern("tools/call", meta=META | {"progressToken": "p"}, name="tick", arguments={"pause_ms": 5})
    async with http.post(url, json=call, headers=headers(bearer, "tools/call", Mcp_Name="tick")) as answer:
        assert answer.status == 200
        async for line in answer.content:
            if line.startswith(b"data:"):
                numbers.append(json.loads(line[5:]).get("params", {}).get("progress"))


async def ask_steadily(http, url, bearer, statuses):
    while True:
        async with http.post(url, json=modern("tools/list"), headers=headers(bearer, "tools/list")) as answer:
            statuses.append(answer.status if "result" in await answer.json(content_type=None) else "no result")


async def test_a_gateway_serves_by_its_pods_token_alone_and_no_call_notices_its_replacement(
    system, tmp_path, monkeypatch
):
    certificates = Certificates(tmp_path)
    async with PodIssuer(certificates) as issuer, http_upstream(program=ticking.__file__) as upstream:
        monkeypatch.setenv("MCPCTL_POD_ISSUER", issuer.url)
        monkeypatch.setenv("MCPCTL_POD_ACCOUNTS", ACCOUNT)
        monkeypatch.setenv("MCPCTL_POD_ISSUER_CA", str(certificates.ca))
        await system.start()
        await system.server("ticking", url=upstream.url)
        await system.project("ticking", "ticking")
        bearer = await system.token("ticking", "agent", "role:run,resource:servers")
        token, port, log = tmp_path / "token", free_port(), tmp_path / "pod.log"
        given = [issuer.token(aud="api"), issuer.token("ec-1", exp=int(time.time()) + LASTS)]
        project(token, given[0])
        alone = {
            "PATH": os.environ["PATH"],
            "MCPCTL_NATS_URL": system.nats.url,
            "MCPCTL_NATS_CA": str(certificates.ca),
            "MCPCTL_NATS_TOKEN_FILE": str(token),
            "MCPCTL_HTTP_PORT": str(port),
        }
        with log.open("wb") as file:
            gateway = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mcpctl.gateway", env=alone, stderr=file
            )
        try:
            await ready(port, "it refuses this pod's token: the log of the token actor says why", status=503)
            ends = time.time() + LASTS
            project(token, issuer.token("ec-1", exp=int(ends)))
            await ready(port)

            url, numbers, statuses = f"http://127.0.0.1:{port}/projects/ticking/mcp", [], []
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout()) as http:
                running = [
                    asyncio.create_task(work)
                    for work in (count_ticks(http, url, bearer, numbers), ask_steadily(http, url, bearer, statuses))
                ]
                for turn in range(1, 4):
                    given.append(issuer.token())
                    project(token, given[-1])
                    await read_log(log, "credential renewed", turn)
                given.append(issuer.token(sub="system:serviceaccount:mcpctl:other"))
                project(token, given[-1])
                await read_log(log, "the new credential is not taken")
                await asyncio.sleep(max(0.0, ends + 1 - time.time()))
                seen = len(numbers)
                async with asyncio.timeout(20):
                    while len(numbers) < seen + 50:
                        assert not any(task.done() for task in running), (numbers[-3:], statuses[-3:])
                        await asyncio.sleep(0.05)
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

            assert numbers == list(range(1, len(numbers) + 1)), "a notification was lost, came twice or out of order"
            assert len(statuses) > 20
            assert set(statuses) == {200}
            said = (
                log.read_text() + (tmp_path / "actors.log").read_text() + (tmp_path / "nats" / "nats.log").read_text()
            )
            assert "its service account is none of MCPCTL_POD_ACCOUNTS" in said
            assert all(part not in said for bearer in given for part in bearer.split(".")[1:])
        finally:
            gateway.terminate()
            await gateway.wait()
