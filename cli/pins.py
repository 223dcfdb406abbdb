"""`mcpctl approve tool` and `describe tool`: what servers say of their tools, as the Catalog has pinned it."""

import asyncio
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from mcpctl.bus.contracts import pins
from mcpctl.bus.errors import NotFound
from mcpctl.bus.names import is_label
from mcpctl.cli.command_groups import NounGroup
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.finding import each, end
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import note, print_details, say
from mcpctl.cli.resources import canonical
from mcpctl.cli.session import Session, session

app = typer.Typer(cls=NounGroup, rich_markup_mode=None, add_completion=False)

DIGEST = re.compile(r"[0-9a-f]{8,64}")
"""What `--digest` takes: a digest, or enough of its beginning."""

QUARANTINED = "quarantined"

Target = tuple[str, str]
"""A server and a tool, by the name that the server uses."""


@app.callback()
def approve() -> None:
    """End the quarantine of tools that their servers changed; mcpctl get tools shows which are in it."""


@app.command()
def tool(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SERVER/TOOL]...", help="Tools, by the names that servers use.")
    ] = None,
    *,
    digest: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="The definition that you have looked at, as describe tool shows it."),
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="SERVER", help="With --all: of this server.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of a server that are in quarantine.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Without asking.")] = False,
    context: ContextName = None,
) -> None:
    """Approve what a server says now of a tool that is in quarantine: it is listed and called again everywhere.

    What changed is shown first. It is refused where the server has changed the tool again since it was shown. With
    --digest of the definition that was pinned before, that one stays, and the quarantine ends.

    \b
    Examples:
      mcpctl describe tool github/create_issue
      mcpctl approve tool github/create_issue
      mcpctl approve tool github/create_issue --digest 5f2a97bd0c31
      mcpctl approve tool --all --server github
    """  # noqa: D301 - \b keeps the examples' lines apart
    if bool(names) == everything or everything != (server is not None):
        raise CliError("name the tools (SERVER/TOOL), or give --all and --server SERVER", USAGE)
    if digest is not None and (len(names or ()) != 1 or not DIGEST.fullmatch(digest)):
        raise CliError("--digest is 8 to 64 hexadecimal digits, and goes with one tool", USAGE)
    if everything and not yes and not sys.stdin.isatty():
        raise CliError(f"this approves all tools of server {server} in quarantine: repeat it with --yes", USAGE)
    asyncio.run(_approve(parsed(names or ()), server, digest, context, asking=not yes and digest is None))


def parsed(names: Sequence[str]) -> list[Target]:
    """Read `SERVER/TOOL` or `tool/SERVER/TOOL`. Raises `CliError`."""
    found = []
    for name in names:
        server, _, rest = name.partition("/")
        if "/" in rest and canonical(server) == "tool":
            server, _, rest = rest.partition("/")
        if not is_label(server) or not rest:
            raise CliError(f"{name[:200]} names no tool: write SERVER/TOOL, with the name that the server uses", USAGE)
        found.append((server, rest))
    return list(dict.fromkeys(found))


async def describe_tools(names: Sequence[str], context: str | None) -> None:
    """Show what is known of tools: their state, and what changed in those in quarantine."""
    targets = parsed(names)
    if not targets:
        raise CliError("name the tools that you mean: SERVER/TOOL", USAGE)
    async with session(context) as opened:
        found, failures = await each(opened, targets, lambda target: _find(opened, target))
        for number, item in enumerate(found):
            if number:
                say("")
            print_details(item)
    end(failures)


async def _approve(
    targets: list[Target], server: str | None, digest: str | None, context: str | None, *, asking: bool
) -> None:
    async with session(context) as opened:
        if server is not None:
            targets = [(server, each.tool) for each in await tools_of(opened, server) if each.state == QUARANTINED]
            if not targets:
                note(f"No tool of server {server} is in quarantine.")
        _, failures = await each(opened, targets, lambda target: _approve_one(opened, target, digest, asking=asking))
    end(failures)


async def _approve_one(opened: Session, target: Target, digest: str | None, *, asking: bool) -> None:
    found = await _find(opened, target)
    label = "/".join(target)
    if digest is None and found.pending is None:
        note(f'tool "{label}" is not in quarantine')
        return
    looked_at = found.pending or found.digest
    if digest is not None:
        fitting = [each for each in (found.pending, found.digest) if each is not None and each.startswith(digest)]
        if not fitting:
            raise CliError(
                f'tool "{label}" is not as you have seen it: look at it again with mcpctl describe tool {label}'
            )
        looked_at = fitting[0]
    elif asking:
        note(f'tool "{label}" changed:')
        for line in found.changes:
            note(f"  {line}")
        if sys.stdin.isatty():
            typer.confirm("Approve that?", abort=True)
    approvals = (pins.Approval(tool=found.tool, digest=looked_at),)
    await opened.ask(pins.approve_tools, name=found.server, approvals=approvals)
    say(f'tool "{label}" approved (definition {looked_at[:12]})')


async def tools_of(opened: Session, server: str) -> tuple[pins.Tool, ...]:
    """Return all tools of a server that were seen. Raises `CliError`, `BusError`."""
    try:
        return (await opened.ask(pins.list_tools, name=server)).items
    except NotFound as error:
        raise CliError(f'server "{server}" not found') from error


async def _find(opened: Session, target: Target) -> pins.Tool:
    server, name = target
    for item in await tools_of(opened, server):
        if item.tool == name:
            return item
    raise CliError(f'tool "{server}/{name}" has not been seen yet: it is pinned when it is first listed or called')
