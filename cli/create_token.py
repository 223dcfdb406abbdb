"""`mcpctl create mcptoken` and `serviceaccounttoken`: bearers, shown once."""

import asyncio
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from mcpctl.bus.contracts import token
from mcpctl.cli.bindings import parse_bindings, refuse_old_forms
from mcpctl.cli.issuing import Bindings, bound, print_account_token, print_token
from mcpctl.cli.labels import parse_labels
from mcpctl.cli.options import ContextName, Description, LabelOption, NewName, OldBindings, OldOperations
from mcpctl.cli.output import TokenFormat
from mcpctl.cli.quotas import Burst, ConcurrentCalls, RequestsPerSecond, Streams, quota_of
from mcpctl.cli.session import session
from mcpctl.cli.times import parse_ttl

Ttl = Annotated[
    str | None, typer.Option(metavar="TIME", help="How long it works: 30d, 12h, never or ISO 8601 (default: 30d).")
]
TokenOutput = Annotated[TokenFormat, typer.Option("-o", "--output", help="How to print it; `token`: the bearer alone.")]


class Rights(StrEnum):
    """What an mcptoken begins with, beside its own bindings."""

    EMPTY = "empty"
    CLONE = "clone"


def mcptoken(
    name: NewName,
    project: Annotated[str, typer.Option("-p", "--project", metavar="PROJECT", help="Project that it is for.")],
    bind: Annotated[
        list[str] | None,
        typer.Option(metavar="BINDING", help="What it may do: role:run,resource:tools[,name:GLOB]; repeatable."),
    ] = None,
    rights: Annotated[
        Rights, typer.Option("--rbac", help="`clone` adds what you may do in the project now.")
    ] = Rights.EMPTY,
    ttl: Ttl = None,
    description: Description = "",
    requests_per_second: RequestsPerSecond = None,
    burst: Burst = None,
    concurrent_calls: ConcurrentCalls = None,
    streams: Streams = None,
    labels: LabelOption = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Replace an active one of that name: it is revoked.")] = False,
    output: TokenOutput = TokenFormat.TABLE,
    context: ContextName = None,
    old_bindings: OldBindings = None,
    old_operations: OldOperations = None,
) -> None:
    """Issue an mcptoken for one project; its bearer is shown once.

    \b
    Examples:
      mcpctl create mcptoken agent -p demo --bind role:run,resource:servers
      mcpctl create mcptoken ci -p demo --bind role:run,resource:tools,name:git/git_log --ttl 12h
      mcpctl create mcptoken mine -p demo --rbac clone --ttl never --force
      mcpctl create mcptoken loop -p demo --bind role:run,resource:servers --requests-per-second 5 --concurrent-calls 2
      CI_TOKEN=$(mcpctl create mcptoken ci -p demo --bind role:run,resource:servers -o token)
    """  # noqa: D301 - \b keeps the examples' lines apart
    refuse_old_forms("--bind", old_bindings, old_operations)
    members = {
        "project": project,
        "name": name,
        "labels": parse_labels(labels),
        "bindings": parse_bindings(bind or ()),
        "rbac": rights.value,
        "description": description,
        "quota": quota_of(requests_per_second, burst, concurrent_calls, streams),
        "force": force,
        **parse_ttl(ttl),
    }
    issued, bindings = asyncio.run(_issue(members, context))
    print_token(issued, bindings, output, "created")


async def _issue(members: dict[str, Any], context: str | None) -> tuple[token.IssuedToken, Bindings | None]:
    async with session(context) as opened:
        issued = await opened.ask(token.issue, **members)
        return issued, await bound(opened, issued.token)


def serviceaccount_token(
    name: Annotated[str, typer.Argument(metavar="SERVICEACCOUNT", help="Service account that it stands for.")],
    ttl: Ttl = None,
    output: TokenOutput = TokenFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Issue a bearer of a service account; it is shown once.

    \b
    Examples:
      mcpctl create serviceaccounttoken build
      BUILD_TOKEN=$(mcpctl create serviceaccounttoken build --ttl 12h -o token)
    """  # noqa: D301 - \b keeps the examples' lines apart
    print_account_token(asyncio.run(_issue_for_account({"name": name, **_seconds(ttl)}, context)), output)


async def _issue_for_account(members: dict[str, Any], context: str | None) -> token.IssuedServiceAccountToken:
    async with session(context) as opened:
        return await opened.ask(token.issue_service_account_token, **members)


def _seconds(ttl: str | None) -> dict[str, int | None]:
    """Return how long a bearer of a service account works, in the form that its request has."""
    given = parse_ttl(ttl)
    if "never_expires" in given:
        return {"ttl_seconds": None}
    if "expires_at" in given:
        return {"ttl_seconds": int((given["expires_at"] - datetime.now(UTC)).total_seconds())}
    return given
