"""`python -m mcpctl.gateway`: one gateway, until SIGTERM or until its bus connection is closed for good."""

import asyncio
import os
import re
import signal
import sys
from typing import cast

import aiohttp
import structlog
from aiohttp import http_parser, web
from pydantic import ValidationError

from mcpctl.bus import metrics_port
from mcpctl.bus.connection import cancel, first_fault
from mcpctl.bus.errors import BusError
from mcpctl.bus.runtime import (
    configure_logging,
    demand_environment,
    give_back_memory,
    run_loop,
    spare_collector,
    tell_ready,
    wait_to_start,
)
from mcpctl.gateway.app import Gateway
from mcpctl.gateway.connections import Connections
from mcpctl.gateway.door import Door, listen
from mcpctl.gateway.settings import GatewaySettings

log = structlog.get_logger()

SOUND_AIOHTTP = (3, 14, 4)
"""Earlier ones decompress in quadratic time (CVE-2026-128131)."""


async def serve(settings: GatewaySettings) -> int:
    """Serve until told to stop. Returns the exit status."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    stopped = asyncio.create_task(stop.wait())
    door = Door(settings)
    entering = asyncio.create_task(door.enter())
    await asyncio.wait((stopped, entering), return_when=asyncio.FIRST_COMPLETED)
    if not entering.done():
        await cancel(entering)
        return 0
    bus = entering.result()
    gateway = Gateway(bus, settings, door)
    runner = web.AppRunner(
        gateway.app,
        handler_cancellation=True,  # a client that hangs up cancels its call
        shutdown_timeout=settings.grace_ms / 1000,
    )
    await gateway.start()
    await runner.setup()
    port = await metrics_port.opened(settings.metrics_host, settings.metrics_port, gateway.missing)
    connections = Connections(cast(web.Server, runner.server), settings, gateway.addresses, gateway.shedding)
    watching, sweep = asyncio.create_task(door.watch(bus)), asyncio.create_task(connections.sweep())
    try:
        listener = await listen(connections.make, settings)
        log.info("gateway ready", address=listener.sockets[0].getsockname(), caller=bus.caller)
        spare_collector()
        tell_ready(settings.ready_fd)
        closed = asyncio.create_task(bus.closed.wait())
        await asyncio.wait((stopped, closed, watching), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            gateway.drain()
            await asyncio.wait((closed,), timeout=settings.drain_ms / 1000)
            listener.close()
            return 0
        listener.close()
        log.error("the bus connection is closed for good", reason=door.reason)
        await watching  # it may know why
        return 1
    finally:
        await cancel(stopped, watching, sweep)
        await runner.cleanup()
        await gateway.stop()
        await metrics_port.closed(port)


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
        demand_environment(os.environ)
        settings = GatewaySettings()
        wait_to_start(settings.start_fd)
        return run_loop(serve(settings))
    except ValidationError as error:
        name, _, fault = first_fault(error).partition(": ")
        print(f"Error: setting MCPCTL_{name.upper()}: {fault}", file=sys.stderr)
    except OSError as error:
        print(f"Error: {error.strerror or error}", file=sys.stderr)
    except (BusError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
