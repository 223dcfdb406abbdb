"""What the shell completes beside commands and options: nouns, names from the server, contexts; and the scripts.

A completion is silent whatever fails, and gives up after a second.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from typing import Annotated, Any

import typer

from mcpctl.cli.output import say

PATIENCE = 1.0
"""Seconds for one completion, all questions together."""


class Shell(StrEnum):
    """The shells that have a script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the script that completes commands, options and the names of resources.

    \b
    Examples:
      source <(mcpctl completion bash)
      mcpctl completion zsh > "${fpath[1]}/_mcpctl"
      mcpctl completion fish > ~/.config/fish/completions/mcpctl.fish
    """  # noqa: D301 - \b keeps the examples' lines apart
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # noqa: PLC0415 - not in __all__

    say(get_completion_script(prog_name="mcpctl", complete_var="_MCPCTL_COMPLETE", shell=shell.value))


def context_names(incomplete: str) -> list[str]:
    """Complete a context."""
    with suppress(Exception):
        from mcpctl.cli.context import Config  # noqa: PLC0415

        return _beginning(Config.load().contexts, incomplete)
    return []


def resource_nouns(incomplete: str) -> list[str]:
    """Complete a kind of resource."""
    from mcpctl.cli.resources import RESOURCES  # noqa: PLC0415

    return _beginning((resource.plural for resource in RESOURCES), incomplete)


def nouns_and_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a kind of resource, or KIND/NAME."""
    noun, slash, _ = incomplete.partition("/")
    if not slash:
        return resource_nouns(incomplete)
    return [f"{noun}/{name}" for name in _names(ctx, noun) if f"{noun}/{name}".startswith(incomplete)]


def resource_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete names of the kind of resource that the command line has before, without those that stand there."""
    noun, given = ctx.params.get("noun"), ctx.params.get("names") or ()
    if not isinstance(noun, str):
        return []
    return [name for name in _beginning(_names(ctx, noun), incomplete) if name not in given]


def project_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Complete a project."""
    return _beginning(_names(ctx, "projects"), incomplete)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _names(ctx: typer.Context, noun: str) -> list[str]:
    with suppress(Exception):
        return asyncio.run(_within(PATIENCE, noun, ctx.params.get("project"), ctx.params.get("context")))
    return []


async def _within(seconds: float, noun: str, project: str | None, context: str | None) -> list[str]:
    async with asyncio.timeout(seconds):
        return await _ask(noun, project, context)


async def _ask(noun: str, project: str | None, context: str | None) -> list[str]:
    from mcpctl.cli.resources import find  # noqa: PLC0415
    from mcpctl.cli.session import session  # noqa: PLC0415

    resource = find(noun)
    async with session(context) as opened:
        listed: Any = await opened.ask(resource.call("list"), project=project)
    items = [
        item for item in listed.items if project is None or not resource.belongs or resource.belongs(item, project)
    ]
    return sorted({resource.key(item) for item in items})
