"""How the routers find the upstream servers, for `get servers` and `describe server`."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from mcpctl.bus.contracts import catalog, router
from mcpctl.bus.contracts.router import ServerState, ServerStates, SiteRouter
from mcpctl.bus.errors import BusError
from mcpctl.cli.session import Session
from mcpctl.cli.times import age

PATIENCE = 2.0
"""Seconds to wait for the first router."""

UNUSED = ServerState(server="", state="unused")


class ShownServer(catalog.Server):
    """A server with what the routers say of it."""

    status: str | None


async def with_states(opened: Session, servers: Sequence[catalog.Server], *, named: bool) -> list[ShownServer]:
    """Return servers with their states: asked one by one where they were `named`, as the rights to see them are."""
    if named:
        names = [server.spec.name for server in servers]
        answers = dict(zip(names, await asyncio.gather(*(_ask(opened, name) for name in names)), strict=True))
    else:
        everything = await _ask(opened, None) if servers else []
        answers = {server.spec.name: everything for server in servers}
    return [_shown(server, answers[server.spec.name]) for server in servers]


async def details(opened: Session, spec: catalog.ServerSpec) -> dict[str, object]:
    """Return what each router says of one server, by router."""
    answers = await _ask(opened, spec.name)
    if spec.placement is None:
        return {each.router: _line(_of(each, spec.name)) for each in answers}
    routers = _of_site(answers, spec.placement)
    if answers and not routers:
        return {f"site {spec.placement}": "not reached: none of its routers has been heard of"}
    return {each.router: _line(_of(each, spec.name)) if each.present else _gone(each) for each in routers}


async def _ask(opened: Session, name: str | None) -> list[ServerStates]:
    """Return the routers' answers in a stable order; none where no router may or can be asked."""
    asked = router.GetServerStates(bearer=opened.context.bearer or "", name=name)
    try:
        found = await opened.bus.ask_everyone(router.server_states, asked, patience=PATIENCE)
    except BusError:
        return []  # what the Catalog knows is shown all the same
    return sorted(found, key=lambda each: each.router)


def _of_site(answers: Iterable[ServerStates], site: str) -> list[SiteRouter]:
    """Return the routers of a site, as whoever heard of each of them last tells."""
    latest: dict[str, SiteRouter] = {}
    for each in (each for answer in answers for each in answer.sites if each.site == site):
        if each.router not in latest or latest[each.router].heard_at < each.heard_at:
            latest[each.router] = each
    present = [each for each in latest.values() if each.present]
    return sorted(present, key=lambda each: each.router) or [*_newest(latest.values())]


def _newest(routers: Iterable[SiteRouter]) -> Iterable[SiteRouter]:
    return sorted(routers, key=lambda each: each.heard_at)[-1:]


def _gone(each: SiteRouter) -> str:
    heard = datetime.fromtimestamp(each.heard_at / 1000, UTC)
    return f"site {each.site} is not reached: this router was last heard of {age(heard)} ago"


def _of(answer: ServerStates | SiteRouter, name: str) -> ServerState:
    return next((state for state in answer.servers if state.server == name), UNUSED)


def _shown(server: catalog.Server, answers: Sequence[ServerStates]) -> ShownServer:
    name, site = server.spec.name, server.spec.placement
    if site is None or not answers:
        return ShownServer(**dict(server), status=_together([_word(_of(each, name)) for each in answers]))
    found = _together([_word(_of(each, name)) for each in _of_site(answers, site) if each.present])
    return ShownServer(**dict(server), status=found or f"site {site} not reached")


def _word(state: ServerState) -> str:
    if state.breaker == "closed":
        return "ok" if state.state == "reached" else state.state
    return "open" if state.cause in (None, "away") else f"open ({state.cause})"


def _together(words: Sequence[str]) -> str | None:
    """Return the status by several routers; those that never asked for the server have nothing to say."""
    told = [word for word in words if word != "unused"]
    bad = [word for word in told if word != "ok"]
    if not told:
        return "unused" if words else None
    if len(bad) < len(told):
        return f"degraded: {len(bad)} of {len(words)} routers" if bad else "ok"
    return max(bad)  # `open` comes after `away`


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
    if state.breaker != "closed" and state.retry_at is not None:
        again = max(0, round(state.retry_at / 1000 - time.time()))
        when = "being tried now" if state.breaker == "half-open" else f"tried again in {again} s"
        parts.append(f"breaker open ({state.cause}): {state.refused} calls refused, {when}")
    elif state.failures:
        parts.append(f"failures in a row: {state.failures}")
    return "; ".join(parts)
