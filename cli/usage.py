"""What mcptokens did, summed up from the ledger: `audit report`, and `revoke --report`."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mcpctl.bus.contracts import audit
from mcpctl.bus.contracts.audit import Filter, Use
from mcpctl.bus.errors import DeadlineExceeded
from mcpctl.cli.audit_filters import Since, Token, TokenSha, Until, chosen
from mcpctl.cli.errors import UNAVAILABLE, USAGE, CliError
from mcpctl.cli.options import ContextName, Project
from mcpctl.cli.output import DataFormat, note, print_data, print_table, say
from mcpctl.cli.session import Session, session
from mcpctl.cli.times import ago

PAGE = 5000
MOST = 100_000
"""Different uses that are read at the most."""

DIGESTS = 1000
"""Digests of arguments that are named of one tool at the most."""

OUTCOMES = ("deny", "error", "cancelled", "revoked")


def report(
    *,
    project: Project = None,
    token: Token = None,
    token_sha: TokenSha = None,
    since: Since = None,
    until: Until = None,
    output: Annotated[DataFormat, typer.Option("-o", "--output", help="How to print the answer.")] = DataFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Sum up what an mcptoken did: tools, outcomes, when; with -o json the digests of arguments too.

    What mcptokens did that it had issued counts as well.

    \b
    Examples:
      mcpctl audit report --token ci -p demo
      mcpctl audit report --token ci -p demo --since 7d -o json
    """  # noqa: D301 - \b keeps the examples' lines apart
    if (token is None) == (token_sha is None):
        raise CliError("say which mcptoken: --token NAME -p PROJECT, or --token-sha SHA", USAGE)
    if token is not None and project is None:
        raise CliError("mcptokens are named within a project: add -p PROJECT", USAGE)
    wanted = chosen(token=token, token_sha=token_sha, since=since, until=until)
    asyncio.run(_report(wanted, project, output, context))


def report_on(names: Sequence[str], project: str | None, context: str | None) -> None:
    """Report on mcptokens by their names, one after the other."""
    for name in names:
        asyncio.run(_report(Filter(token=name), project, DataFormat.TABLE, context))


async def counted(opened: Session, wanted: Filter, project: str | None, **more: Any) -> list[Use]:
    """Return all uses that match. Raises `CliError` where they are too many."""
    found: list[Use] = []
    end: int | None = None
    while True:
        asked = {"filter": wanted, "project": project, "limit": PAGE, "offset": len(found), "end": end, **more}
        try:
            page = await opened.ask(audit.usage, **asked)
        except DeadlineExceeded as error:
            raise CliError(f"{error}: there is too much in the ledger, choose a shorter time", UNAVAILABLE) from error
        found += page.items
        end = page.end
        if not page.more:
            return found
        if len(found) >= MOST:
            raise CliError(f"there are more than {MOST} different calls in this time: choose a shorter one")


@dataclass
class Touched:
    """One thing that one bearer used: how often, how it ended, and with how many different arguments."""

    use: Use
    calls: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    first: int = 2**53
    last: int = 0
    digests: int = 0
    args: dict[str, None] = field(default_factory=dict)

    def add(self, use: Use) -> None:
        """Count a use. An allowed call is told by its event `call`, how it ended by its `result`."""
        self.first, self.last = min(self.first, use.first), max(self.last, use.last)
        self.args |= dict.fromkeys(use.args)
        self.digests = max(self.digests, use.digests, len(self.args))
        if use.kind == "result" and use.outcome == "allow":
            return
        if use.kind != "result":
            self.calls += use.count
        self.outcomes[use.outcome] = self.outcomes.get(use.outcome, 0) + use.count

    @property
    def what(self) -> str:
        use = self.use
        if use.method is None:
            return f"{use.kind} {use.name}" if use.name else use.kind
        return what(use)

    @property
    def data(self) -> dict[str, Any]:
        use = self.use
        return {
            "token": use.token_name,
            "token_sha": use.token_sha,
            "project": use.project,
            "server": use.server,
            "method": use.method,
            "name": use.name,
            "kind": None if use.method is not None else use.kind,
            "calls": self.calls,
            "outcomes": self.outcomes,
            "first": moment(self.first),
            "last": moment(self.last),
            "digests": self.digests,
            "args": list(self.args),
        }


def what(use: Use) -> str:
    """Return a tool as `SERVER/TOOL`, everything else by its method."""
    thing = "/".join(part for part in (use.server, use.name) if part)
    return thing if use.method == "tools/call" else " ".join(part for part in (use.method, thing) if part)


def number(count: int, noun: str) -> str:
    """Return how many of something: `1 call`, `2 calls`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def moment(ms: int) -> str:
    """Return milliseconds since 1970 in ISO 8601."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")


def touched(uses: Iterable[Use]) -> list[Touched]:
    """Return what was used, the most frequent first."""
    found: dict[tuple[str | None, ...], Touched] = {}
    for use in uses:
        kind = "call" if use.kind == "result" else use.kind
        key = (use.token_sha, use.project, kind, use.method, use.server, use.name)
        found.setdefault(key, Touched(use)).add(use)
    return sorted(found.values(), key=lambda each: (-each.calls, each.what))


async def _report(wanted: Filter, project: str | None, output: DataFormat, context: str | None) -> None:
    async with session(context) as opened:
        found = touched(await counted(opened, wanted, project, args=DIGESTS))
    who = f"mcptoken {wanted.token} of project {project}" if wanted.token else f"the bearer {wanted.token_sha}"
    if output is not DataFormat.TABLE:
        print_data(
            {"token": wanted.token, "project": project} | _sums(found) | {"items": [i.data for i in found]}, output
        )
    elif not found:
        note(f"The ledger has nothing that {who} did.")
    else:
        sums = _sums(found)
        used = f"{number(len(sums['tools']), 'tool')} of {number(len(sums['servers']), 'server')}"
        span = f"first {ago(_when(found, first=True))}, last {ago(_when(found))}"
        say(f"{who}: {number(sums['calls'], 'call')}, {used}, {span}")
        titles = ("TOKEN", "WHAT", "CALLS", "DENIED", "FAILED", "CANCELLED", "REVOKED", "ARGS", "FIRST", "LAST")
        print_table(titles, [_cells(each) for each in found])


def _sums(found: Sequence[Touched]) -> dict[str, Any]:
    calls = [each for each in found if each.use.method is not None]
    tools = [each for each in calls if each.use.method == "tools/call" and each.use.server is not None]
    return {
        "calls": sum(each.calls for each in calls),
        "servers": sorted({each.use.server for each in calls if each.use.server is not None}),
        "tools": sorted({each.what for each in tools}),
        "first": moment(min(each.first for each in found)) if found else None,
        "last": moment(max(each.last for each in found)) if found else None,
    }


def _when(found: Sequence[Touched], *, first: bool = False) -> datetime:
    ms = min(each.first for each in found) if first else max(each.last for each in found)
    return datetime.fromtimestamp(ms / 1000, UTC)


def _cells(each: Touched) -> tuple[object, ...]:
    use = each.use
    bearer = f"{use.token_name} ({(use.token_sha or '')[:8]})"
    ends = [each.outcomes.get(outcome, 0) for outcome in OUTCOMES]
    times = (ago(datetime.fromtimestamp(ms / 1000, UTC)) for ms in (each.first, each.last))
    return bearer, each.what, each.calls, *ends, each.digests, *times
