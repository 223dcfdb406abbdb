"""`mcpctl audit verify` and `purge`: that the ledger is what was written, and letting go of what is old."""

import asyncio
import sys
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from mcpctl.bus.contracts import audit
from mcpctl.bus.contracts.audit import Chain, Fault, Head
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.given import read_text
from mcpctl.cli.options import ContextName, Project
from mcpctl.cli.output import print_data, print_table, say
from mcpctl.cli.private_file import write_private
from mcpctl.cli.session import session
from mcpctl.cli.times import ago, parse_past

MANY = 1000
"""Faults after which no more are looked for, and heads that are compared with."""


class ReportFormat(StrEnum):
    """`-o` of a report."""

    TABLE = "table"
    JSON = "json"


@dataclass
class Report:
    """What all answers together say. `keys` are the public halves of the signing keys."""

    checked: int = 0
    faults: list[Fault] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    waiting: int | None = None

    @property
    def heads(self) -> list[Head]:
        return [chain.head for chain in self.chains if chain.head is not None]

    @property
    def summary(self) -> str:
        purged = sum(chain.purged for chain in self.chains)
        newest = max((head.at for head in self.heads), default=0)
        said = f"{self.checked} entries in {len(self.chains)} chains"
        said += f", {purged} purged" if purged else ""
        said += f", {sum(chain.anchors for chain in self.chains)} anchored heads"
        said += f", signed {ago(datetime.fromtimestamp(newest / 1000).astimezone())}" if newest else ""
        return said if self.waiting is None else f"{said}, {self.waiting} messages on their way"


def verify(
    *,
    project: Project = None,
    anchor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Heads that you kept with --save: the ledger must still hold them."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the signed heads, for a later --anchor, if all is well.")
    ] = None,
    output: Annotated[
        ReportFormat, typer.Option("-o", "--output", help="How to print the answer.")
    ] = ReportFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Check that nothing in the audit ledger was changed, removed, inserted, swapped or cut off.

    Exit code 0: all of it is as it was written; 1: something is not, and it says what and where.

    \b
    Examples:
      mcpctl audit verify
      mcpctl audit verify -p demo -o json
      mcpctl audit verify --anchor heads.jsonl --save heads.jsonl
    """  # noqa: D301 - \b keeps the examples' lines apart
    kept = () if anchor is None else _heads(anchor)
    report = asyncio.run(_verify(project, kept, context))
    if output is ReportFormat.JSON:
        members = {name: getattr(report, name) for name in ("checked", "waiting", "faults", "chains", "keys")}
        print_data({"ok": not report.faults, **members}, "json")
    elif report.faults:
        titles = ("FAULT", "PROJECT", "NUMBER", "SEQ", "EVENT", "DETAIL")
        print_table(titles, [(f.kind, f.project, f.number, f.seq, f.event, f.detail) for f in report.faults])
    else:
        say(f"OK: {report.summary}")
    if report.faults:
        more = " at least" if len(report.faults) >= MANY else ""
        raise CliError(
            f"the audit ledger is not as it was written:{more} {len(report.faults)} faults; {report.summary}"
        )
    if save is not None:
        write_private(save, "".join(f"{head.model_dump_json()}\n" for head in report.heads))


async def _verify(project: str | None, kept: tuple[Head, ...], context: str | None) -> Report:
    report = Report()
    place = None
    async with session(context) as opened:
        while True:
            found = await opened.ask(audit.verify, project=project, place=place, anchors=kept)
            report.checked += found.checked
            report.faults += found.faults
            report.chains += found.chains
            report.keys |= found.keys
            report.waiting = found.waiting
            place = found.place
            if place is None or len(report.faults) >= MANY:
                return report


def _heads(path: Path) -> tuple[Head, ...]:
    """Read the newest heads that a file holds. Raises `CliError`."""
    try:
        return tuple(Head.model_validate_json(line) for line in read_text(str(path)).splitlines()[-MANY:])
    except ValidationError as error:
        raise CliError(
            f"{path} holds no heads of the audit ledger: keep them with mcpctl audit verify --save", USAGE
        ) from error


def purge(
    *,
    project: Project = None,
    before: Annotated[str | None, typer.Option(metavar="TIME", help="Remove what is older: 2027-01-31, 90d.")] = None,
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="The same, as an age: 90d.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Remove without asking.")] = False,
    context: ContextName = None,
) -> None:
    """Remove old audit events for good. What stays can still be verified; an event says what was removed.

    It takes the operation `audit-purge`.

    \b
    Examples:
      mcpctl audit purge --older-than 90d --dry-run
      mcpctl audit purge -p demo --before 2027-01-31 --yes
    """  # noqa: D301 - \b keeps the examples' lines apart
    moment = before or older_than
    if moment is None or (before and older_than):
        raise CliError("say how old is old: --before 2027-01-31 or --older-than 90d", USAGE)
    limit = parse_past(moment)
    if not dry_run and not yes:
        what = f"audit events of {f'project {project}' if project else 'all projects'} before {limit:%Y-%m-%d %H:%M:%S}"
        if not sys.stdin.isatty():
            raise CliError(f"this removes {what} for good: repeat it with --yes", USAGE)
        typer.confirm(f"Remove {what} for good?", abort=True)
    removed = asyncio.run(_purge(project, limit, context, dry_run=dry_run))
    verb = "would be removed" if dry_run else "removed"
    if not removed:
        say("nothing is that old")
    for name, (first, last) in removed.items():
        say(f"{name}: entries {first} to {last} {verb} ({last - first + 1})")


async def _purge(
    project: str | None, before: datetime, context: str | None, *, dry_run: bool
) -> dict[str, tuple[int, int]]:
    removed: dict[str, tuple[int, int]] = {}
    async with session(context) as opened:
        while True:
            found = await opened.ask(audit.purge, project=project, before=before, dry_run=dry_run)
            for item in found.items:
                first, _ = removed.get(item.project, (item.first, item.last))
                removed[item.project] = first, item.last
            if not found.more:
                return removed
