"""`mcpctl logs server`: what a stdio server writes to stderr, on every router that runs it."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer

from mcpctl.bus.contracts import catalog, router
from mcpctl.bus.contracts.router import ServerLog
from mcpctl.bus.errors import BusError, NotFound
from mcpctl.cli.command_groups import NounGroup
from mcpctl.cli.errors import UNAVAILABLE, CliError
from mcpctl.cli.finding import not_found
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import note, plain, say
from mcpctl.cli.resources import find
from mcpctl.cli.session import Session, checked, session
from mcpctl.cli.times import parse_duration

app = typer.Typer(cls=NounGroup, rich_markup_mode=None, help="Show what a server writes to stderr.")

PATIENCE = 2.0
"""Seconds to wait for the first router."""

LOOK_AGAIN = 1.0
"""Seconds between two looks of a follower."""


@app.callback()
def _logs() -> None:
    """Show what a server writes to stderr.

    \b
    Examples:
      mcpctl logs server time
    """  # noqa: D301 - \b keeps the examples' lines apart


@app.command()
def server(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the server.")],
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option(min=1, max=2000, metavar="N", help="Newest lines of each router.")] = 200,
    since: Annotated[
        str | None, typer.Option(metavar="10m", help="Only lines that are not older: 30s, 10m, 2h, 1d.")
    ] = None,
    prefix: Annotated[
        bool, typer.Option("--prefix", help="Begin each line with its router, of one router too.")
    ] = False,
    times: Annotated[bool, typer.Option("--timestamps", help="Begin each line with its time (UTC).")] = False,
    context: ContextName = None,
) -> None:
    """Show the newest lines that a stdio server has written to stderr; of several routers each line names its own.

    It takes the operation `logs`. A server is started when it is first used: before, there is nothing to show.

    \b
    Examples:
      mcpctl logs server time
      mcpctl logs server git -f --timestamps
      mcpctl logs server git --since 10m --tail 50
    """  # noqa: D301 - \b keeps the examples' lines apart
    earliest = 0 if since is None else int((time.time() - parse_duration(since)) * 1000)
    asyncio.run(_show(name, tail, context, Shown(earliest, prefix=prefix, times=times), follow=follow))


@dataclass(frozen=True)
class Shown:
    """Which lines are printed, and how. `earliest` is in milliseconds since 1970."""

    earliest: int
    prefix: bool
    times: bool

    def lines(self, logs: list[ServerLog], *, several: bool) -> Iterator[str]:
        """Yield the lines of all routers in the order of their times."""
        pairs = ((log, line) for log in logs for line in log.lines if line.at >= self.earliest)
        for log, line in sorted(pairs, key=lambda pair: (pair[1].at, pair[1].seq)):
            at = f"{datetime.fromtimestamp(line.at / 1000, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z " if self.times else ""
            router_id = f"[{log.router}] " if several or self.prefix else ""
            yield at + router_id + (plain(line.text) if line.text else "")


async def _show(name: str, tail: int, context: str | None, shown: Shown, *, follow: bool) -> None:
    async with session(context) as opened:
        await _demand_log(opened, name)
        logs = await _look(opened, name, {}, tail)
        if not logs:
            raise CliError("no router answers: see mcpctl status", UNAVAILABLE)
        if not any(log.known for log in logs):
            note(f"No router has started server {name} yet: it is started when it is first used.")
        after: dict[str, int] = {}
        several = len(logs) > 1
        while True:
            for line in shown.lines(logs, several=several):
                say(line)
            after |= {log.router: log.lines[-1].seq for log in logs if log.lines}
            if not follow:
                return
            await asyncio.sleep(LOOK_AGAIN)
            logs = await _look(opened, name, after, 2000)
            several = several or len(logs) > 1


async def _demand_log(opened: Session, name: str) -> None:
    """Raise `CliError` where there is no such server, or none that could write to stderr here."""
    try:
        found = await opened.ask(catalog.get_server, name=name)
    except NotFound as error:
        raise not_found(find("server"), name, None) from error
    except BusError:
        return  # the routers know whether the log may be seen
    if found.spec.url is not None:
        raise CliError(f"server {name} is reached by URL: its log is where it runs")


async def _look(opened: Session, name: str, after: dict[str, int], limit: int) -> list[ServerLog]:
    asked = checked(router.ReadLog, bearer=opened.context.bearer or "", name=name, after=after, limit=limit)
    answers = await opened.bus.ask_everyone(router.read_log, asked, patience=PATIENCE)
    of_sites = {log.router: log for answer in answers for log in answer.sites}  # each router tells of the same ones
    return [*(log for log in answers if log.known or not of_sites), *of_sites.values()]
