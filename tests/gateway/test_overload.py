"""More than the routers take: what is too much is refused at once, the rest is carried out, and projects take turns."""

import asyncio
import os
import signal
import time
from contextlib import contextmanager

import aiohttp
import pytest

from mcpctl.bus.frames import FIRST_FRAME_WITHIN
from mcpctl.gateway.turns import PATIENCE
from tests.gateway.test_edge import headers, modern

pytestmark = pytest.mark.asyncio(loop_scope="session")

WAITING = 20
ON_THEIR_WAY = 64
"""Requests that a gateway sends before a router has reacted, at first."""

MANY = 100


@contextmanager
def frozen(*parts, stood_still):
    """Stop processes inside of this; the seconds of that are added to `stood_still`."""
    began = time.monotonic()
    for part in parts:
        os.kill(part.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for part in parts:
            os.kill(part.process.pid, signal.SIGCONT)
        stood_still.append(time.monotonic() - began)


async def test_while_routers_do_not_keep_up_some_wait_the_rest_is_refused_at_once_and_others_are_let_in(system):
    for attempt in range(5):
        url = await system.gateway(
            f"small-gateway-{attempt}", MCPCTL_WAITING_REQUESTS=str(WAITING), MCPCTL_ADDRESS_CONNECTIONS="0"
        )
        stood_still = [0.0]
        try:
            await ask_while_routers_are_frozen(system, url, stood_still)
        except AssertionError:
            if stood_still[-1] < FIRST_FRAME_WITHIN:
                raise
        else:
            return
        finally:
            await system.parts.pop(f"small-gateway-{attempt}").stop()
    pytest.fail("this machine is too busy: what is on its way to a router is given up after a second")


async def ask_while_routers_are_frozen(system, url, stood_still):
    answered = asyncio.Queue()

    async def ask(http, project):
        began = time.monotonic()
        body, sent = modern("tools/list"), headers(system.tokens[project])
        async with http.post(f"{url}/projects/{project}/mcp", json=body, headers=sent) as answer:
            said = await answer.json()
        answered.put_nowait((project, answer, said, time.monotonic() - began))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.timeout(30):
        for project in ("dual", "old"):  # the gateway knows the bearers, the routers the servers
            await ask(http, project)
            assert (await answered.get())[1].status == 200
        refused = MANY - ON_THEIR_WAY - WAITING // 2
        with frozen(system.parts["router"], system.parts["router-2"], stood_still=stood_still):
            noisy = [asyncio.create_task(ask(http, "dual")) for _ in range(MANY)]
            for _ in range(refused):
                project, answer, said, took = await answered.get()
                assert answer.status == 503
                assert answer.headers["Retry-After"] == "1"
                assert "the routers do not keep up" in said["error"]["message"]
                assert took < PATIENCE  # else it had waited for its turn
            quiet = [asyncio.create_task(ask(http, "old")) for _ in range(3)]
            cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
            sent = headers(system.tokens["dual"], "notifications/cancelled")
            async with http.post(f"{url}/projects/dual/mcp", json=cancel, headers=sent) as answer:
                assert answer.status == 202, "what makes less work is taken"
            await ask(http, "dual")
            assert (await answered.get())[1].status == 503
            assert not [task for task in quiet if task.done()]

        rest = [await answered.get() for _ in range(MANY - refused + 3)]
        assert {answer.status for _, answer, _, _ in rest} == {200}
        assert [project for project, *_ in rest].count("old") == 3, "they waited, beside a queue that takes no more"
        await asyncio.gather(*noisy, *quiet)
