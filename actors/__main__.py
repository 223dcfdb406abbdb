"""`python -m mcpctl.actors NAME...`: the named actors in one process, until SIGTERM or until a connection is lost."""

import asyncio
import importlib
import os
import signal
import sys
from typing import Protocol

import structlog
from pydantic import ValidationError

from mcpctl.actors.settings import ActorSettings
from mcpctl.bus import metrics_port
from mcpctl.bus.actor import Actor
from mcpctl.bus.connection import Bus, cancel, first_fault
from mcpctl.bus.contract import Role
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

log = structlog.get_logger()

ACTORS: dict[Role, str] = {
    "token": "mcpctl.actors.token_registry:TokenRegistry",
    "rbac": "mcpctl.actors.rbac_evaluator:RbacEvaluator",
    "catalog": "mcpctl.actors.catalog:Catalog",
    "session": "mcpctl.actors.session_gate:SessionGate",
    "audit": "mcpctl.actors.audit_sink:AuditSink",
    "router": "mcpctl.actors.upstream_router:UpstreamRouter",
}

BUS_PATIENCE = 15.0
"""Seconds to wait for a bus that is still starting."""


class ActorClass(Protocol):
    """What the table's classes have in common."""

    def __call__(self, bus: Bus, settings: ActorSettings) -> Actor: ...


async def serve(classes: dict[Role, ActorClass], settings: ActorSettings) -> int:
    """Run actors until told to stop. Returns the exit status."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    running: list[Actor] = []
    told = asyncio.create_task(stop.wait())

    async def missing() -> list[str]:
        found = [name for actor in running for name in await actor.missing()]
        return found if len(running) == len(classes) else ["start", *found]

    port = await metrics_port.opened(settings.metrics_host, settings.metrics_port, missing)
    try:
        starting = asyncio.create_task(_start(classes, settings, running))
        await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():  # it may wait for its database for as long as that takes
            await cancel(starting)
            return 0
        await starting
        spare_collector()
        tell_ready(settings.ready_fd)
        return await _wait(stop, running)
    finally:
        told.cancel()
        await metrics_port.closed(port)
        for actor in reversed(running):
            await actor.stop(settings.grace_ms / 1000)


async def _start(classes: dict[Role, ActorClass], settings: ActorSettings, running: list[Actor]) -> None:
    for role, actor_class in classes.items():
        bus = await Bus.connect(settings.nats_url, settings.identity(role), patience=BUS_PATIENCE)
        actor = actor_class(bus, settings)
        await actor.start()
        running.append(actor)


async def _wait(stop: asyncio.Event, running: list[Actor]) -> int:
    """Return 0 when told to stop, 1 when a connection is closed for good."""
    waits = [asyncio.create_task(event.wait()) for event in (stop, *(actor.bus.closed for actor in running))]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    if stop.is_set():
        return 0
    lost = [actor.role for actor in running if actor.bus.closed.is_set()]
    log.error("a bus connection is closed for good", actors=lost)
    return 1


def _class_of(role: Role) -> ActorClass:
    module, _, name = ACTORS[role].partition(":")
    found: ActorClass = getattr(importlib.import_module(module), name)
    return found


def main(names: list[str]) -> int:
    roles = [role for role in ACTORS if role in names]
    unknown = sorted(set(names) - set(roles))
    if unknown or not roles:
        what = f"no actor {unknown[0]}" if unknown else "no actor named"
        print(f"Error: {what}: name some of {', '.join(ACTORS)}", file=sys.stderr)
        return 2
    configure_logging()
    give_back_memory()
    try:
        demand_environment(os.environ)
        settings = ActorSettings()
        classes = {role: _class_of(role) for role in roles}
        wait_to_start(settings.start_fd)
        return run_loop(serve(classes, settings))
    except ValidationError as error:
        name, _, fault = first_fault(error).partition(": ")
        print(f"Error: setting MCPCTL_{name.upper()}: {fault}", file=sys.stderr)
    except OSError as error:
        print(f"Error: {error.filename}: {error.strerror}" if error.filename else f"Error: {error}", file=sys.stderr)
    except (BusError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
