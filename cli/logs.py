"""`mcpctl logs server`: what a stdio server writes to stderr, on every router that runs it."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

import typer

from mcpctl.bus.contracts import catalog, router
from mcpctl.bus.contracts.router import LogLine, ServerLog
from mcpctl.bus.errors import BusError, NotFound
from mcpctl.cli.command_groups import NounGroup
from mcpctl.cli.errors import UNAVAILABLE, CliError
from mcpctl.cli.finding import not_found
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import note, plain, say
from mcpctl.cli.resources import find
from mcpctl.cli.session import Session, checked, session

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
    times: Annotated[bool, typer.Option("--timestamps", help="Begin each line with its time (UTC).")] = False,
    context: ContextName = None,
) -> None:
    """Show the newest lines that a stdio server has written to stderr; of several routers each line names its own.

    It takes the operation `logs`. A server is started when it is first used: before, there is nothing to show.

    \b
    Examples:
      mcpctl logs server time
      mcpctl logs server git -f --timestamps
    """  # noqa: D301 - \b keeps the examples' lines apart
    asyncio.run(_show(name, tail, context, follow=follow, times=times))


async def _show(name: str, tail: int, context: str | None, *, follow: bool, times: bool) -> None:
    async with session(context) as opened:
        await _demand_log(opened, name)
        logs = await _look(opened, name, {}, tail)
        if not logs:
            raise CliError("no router answers: see mcpctl status", UNAVAILABLE)
        if not any(log.known for log in logs) and not follow:
            note(f"No router has started server {name} yet: it is started when it is first used.")
        after: dict[str, int] = {}
        several = len(logs) > 1
        while True:
            for log, line in _in_order(logs):
                say(_text(log, line, several=several, times=times))
            after |= {log.router: log.lines[-1].seq for log in logs if log.lines}
            if not follow:
                return
            await asyncio.sleep(LOOK_AGAIN)
            logs = await _look(opened, name, after or {"": 0}, 2000)
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
    return await opened.bus.ask_everyone(router.read_log, asked, patience=PATIENCE)


def _in_order(logs: list[ServerLog]) -> list[tuple[ServerLog, LogLine]]:
    return sorted(((log, line) for log in logs for line in log.lines), key=lambda pair: (pair[1].at, pair[1].seq))


def _text(log: ServerLog, line: LogLine, *, several: bool, times: bool) -> str:
    at = f"{datetime.fromtimestamp(line.at / 1000, UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z " if times else ""
    return at + (f"[{log.router}] " if several else "") + (plain(line.text) if line.text else "")
