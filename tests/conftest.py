"""One real nats-server for the whole run, on a port of its own, with the shipped accounts and permissions."""

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import structlog

from mcpctl.bus import provision
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Role
from mcpctl.bus.identity import ActorIdentity
from mcpctl.cli.nats_server import NatsServer, free_port

IN_MEMORY = "/dev/shm"
ROOM_BYTES = 4 << 30

# Thousands of small databases and streams wait for a disk that others may keep busy for seconds; memory does not.
if os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", IN_MEMORY)


def _uncached(configure=structlog.configure, **options):
    configure(**options | {"cache_logger_on_first_use": False})


structlog.configure = _uncached  # a logger that was cached in one test could not be captured in the next


@pytest.fixture(autouse=True)
def _log():
    """Begin each test with a log that says all, to stderr: a worker that has imported the CLI would say nothing."""
    structlog.reset_defaults()
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


@pytest.fixture(scope="session")
def nats_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nats")


@pytest.fixture(scope="session")
def nats(nats_folder):
    """A running nats-server, provisioned; `.url` and `.keys` are what a part needs."""
    with asyncio.Runner() as runner:
        server = NatsServer(nats_folder, free_port())
        runner.run(server.start())
        runner.run(provision.provision(server.url, server.keys))
        yield server
        runner.run(server.stop())


@pytest.fixture
async def connect(nats: NatsServer) -> AsyncIterator[Callable[[Role], Awaitable[Bus]]]:
    """Connect as an actor; every connection is closed at the end of the test."""
    opened: list[Bus] = []

    async def connect_as(role: Role) -> Bus:
        bus = await Bus.connect(nats.url, ActorIdentity(role, nats.keys))
        opened.append(bus)
        return bus

    yield connect_as
    for bus in reversed(opened):
        await bus.close()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a bearer by its kind: it is another one in each process."""
    return val.rpartition("_")[0] if isinstance(val, str) and val.startswith("mcpctl_") else None
