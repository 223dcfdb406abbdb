"""`mcpctl audit tail` while what it reads from comes and goes: every event, none twice."""

import asyncio
import gc
import json
import os
import signal
import sys
from contextlib import asynccontextmanager

import pytest

from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus
from mcpctl.bus.identity import ActorIdentity
from mcpctl.bus.provision import provision
from mcpctl.cli.nats_server import NatsServer, free_port


@pytest.fixture
async def nats(tmp_path):
    """A nats-server of the test's own: it is restarted."""
    server = NatsServer(tmp_path / "nats", free_port())
    await server.start()
    await provision(server.url, server.keys)
    yield server
    await server.stop()
    gc.collect()


@pytest.fixture
async def writer(nats):
    """A router's way into the stream."""
    bus = await Bus.connect(nats.url, ActorIdentity("router", nats.keys))
    writer = AuditWriter(bus)
    yield writer
    await writer.close()
    await bus.close()


@asynccontextmanager
async def running(*arguments, **environment):
    """Run one of our processes; it is killed in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        env={key: value for key, value in os.environ.items() if not key.startswith("MCPCTL_")} | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if "tail" in arguments else asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def sink(environment):
    """Run an AuditSink, from when it answers on."""
    async with running("mcpctl.actors", "audit", **environment) as process:
        async with asyncio.timeout(60):
            while b"actor ready" not in await process.stdout.readline():
                assert process.returncode is None
        yield process


def attempt(number):
    """One of two is a denial of the token ci, of a tool of the server git."""
    told = {"kind": "call", "project": "web", "principal": "token-ci", "token_name": "ci", "name": f"tool-{number}"}
    return told | {"server": "git" if number % 2 else "time", "outcome": "deny", "correlation": str(number)}


# nats-py leaves the transport of a connection that broke to the garbage collector, which complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_tail_shows_every_event_once_whatever_dies_on_the_way(plane, root, nats, writer, tmp_path):
    environment = {"MCPCTL_NATS_URL": nats.url, "MCPCTL_NATS_KEYS": str(nats.keys), "MCPCTL_DATA_DIR": str(tmp_path)}
    own = {"MCPCTL_NATS_URL": nats.url, "MCPCTL_TOKEN": root.bearer, "MCPCTL_CONFIG": str(tmp_path / "config.yaml")}
    chosen = ("-p", "web", "--token", "ci", "--tool", "git/*", "--outcome", "deny", "--kind", "call")
    appended, seen = 0, []

    async def append(count):
        nonlocal appended
        for number in range(appended, appended + count):
            await writer.append(attempt(number))
        appended += count

    async def until_seen(tail):
        """Read on until the last one that matches was shown."""
        async with asyncio.timeout(60):
            while not seen or seen[-1] < appended - 1:
                line = await tail.stdout.readline()
                assert line, (await tail.stderr.read()).decode()
                seen.append(int(json.loads(line)["event"]["correlation"]))

    await append(2)
    async with (
        sink(environment) as one,
        running("mcpctl.cli.main", "audit", "tail", "-n", "1000", "-o", "json", *chosen, **own) as tail,
    ):
        await until_seen(tail)
        async with sink(environment) as other:
            await append(100)
            one.kill()
            await append(100)
            await until_seen(tail)
            await nats.stop()
            await nats.start()
            await append(100)
            await until_seen(tail)
            other.kill()
            await other.wait()
            await append(100)
        async with sink(environment):
            await until_seen(tail)
            tail.send_signal(signal.SIGINT)
            async with asyncio.timeout(20):
                _, told = await tail.communicate()

    assert seen == list(range(1, appended, 2))
    assert tail.returncode == 0
    assert all(line.endswith(": waiting for it") for line in told.decode().splitlines()), told.decode()
