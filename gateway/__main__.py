"""`python -m mcpctl.gateway`: one gateway, until SIGTERM or until its bus connection is closed for good."""

import asyncio
import os
import signal
import sys

import structlog
from aiohttp import web
from pydantic import ValidationError

from mcpctl.bus.connection import cancel, first_fault
from mcpctl.bus.errors import BusError
from mcpctl.bus.runtime import configure_logging, demand_environment, run_loop, tell_ready
from mcpctl.gateway.app import Gateway
from mcpctl.gateway.door import Door, listen
from mcpctl.gateway.settings import GatewaySettings

log = structlog.get_logger()

LONGEST_HEADER = 65536
"""Bytes of one header line: `Mcp-Name` repeats resource URIs."""

GRACE_SECONDS = 10.0


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
        access_log=None,
        handler_cancellation=True,  # a client that hangs up cancels its call
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
        shutdown_timeout=GRACE_SECONDS,
    )
    await gateway.start()
    await runner.setup()
    watching = asyncio.create_task(door.watch(bus))
    try:
        await listen(runner, settings)
        log.info("gateway ready", address=runner.addresses[0], caller=bus.caller)
        tell_ready(settings.ready_fd)
        closed = asyncio.create_task(bus.closed.wait())
        await asyncio.wait((stopped, closed, watching), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return 0
        log.error("the bus connection is closed for good", reason=door.reason)
        await watching  # it may know why
        return 1
    finally:
        await cancel(stopped, watching)
        await runner.cleanup()
        await gateway.stop()


def main() -> int:
    configure_logging()
    try:
        demand_environment(os.environ)
        return run_loop(serve(GatewaySettings()))
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
