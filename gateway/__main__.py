"""`python -m mcpctl.gateway`: one gateway, until SIGTERM or until its bus connection is closed for good."""

import asyncio
import os
import signal
import sys

import structlog
from aiohttp import web
from pydantic import ValidationError

from mcpctl.bus.connection import Bus, first_fault
from mcpctl.bus.errors import BusError
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.bus.runtime import configure_logging, demand_environment, run_loop, tell_ready
from mcpctl.gateway.app import Gateway
from mcpctl.gateway.settings import GatewaySettings

log = structlog.get_logger()

LONGEST_HEADER = 65536
"""Bytes of one header line: `Mcp-Name` repeats resource URIs."""

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
        access_log=None,
        handler_cancellation=True,  # a client that hangs up cancels its call
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
        shutdown_timeout=GRACE_SECONDS,
    )
    await gateway.start()
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.http_host, settings.http_port, backlog=1024).start()
    except OSError as error:
        await runner.cleanup()
        await gateway.stop()
        where = f"{settings.http_host}:{settings.http_port}"
        print(
            f"Error: cannot listen on {where}: {error.strerror} (MCPCTL_HTTP_PORT, MCPCTL_HTTP_HOST)",
            file=sys.stderr,
        )
        return 1
    log.info("gateway ready", address=runner.addresses[0], caller=bus.caller)
    tell_ready(settings.ready_fd)
    stopped = asyncio.create_task(stop.wait())
    closed = asyncio.create_task(bus.closed.wait())
    await asyncio.wait((stopped, closed), return_when=asyncio.FIRST_COMPLETED)
    lost = not stop.is_set()
    if lost:
        log.error("the bus connection is closed for good")
    for task in (stopped, closed):
        task.cancel()
    await runner.cleanup()
    await gateway.stop()
    return 1 if lost else 0


def main() -> int:
    configure_logging()
    try:
        demand_environment(os.environ)
        return run_loop(serve(GatewaySettings()))
    except ValidationError as error:
        print(f"Error: setting MCPCTL_{first_fault(error).upper()}", file=sys.stderr)
    except (BusError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
