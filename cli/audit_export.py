"""`mcpctl audit export`: the ledger, or what is chosen of it, for other programs; and how an event becomes a line."""

import asyncio
import csv
import io
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated

import orjson
import typer

from mcpctl.bus.contracts import audit
from mcpctl.bus.contracts.audit import Entry, Event, Filter
from mcpctl.cli.audit_filters import Kind, OfOutcome, Since, Token, TokenSha, Tool, Until, User, chosen
from mcpctl.cli.errors import CliError
from mcpctl.cli.ocsf import api_activity
from mcpctl.cli.options import ContextName, Project
from mcpctl.cli.output import note
from mcpctl.cli.session import session

FIELDS = ("seq", "number", "hash", "time", *Event.model_fields)
"""The columns of CSV."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With what a text begins that a spreadsheet would calculate."""


class ExportFormat(StrEnum):
    """`--format`: what a line is."""

    JSON = "json"
    CSV = "csv"
    OCSF = "ocsf"


def export(
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
    file: Annotated[Path | None, typer.Option(metavar="FILE", help="File to write (0600); default: stdout.")] = None,
    form: Annotated[
        ExportFormat,
        typer.Option("--format", help="JSON lines, CSV, or JSON lines in the shape of OCSF's API Activity."),
    ] = ExportFormat.JSON,
    context: ContextName = None,
) -> None:
    """Write all audit events that there are now, the oldest first, one a line.

    \b
    Examples:
      mcpctl audit export > audit.jsonl
      mcpctl audit export -p demo --since 30d --format csv --file demo.csv
      mcpctl audit export --format ocsf --outcome deny
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
    with _opened(file) as target:
        count = asyncio.run(_export(wanted, project, WRITERS[form], target, context))
    if file is not None:
        note(f"{count} audit events written to {file}")


async def _export(
    wanted: Filter,
    project: str | None,
    lines: "Callable[[Iterable[Entry]], Iterator[str]]",
    target: IO[str],
    name: str | None,
) -> int:
    if lines is csv_lines:
        target.write(_csv_line(FIELDS))
        lines = csv_rows
    count = 0
    async for entries in _pages(wanted, project, name):
        target.writelines(lines(entries))
        count += len(entries)
    return count


async def _pages(wanted: Filter, project: str | None, context: str | None) -> AsyncIterator[tuple[Entry, ...]]:
    """Yield what is in the ledger when this begins, in as many answers as it takes."""
    async with session(context) as opened:
        asked = {"filter": wanted, "project": project}
        end = (await opened.ask(audit.query, **asked, limit=1)).cursor
        cursor = 0
        while cursor < end:
            found = await opened.ask(audit.follow, **asked, cursor=cursor, wait_ms=0)
            yield tuple(entry for entry in found.items if entry.seq <= end)
            cursor = found.cursor


@contextmanager
def _opened(path: Path | None) -> Iterator[IO[str]]:
    """Open stdout, or a file that takes its name when all is written. Raises `CliError`."""
    if path is None:
        yield sys.stdout
        return
    part = path.with_name(f".{path.name}.part")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "w", newline="") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror}") from error


def json_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield each entry as a line of JSON."""
    for entry in entries:
        yield orjson.dumps(entry.model_dump(exclude_none=True)).decode() + "\n"


def ocsf_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield each entry as a line of JSON in the shape of OCSF."""
    for entry in entries:
        yield orjson.dumps(api_activity(entry)).decode() + "\n"


def csv_lines(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield a line of titles, then each entry as a line of CSV (RFC 4180)."""
    yield _csv_line(FIELDS)
    yield from csv_rows(entries)


def csv_rows(entries: Iterable[Entry]) -> Iterator[str]:
    """Yield each entry as a line of CSV; a text that a spreadsheet would calculate has an apostrophe in front."""
    for entry in entries:
        moment = datetime.fromtimestamp(entry.event.at / 1000, UTC).isoformat(timespec="milliseconds")
        members = entry.event.model_dump(exclude_none=True) | entry.model_dump(exclude={"event"}) | {"time": moment}
        yield _csv_line([_cell(members.get(name)) for name in FIELDS])


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


def _csv_line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue()


WRITERS: dict[ExportFormat, Callable[[Iterable[Entry]], Iterator[str]]] = {
    ExportFormat.JSON: json_lines,
    ExportFormat.CSV: csv_lines,
    ExportFormat.OCSF: ocsf_lines,
}
