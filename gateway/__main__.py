"""`python -m mcpctl.gateway`: one gateway, until SIGTERM or until its bus connection is closed for good."""

import asyncio
import re
import signal
import sys
from typing import cast

import aiohttp
import structlog
from aiohttp import http_parser, web
from pydantic import ValidationError

from mcpctl.bus.connection import Bus, cancel, first_fault
from mcpctl.bus.errors import BusError
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.bus.runtime import configure_logging, give_back_memory, run_loop, tell_ready
from mcpctl.gateway.app import Gateway
from mcpctl.gateway.connections import Connections
from mcpctl.gateway.settings import GatewaySettings

log = structlog.get_logger()

SOUND_AIOHTTP = (3, 14, 4)
"""Earlier ones decompress in quadratic time (CVE-2026-128131)."""

GRACE_SECONDS = 10.0
BUS_PATIENCE = 15.0


async def serve(settings: GatewaySettings) -> int:
    """Serve until told to stop. Returns the exit status."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bus = await Bus.connect(
        settings.nats_url, AdmittedIdentity("gateway", settings.bus_bearer()), patience=BUS_PATIENCE
    )
    gateway = Gateway(bus, settings)
    runner = web.AppRunner(
        gateway.app,
        handler_cancellation=True,  # a client that hangs up cancels its call
        shutdown_timeout=GRACE_SECONDS,
    )
    await gateway.start()
    await runner.setup()
    connections = Connections(cast(web.Server, runner.server), settings, gateway.addresses)
    try:
        listener = await asyncio.get_running_loop().create_server(
            connections.make, settings.http_host, settings.http_port, backlog=1024
        )
    except OSError as error:
        await runner.cleanup()
        await gateway.stop()
        where = f"{settings.http_host}:{settings.http_port}"
        print(
            f"Error: cannot listen on {where}: {error.strerror} (MCPCTL_HTTP_PORT, MCPCTL_HTTP_HOST)",
            file=sys.stderr,
        )
        return 1
    sweep = asyncio.create_task(connections.sweep())
    log.info("gateway ready", address=listener.sockets[0].getsockname(), caller=bus.caller)
    tell_ready(settings.ready_fd)
    stopped = asyncio.create_task(stop.wait())
    closed = asyncio.create_task(bus.closed.wait())
    await asyncio.wait((stopped, closed), return_when=asyncio.FIRST_COMPLETED)
    lost = not stop.is_set()
    if lost:
        log.error("the bus connection is closed for good")
    for task in (stopped, closed):
        task.cancel()
    listener.close()
    await runner.cleanup()
    await cancel(sweep)
    await gateway.stop()
    return 1 if lost else 0


def fault_of_library() -> str | None:
    """Return why this aiohttp is not served with, or None."""
    if tuple(map(int, re.findall(r"\d+", aiohttp.__version__)[:3])) < SOUND_AIOHTTP:
        wanted = ".".join(map(str, SOUND_AIOHTTP))
        return f"aiohttp {aiohttp.__version__} is not sound: install {wanted} or later"
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:  # CVE-2026-111750: requests are smuggled
        return "aiohttp has no C extensions here: install its wheel, and unset AIOHTTP_NO_EXTENSIONS"
    return None


def main() -> int:
    configure_logging()
    give_back_memory()
    fault = fault_of_library()
    if fault is not None:
        print(f"Error: {fault}", file=sys.stderr)
        return 1
    try:
        return run_loop(serve(GatewaySettings()))
    except ValidationError as error:
        print(f"Error: setting MCPCTL_{first_fault(error).upper()}", file=sys.stderr)
    except (BusError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
