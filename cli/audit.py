"""`mcpctl audit`: what was done and decided, looked up or followed."""

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from mcpctl.bus.contracts import audit
from mcpctl.bus.contracts.audit import Entry, Event, Filter
from mcpctl.bus.errors import BusError, DeadlineExceeded, Unavailable
from mcpctl.cli.audit_export import csv_lines, export
from mcpctl.cli.audit_filters import Kind, OfOutcome, Since, Token, TokenSha, Tool, Until, User, chosen
from mcpctl.cli.audit_proof import purge, verify
from mcpctl.cli.command_groups import Group
from mcpctl.cli.context import Config
from mcpctl.cli.explain import explain
from mcpctl.cli.options import ContextName, Project
from mcpctl.cli.output import note, plain, print_data, print_table, say
from mcpctl.cli.session import Session, checked, connected
from mcpctl.cli.usage import report

app = typer.Typer(cls=Group, rich_markup_mode=None, help="Show, follow, prove and keep what was done and decided.")
app.command()(verify)
app.command()(export)
app.command()(purge)
app.command()(report)

PAUSE = 0.5
"""Seconds between attempts while the bus or the AuditSink is away."""

WAIT_MS = 3000
PATIENCE = 6.0
"""Seconds after which an AuditSink that should have answered is taken for dead, and another one asked."""


class Form(StrEnum):
    """`-o` of what is looked up."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


class TailFormat(StrEnum):
    """`-o` of what never ends."""

    TABLE = "table"
    JSON = "json"


@app.command()
def get(
    *,
    project: Project = None,
    token: Token = None,
    token_sha: TokenSha = None,
    user: User = None,
    tool: Tool = None,
    outcome: OfOutcome = None,
    kind: Kind = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 50,
    output: Annotated[Form, typer.Option("-o", "--output", help="How to print the answer.")] = Form.TABLE,
    context: ContextName = None,
) -> None:
    """Show the newest audit events, oldest first.

    \b
    Examples:
      mcpctl audit get -p demo --outcome deny
      mcpctl audit get --user ann --since 1d -o json
      mcpctl audit get --since 2027-01-01 --until 2027-02-01 -o csv
      mcpctl audit get -p demo --token ci --tool 'git/*'
    """  # noqa: D301 - \b keeps the examples' lines apart
    wanted = chosen(
        token=token,
        token_sha=token_sha,
        user=user,
        tool=tool,
        outcome=outcome,
        kind=kind,
        since=since,
        until=until,
    )
    entries = asyncio.run(_query(wanted, project, limit, context))
    if output is Form.CSV:
        sys.stdout.writelines(csv_lines(entries))
    elif output is not Form.TABLE:
        print_data({"items": [_members(entry) for entry in entries]}, output)
    elif entries:
        titles = ("TIME", "OUTCOME", "KIND", "PROJECT", "WHO", "WHAT", "MS", "DETAIL")
        print_table(titles, [_cells(entry.event) for entry in entries])
    else:
        note("No audit events found.")


@app.command()
def tail(
    *,
    project: Project = None,
    token: Token = None,
    user: User = None,
    tool: Tool = None,
    outcome: OfOutcome = None,
    kind: Kind = None,
    since: Since = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, max=1000, help="Begin with the newest so many.")] = 10,
    output: Annotated[TailFormat, typer.Option("-o", "--output", help="How to print each event.")] = TailFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Follow the audit events as they are written to the ledger, until Ctrl-C.

    \b
    Examples:
      mcpctl audit tail -p demo
      mcpctl audit tail --outcome error -o json
      mcpctl audit tail -p demo --token ci --tool 'git/*' --outcome deny
    """  # noqa: D301 - \b keeps the examples' lines apart
    wanted = chosen(token=token, user=user, tool=tool, outcome=outcome, kind=kind, since=since)
    try:
        asyncio.run(_tail(wanted, project, lines, output, context))
    except KeyboardInterrupt:
        return


async def _query(wanted: Filter, project: str | None, limit: int, context: str | None) -> tuple[Entry, ...]:
    _, found = Config.load().get(context)
    try:
        async with connected(found) as opened:
            return (await opened.ask(audit.query, project=project, filter=wanted, limit=limit)).items
    except BusError as error:
        raise explain(error, found.user) from error


async def _tail(wanted: Filter, project: str | None, lines: int, output: TailFormat, context: str | None) -> None:
    async for entry in _followed(wanted, project, lines, context):
        if output is TailFormat.JSON:
            say(entry.model_dump_json(exclude_none=True))
        else:
            say(line_of(entry.event))


async def _followed(wanted: Filter, project: str | None, lines: int, context: str | None) -> AsyncIterator[Entry]:
    """Yield the newest `lines` entries and then each new one; what is away for a while is waited for.

    Raises `CliError` where the session has ended or the right is missing.
    """
    _, found = Config.load().get(context)
    reader = Reader(wanted, project, lines)
    told = False
    while True:
        try:
            async with connected(found) as opened:
                while not opened.bus.closed.is_set():
                    for entry in await reader.read(opened):
                        yield entry
                    told = False
        except (Unavailable, DeadlineExceeded) as error:
            if reader.cursor is None:
                raise explain(error) from error
            if not told:
                note(f"{error}: waiting for it")
            told = True
            await asyncio.sleep(PAUSE)
        except BusError as error:
            raise explain(error, found.user) from error


class Reader:
    """Reads the ledger on and on; `cursor` is up to where."""

    def __init__(self, wanted: Filter, project: str | None, lines: int) -> None:
        self._asked = {"filter": wanted, "project": project}
        self._lines = lines
        self.cursor: int | None = None

    async def read(self, opened: Session) -> tuple[Entry, ...]:
        """Return the next entries, none if nothing came for a while."""
        if self.cursor is None:
            entries = await opened.ask(audit.query, **self._asked, limit=max(self._lines, 1))
            items = entries.items if self._lines else ()
        else:
            bearer = opened.context.bearer or ""
            asked = checked(audit.Follow, bearer=bearer, **self._asked, cursor=self.cursor, wait_ms=WAIT_MS)
            entries = await opened.bus.call(audit.follow, asked, timeout=PATIENCE)
            items = entries.items
        self.cursor = entries.cursor
        return items


def _members(entry: Entry) -> object:
    return entry.model_dump(mode="json", exclude_none=True)


def _what(event: Event) -> str | None:
    if event.server is not None and event.name is not None:
        return f"{event.server}/{event.name}"
    return event.name or event.server or event.method


def _detail(event: Event) -> str | None:
    return event.detail if event.detail is not None else event.rule


def _cells(event: Event) -> tuple[object, ...]:
    moment = datetime.fromtimestamp(event.at / 1000, UTC).astimezone()
    milliseconds = None if event.ms is None else f"{event.ms:.1f}"
    who = event.principal or event.user
    return (
        f"{moment:%m-%d %H:%M:%S}",
        event.outcome,
        event.kind,
        event.project,
        who,
        _what(event),
        milliseconds,
        _detail(event),
    )


def line_of(event: Event) -> str:
    """Return an event as one line, its first columns as wide as they mostly are."""
    time, outcome, kind, project, who, what, milliseconds, detail = (plain(cell) for cell in _cells(event))
    took = "" if milliseconds == "-" else f"  {milliseconds} ms"
    told = "" if detail == "-" else f"  ({detail})"
    return f"{time}  {outcome:<9}  {kind:<12}  {project:<12}  {who:<16}  {what}{took}{told}"
