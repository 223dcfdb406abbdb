"""Options that choose audit events."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer

from mcpctl.bus.contracts.audit import Filter
from mcpctl.cli.session import checked
from mcpctl.cli.times import parse_past


class Outcome(StrEnum):
    """How something ended."""

    ALLOW = "allow"
    DENY = "deny"
    ERROR = "error"
    CANCELLED = "cancelled"
    REVOKED = "revoked"


Token = Annotated[str | None, typer.Option(metavar="NAME", help="Only what was done with this mcptoken.")]
TokenSha = Annotated[
    str | None,
    typer.Option(metavar="SHA", help="Only what was done with the bearer of this id, or of ids that begin so."),
]
User = Annotated[str | None, typer.Option(metavar="NAME", help="Only what this user did.")]
Tool = Annotated[str | None, typer.Option(metavar="GLOB", help="Only tools that match, as SERVER/TOOL.")]
OfOutcome = Annotated[Outcome | None, typer.Option(help="Only what ended so.")]
Kind = Annotated[str | None, typer.Option(metavar="KIND", help="Only this kind: call, result, edge, token.issue, ...")]
Since = Annotated[str | None, typer.Option(metavar="TIME", help="Only what is not older: 30m, 2d, 2027-01-31.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only what is not younger: 30m, 2d, 2027-01-31.")]


def chosen(
    *,
    token: str | None = None,
    token_sha: str | None = None,
    user: str | None = None,
    tool: str | None = None,
    outcome: Outcome | None = None,
    kind: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> Filter:
    """Return the filter that options describe. Raises `CliError`."""
    return checked(
        Filter,
        token=token,
        token_sha=None if token_sha is None else token_sha.lower(),
        user=user,
        tool=tool,
        outcome=outcome,
        kind=kind,
        since=_moment(since),
        until=_moment(until),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else parse_past(text)
