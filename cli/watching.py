"""`get -w`: a list that is looked at again every second, and what changed since the look before.

Change feeds are for parts of the system: they tell which keys changed to those who may see everything. A list is
what its reader may see, so the two looks are compared.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from mcpctl.bus.errors import BusError, DeadlineExceeded, Unauthenticated, Unavailable
from mcpctl.cli.context import Config
from mcpctl.cli.errors import NotLoggedIn
from mcpctl.cli.explain import explain
from mcpctl.cli.output import note
from mcpctl.cli.session import Session, connected, ended

PAUSE = 1.0
"""Seconds between two looks."""

What = Literal["listed", "added", "changed", "deleted"]
Seen = dict[str, Any]
Look = Callable[[Session], Awaitable[Seen]]
Tell = Callable[[Session, Sequence[tuple[What, Any]]], Awaitable[None]]


async def watch(context: str | None, look: Look, tell: Tell) -> None:
    """Tell what is there, then what changes, until the process is interrupted; what is away is waited for.

    `look` returns the items by what tells them apart. Raises `CliError` where the first look fails, where the session
    has ended or the right is gone.
    """
    _, found = Config.load().get(context)
    if found.bearer is None:
        raise NotLoggedIn
    seen: Seen | None = None
    told = False
    while True:
        try:
            async with connected(found) as opened:
                while not opened.bus.closed.is_set():
                    now = await look(opened)
                    if events := _listed(now) if seen is None else changes(seen, now):
                        await tell(opened, events)
                    seen, told = now, False
                    await asyncio.sleep(PAUSE)
        except (Unavailable, DeadlineExceeded) as error:
            if seen is None:
                raise explain(error) from error
            if not told:
                note(f"{error}: waiting for it")
            told = True
            await asyncio.sleep(PAUSE)
        except Unauthenticated as error:
            raise ended(found) from error
        except BusError as error:
            raise explain(error, found.user) from error


def _listed(now: Seen) -> list[tuple[What, Any]]:
    return [("listed", item) for item in now.values()]


def changes(before: Seen, now: Seen) -> list[tuple[What, Any]]:
    """Return what became of each item from one look to the next."""
    events: list[tuple[What, Any]] = []
    for key, item in now.items():
        if key not in before:
            events.append(("added", item))
        elif before[key] != item:
            events.append(("changed", item))
    return events + [("deleted", item) for key, item in before.items() if key not in now]
