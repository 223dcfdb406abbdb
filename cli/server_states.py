"""Whether the routers reach the upstream servers, for `get servers -o wide` and `describe server`."""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from mcpctl.bus.contracts import catalog, router
from mcpctl.bus.contracts.router import ServerState, ServerStates
from mcpctl.bus.errors import BusError
from mcpctl.cli.session import Session
from mcpctl.cli.times import age

PATIENCE = 2.0
"""Seconds to wait for the first router."""

UNUSED = ServerState(server="", state="unused")


class ShownServer(catalog.Server):
    """A server with what the routers say of it."""

    state: str | None


async def with_states(opened: Session, servers: Sequence[catalog.Server], *, named: bool) -> list[ShownServer]:
    """Return servers with their states: asked one by one where they were `named`, as the rights to see them are."""
    if named:
        names = [server.spec.name for server in servers]
        answers = dict(zip(names, await asyncio.gather(*(_ask(opened, name) for name in names)), strict=True))
    else:
        everything = await _ask(opened, None) if servers else []
        answers = {server.spec.name: everything for server in servers}
    return [_shown(server, answers[server.spec.name]) for server in servers]


async def details(opened: Session, name: str) -> dict[str, object]:
    """Return what each router says of one server, by router."""
    return {each.router: _line(_of(each, name)) for each in await _ask(opened, name)}


async def _ask(opened: Session, name: str | None) -> list[ServerStates]:
    """Return the routers' answers in a stable order; none where no router may or can be asked."""
    asked = router.GetServerStates(bearer=opened.context.bearer or "", name=name)
    try:
        found = await opened.bus.ask_everyone(router.server_states, asked, patience=PATIENCE)
    except BusError:
        return []  # what the Catalog knows is shown all the same
    return sorted(found, key=lambda each: each.router)


def _of(answer: ServerStates, name: str) -> ServerState:
    return next((state for state in answer.servers if state.server == name), UNUSED)


def _shown(server: catalog.Server, answers: Iterable[ServerStates]) -> ShownServer:
    states = [_of(answer, server.spec.name).state for answer in answers]
    return ShownServer(**dict(server), state=_together(states))


def _together(states: Sequence[str]) -> str | None:
    """Return one word for several routers; those that never asked for the server have nothing to say."""
    told = sorted({state for state in states if state != "unused"})
    if not told:
        return "unused" if states else None
    if len(told) == 1:
        return told[0]
    return f"away from {states.count('away')} of {len(states)} routers"


def _line(state: ServerState) -> str:
    if state.state == "unused":
        return "not in use: it is connected to when it is next asked for"
    parts: list[Any] = []
    if state.state == "reached":
        several = f", on {state.connections} connections" if state.connections > 1 else ""
        parts.append(f"reached, speaks {' and '.join(state.versions)}{several}")
    if state.reason is not None and state.since is not None:
        since = datetime.fromtimestamp(state.since / 1000, UTC)
        what = "away" if state.state == "away" else "some connections failing"
        parts.append(f"{what} since {since.astimezone():%Y-%m-%d %H:%M:%S} ({age(since)} ago): {state.reason}")
    return "; ".join(parts)
