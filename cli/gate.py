"""`mcpctl gate`: closing what `mcpctl get gates` lists."""

import asyncio
import sys
from typing import Annotated

import typer

from mcpctl.bus.contracts import gate
from mcpctl.cli.command_groups import Group
from mcpctl.cli.completion import project_names
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.finding import demand_there, each, end
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import say
from mcpctl.cli.session import Session, session

app = typer.Typer(cls=Group, rich_markup_mode=None, add_completion=False)

KINDS = ("McpToken", "User", "ServiceAccount")


@app.callback()
def _gate() -> None:
    """Have agents briefed again; mcpctl get gates shows who is through."""


@app.command()
def close(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SUBJECT]...", help="NAME of an mcptoken, User:NAME or ServiceAccount:NAME."),
    ] = None,
    *,
    project: Annotated[
        str,
        typer.Option(
            "-p", "--project", metavar="PROJECT", help="Project whose gate is meant.", autocompletion=project_names
        ),
    ],
    everybody: Annotated[bool, typer.Option("--all", help="Close it behind everybody.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="With --all: without asking.")] = False,
    context: ContextName = None,
) -> None:
    """Close the gate of a project behind some who are through, for all their sessions: they are briefed again.

    \b
    Examples:
      mcpctl gate close -p demo ci
      mcpctl gate close -p demo User:ann ServiceAccount:build
      mcpctl gate close -p demo --all
    """  # noqa: D301 - \b keeps the examples' lines apart
    if bool(subjects) == everybody:
        raise CliError("name those behind whom the gate closes, or give --all", USAGE)
    meant = list(dict.fromkeys(map(_subject, subjects or ())))
    if everybody and not yes:
        if not sys.stdin.isatty():
            raise CliError(f"this closes the gate of project {project} behind everybody: repeat it with --yes", USAGE)
        typer.confirm(f"Close the gate of project {project} behind everybody?", abort=True)
    asyncio.run(_close(project, meant, context))


def _subject(text: str) -> str:
    """Return the subject that is meant. Raises `CliError` for what can be none."""
    kind, colon, name = text.rpartition(":")
    if (colon and kind not in KINDS) or not name:
        raise CliError(
            f"{text} is not through any gate: write NAME (of an mcptoken), User:NAME or ServiceAccount:NAME", USAGE
        )
    return f"{kind or KINDS[0]}:{name}"


async def _close(project: str, subjects: list[str], context: str | None) -> None:
    async with session(context) as opened:
        await demand_there(opened, project)
        if not subjects:
            closed = (await opened.ask(gate.close_gate, project=project)).closed
            say(_told(project, "everybody", closed))
            return
        _, failures = await each(opened, subjects, lambda subject: _close_behind(opened, project, subject))
    end(failures)


async def _close_behind(opened: Session, project: str, subject: str) -> None:
    closed = (await opened.ask(gate.close_gate, project=project, subject=subject)).closed
    if not closed:
        raise CliError(f'{subject} is not through the gate of project "{project}"')
    say(_told(project, subject, closed))


def _told(project: str, whom: str, closed: int) -> str:
    return f'gate of project "{project}" closed behind {whom} ({closed} {"passage" if closed == 1 else "passages"})'
