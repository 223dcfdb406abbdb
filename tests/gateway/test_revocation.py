"""What was taken away ends everywhere at once, and the operator is told; a process that was stopped writes nothing."""

import asyncio
import os
import re
import signal
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus.context import committing
from mcpctl.bus.contract import GetReceipt
from mcpctl.bus.contracts import audit, catalog, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.feed import LEASE
from mcpctl.cli import receipts
from mcpctl.cli.context import Context
from mcpctl.cli.errors import UNAVAILABLE, CliError
from mcpctl.cli.receipts import confirm
from mcpctl.cli.session import Session
from tests.gateway.peers import http_upstream
from tests.gateway.test_edge import META, headers, modern
from tests.upstreams import ticking

RUN = Binding.parse("role:run,resource:servers")

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def running_project(running_system):
    await running_system.wake()
    async with http_upstream(program=ticking.__file__) as upstream:
        await running_system.server("ticking", url=upstream.url)
        await running_system.project("ticking", "ticking")
        yield running_system


@pytest_asyncio.fixture(loop_scope="session")
async def ticker(running_project):
    await running_project.wake()
    return running_project


class Stream:
    """One call of `tick`: when something came last, and how it ended."""

    def __init__(self, answer):
        self.answer, self.chunks, self.latest, self.tail = answer, 0, 0.0, b""
        self.first = asyncio.Event()
        self.over = asyncio.create_task(self._read())

    async def _read(self):
        try:
            async for chunk in self.answer.content.iter_any():
                self.chunks, self.latest, self.tail = self.chunks + 1, time.monotonic(), chunk
                self.first.set()
        except aiohttp.ClientError as error:
            return type(error).__name__
        return "closed"


@asynccontextmanager
async def ticking_on(url, bearer, count, pause_ms=30, project="ticking"):
    """That many running calls, each of which has told something."""
    async with AsyncExitStack() as opened:
        connector = aiohttp.TCPConnector(limit=0)
        http = await opened.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        )
        meta = META | {"progressToken": "p"}
        call = modern("tools/call", meta=meta, name="tick", arguments={"pause_ms": pause_ms})
        sent = headers(bearer, "tools/call", Mcp_Name="tick")
        streams = []
        for _ in range(count):
            answer = await opened.enter_async_context(
                http.post(f"{url}/projects/{project}/mcp", json=call, headers=sent)
            )
            assert answer.status == 200, await answer.text()
            streams.append(Stream(answer))
        for stream in streams:
            await stream.first.wait()
        yield streams


async def mcpctl(system, *words):
    """Run a command as the admin; its exit code, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mcpctl.cli.main", *words),
        env=os.environ | {"MCPCTL_NATS_URL": system.nats.url, "MCPCTL_TOKEN": system.bearer},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    return process.returncode, said.decode(), complained.decode()


async def outcomes_of(system, project, name):
    """The outcomes and details of a token's calls, once the last of them is in the ledger."""
    while True:
        query = audit.Query(bearer=system.bearer, filter=audit.Filter(project=project, token=name, kind="result"))
        found = (await system.operator.call(audit.query, query)).items
        if found:
            return {(entry.event.outcome, entry.event.detail) for entry in found}
        await asyncio.sleep(0.1)


async def test_a_revocation_ends_what_runs_on_every_gateway_and_the_receipt_says_how_much(ticker):
    mine = await ticker.token("ticking", "mine", "role:run,resource:servers", "role:create,resource:mcptokens")
    issue = token.IssueToken(bearer=mine, project="ticking", name="its-child", bindings=(RUN,))
    child = (await ticker.operator.call(token.issue, issue)).bearer
    other = await ticker.token("ticking", "other", "role:run,resource:servers")
    async with (
        asyncio.timeout(60),
        ticking_on(ticker.urls[0], mine, 3) as here,
        ticking_on(ticker.urls[1], child, 2) as there,
        ticking_on(ticker.urls[1], other, 1) as others,
    ):
        code, said, told = await mcpctl(ticker, "revoke", "mcptoken", "mine", "-p", "ticking")
        assert code == 0, told
        assert 'mcptoken "mine" revoked' in said
        confirmed = re.search(r"confirmed by (\d+) replicas in ", said + told)
        assert int(confirmed[1]) >= 5, "two gateways, two routers, the SessionGate; and what other tests left"
        assert "5 calls and streams ended" in said + told
        for stream in (*here, *there):
            await stream.over
            assert b"revoked" in stream.tail
        before = others[0].chunks
        while others[0].chunks < before + 3:
            await asyncio.sleep(0.01)
        assert not others[0].over.done()
    assert await outcomes_of(ticker, "ticking", "mine") == {("revoked", "revoked_in_flight")}


async def test_two_registries_under_load_void_no_lease_and_either_tells_who_confirmed(ticker):
    await ticker.run("token-2", "mcpctl.actors", "token")
    steady = await ticker.token("ticking", "steady", "role:run,resource:servers")
    seen: set[int] = set()

    async def load(number):
        for turn in range(6):
            named = {"bearer": ticker.bearer, "project": "ticking", "name": f"loaded-{number}-{turn}"}
            await ticker.operator.call(token.issue, token.IssueToken(**named))
            with committing() as committed:
                await ticker.operator.call(token.revoke, token.RevokeToken(**named))
            asked = GetReceipt(bearer=ticker.bearer, committed=committed[-1])
            receipt = await ticker.operator.call(token.feed.receipt, asked)
            assert all(follower.confirmed for follower in receipt.followers)
            seen.add(len(receipt.followers))

    async with asyncio.timeout(90), AsyncExitStack() as opened:
        streams = [
            stream for url in ticker.urls for stream in await opened.enter_async_context(ticking_on(url, steady, 2))
        ]
        await asyncio.gather(*(load(number) for number in range(8)))
        assert not any(stream.over.done() for stream in streams)
    assert min(seen) >= 5, "both registries know all followers, whichever of them these ask"
    await ticker.parts["token-2"].stop()


async def test_a_gateway_that_was_stopped_meanwhile_is_named_and_then_writes_nothing(ticker, monkeypatch):
    monkeypatch.setattr(receipts, "WAIT_MS", 200)  # of the lease, which on a busy machine may be short already
    mine = await ticker.token("ticking", "slept", "role:run,resource:servers")
    other = await ticker.token("ticking", "awake", "role:run,resource:servers")
    url = await ticker.gateway("gateway-3")
    frozen = ticker.parts["gateway-3"].process
    async with (
        asyncio.timeout(60),
        ticking_on(url, mine, 10, 5) as streams,
        ticking_on(url, other, 2, 5) as others,
        ticking_on(ticker.urls[0], other, 1) as elsewhere,
    ):
        frozen.send_signal(signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            # Not as a process of its own: on a busy machine that may take longer to start than a lease lasts.
            with committing() as committed:
                revoke = token.RevokeToken(bearer=ticker.bearer, project="ticking", name="slept")
                await ticker.operator.call(token.revoke, revoke)
            operator = Session(ticker.operator, Context(nats_url=ticker.nats.url, bearer=ticker.bearer))
            with pytest.raises(CliError) as silence:
                await confirm(operator, committed)
            assert silence.value.code == UNAVAILABLE
            assert f":{frozen.pid})" in str(silence.value)  # by host and process
            assert "UTC, when its lease has run out" in str(silence.value)
            while time.monotonic() < stopped + LEASE + 0.5:
                await asyncio.sleep(0.05)
            # What the gateway had handed to the kernel before it was stopped has been read by now.
            await confirm(operator, committed)  # whose lease has run out can write nothing: that counts
            silent = {id(stream): stream.chunks for stream in (*streams, *others)}
        finally:
            frozen.send_signal(signal.SIGCONT)
        for stream in (*streams, *others):
            # Its lease was over: nobody could vouch for the others' streams either.
            assert await stream.over != "closed"
            assert stream.chunks == silent[id(stream)]
        assert not elsewhere[0].over.done()
    await ticker.parts["gateway-3"].kill()


async def test_a_frozen_project_answers_nobody_until_it_is_unfrozen(ticker):
    await ticker.project("cold", "ticking")
    bearer = await ticker.token("cold", "chilled", "role:run,resource:servers")
    url, sent = f"{ticker.urls[1]}/projects/cold/mcp", headers(bearer)
    async with (
        asyncio.timeout(60),
        ticking_on(ticker.urls[0], bearer, 2, project="cold") as streams,
        aiohttp.ClientSession() as http,
    ):
        with committing() as committed:
            frozen = await ticker.operator.call(
                catalog.freeze_project, catalog.FreezeProject(bearer=ticker.bearer, name="cold")
            )
        try:
            assert frozen.frozen_at is not None
            asked = GetReceipt(bearer=ticker.bearer, committed=committed[-1])
            receipt = await ticker.operator.call(catalog.feed.receipt, asked)
            assert all(follower.confirmed for follower in receipt.followers)
            assert sum(follower.ended for follower in receipt.followers) == 2
            for stream in streams:
                await stream.over
                assert b"frozen" in stream.tail
            async with http.post(url, json=modern(), headers=sent) as answer:
                assert (answer.status, "is frozen" in await answer.text()) == (403, True)
            assert "frozen" in (await mcpctl(ticker, "get", "projects"))[1]
            assert await outcomes_of(ticker, "cold", "chilled") == {("revoked", "revoked_in_flight")}
        finally:
            code, said, told = await mcpctl(ticker, "unfreeze", "project", "cold")
        assert code == 0
        assert "unfrozen" in said + told
        async with http.post(url, json=modern(), headers=sent) as answer:
            assert answer.status == 200


async def test_a_call_ends_when_its_token_expires(ticker):
    began = time.monotonic()
    issue = token.IssueToken(bearer=ticker.bearer, project="ticking", name="brief", ttl_seconds=6, bindings=(RUN,))
    bearer = (await ticker.operator.call(token.issue, issue)).bearer
    async with asyncio.timeout(30), ticking_on(ticker.urls[0], bearer, 1) as streams:
        await streams[0].over
        assert b"expired" in streams[0].tail
        assert time.monotonic() - began > 5
    assert await outcomes_of(ticker, "ticking", "brief") == {("revoked", "expired_in_flight")}
