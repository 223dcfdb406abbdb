"""`mcpctl rotate mcptoken`: a new bearer under the old name."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from mcpctl.bus.contracts import token
from mcpctl.bus.errors import NotFound
from mcpctl.cli.command_groups import NounGroup
from mcpctl.cli.errors import CliError
from mcpctl.cli.issuing import Bindings, bound, print_token
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import TokenFormat, note
from mcpctl.cli.session import session
from mcpctl.cli.times import parse_duration, parse_ttl

app = typer.Typer(cls=NounGroup, rich_markup_mode=None, add_completion=False)


@app.callback()
def rotate() -> None:
    """Give an mcptoken a new bearer."""


@app.command()
def mcptoken(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the mcptoken.")],
    project: Annotated[str, typer.Option("-p", "--project", metavar="PROJECT", help="Project that it is for.")],
    overlap: Annotated[str, typer.Option(metavar="TIME", help="How long the old bearer still works: 1h, 7d, 0s.")] = (
        "1h"
    ),
    ttl: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="How long the new one works: 30d, 12h, never or ISO 8601 (default: 30d)."),
    ] = None,
    output: Annotated[
        TokenFormat, typer.Option("-o", "--output", help="How to print it; `token`: the bearer alone.")
    ] = TokenFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Issue a new bearer with the bindings of the old one, which works on for a while.

    \b
    Examples:
      mcpctl rotate mcptoken ci -p demo
      mcpctl rotate mcptoken ci -p demo --overlap 0s --ttl 7d
      CI_TOKEN=$(mcpctl rotate mcptoken ci -p demo --overlap 1d -o token)
    """  # noqa: D301 - \b keeps the examples' lines apart
    seconds = parse_duration(overlap)
    members = {"project": project, "name": name, "overlap_seconds": seconds, **parse_ttl(ttl)}
    issued, bindings = asyncio.run(_rotate(members, context))
    until = _old_one(seconds)
    if output is TokenFormat.TABLE:
        print_token(issued, bindings, output, "has a new bearer", until)
    else:
        print_token(issued, bindings, output, "")
        note(until)


async def _rotate(members: dict[str, Any], context: str | None) -> tuple[token.IssuedToken, Bindings | None]:
    async with session(context) as opened:
        try:
            issued = await opened.ask(token.rotate, **members)
        except NotFound as error:
            name, project = members["name"], members["project"]
            raise CliError(f'mcptoken "{name}" not found in project "{project}"') from error
        return issued, await bound(opened, issued.token)


def _old_one(seconds: int) -> str:
    if seconds == 0:
        return "The old bearer works no more."
    moment = datetime.now(UTC).astimezone() + timedelta(seconds=seconds)
    return f"The old bearer works until {moment:%Y-%m-%d %H:%M:%S}, unless it ends before."
