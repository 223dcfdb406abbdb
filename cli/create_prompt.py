"""`mcpctl create prompt`: what agents should know."""

import sys
from typing import Annotated

import typer

from mcpctl.bus.contracts import catalog
from mcpctl.bus.contracts.catalog import PromptResource, PromptSpec
from mcpctl.cli.creating import create_one
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.given import read_text
from mcpctl.cli.labels import parse_labels
from mcpctl.cli.options import ContextName, LabelOption, NewName, Output, Project
from mcpctl.cli.output import Format
from mcpctl.cli.session import checked


def prompt(
    name: NewName,
    *,
    project: Project = None,
    everywhere: Annotated[bool, typer.Option("--global", help="It counts in all projects.")] = False,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE|-", help="File with the content, in Markdown; - reads stdin.")
    ] = None,
    content: Annotated[str | None, typer.Option(metavar="TEXT", help="The content itself.")] = None,
    resource: Annotated[
        str | None,
        typer.Option(
            metavar="SERVER/URI",
            help="MCP resource to read the content from; what is given beside it stands in for it.",
        ),
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="What a task is about that needs it; repeatable.")
    ] = None,
    priority: Annotated[
        int, typer.Option(metavar="1-10", help="Weight among those that fit; one of 10 is in every briefing.")
    ] = 5,
    summary: Annotated[
        str, typer.Option(metavar="TEXT", help="What it says, in one line, for agents to choose by.")
    ] = "",
    labels: LabelOption = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """Write a prompt: what agents of a project (-p), or of all (--global), should know.

    \b
    Examples:
      mcpctl create prompt style -p demo --tag python --tag review --summary 'How we write' --file style.md
      mcpctl create prompt conduct --global --priority 10 --content 'Never push to main.'
      mcpctl create prompt readme -p demo --tag setup --resource git/file:///srv/repo/README.md
    """  # noqa: D301 - \b keeps the examples' lines apart
    if (project is None) != everywhere:
        raise CliError("say where it counts: -p PROJECT, or --global for all projects", USAGE)
    if file is not None and content is not None:
        raise CliError("the content comes from one of --file and --content", USAGE)
    if file is None and content is None and resource is None:
        raise CliError("give its content: --file FILE, --content TEXT or --resource SERVER/URI", USAGE)
    spec = checked(
        PromptSpec,
        name=name,
        labels=parse_labels(labels),
        project=project,
        tags=tuple(tags or ()),
        priority=priority,
        summary=summary,
        content=(content or "") if file is None else _text(file),
        resource=None if resource is None else _resource(resource),
    )
    create_one(catalog.create_prompt, "prompt", name, output, context, spec=spec)


def _text(file: str) -> str:
    if file != "-":
        return read_text(file)
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CliError("the content on stdin is not text", USAGE) from error


def _resource(text: str) -> PromptResource:
    server, slash, uri = text.partition("/")
    if not slash or not uri:
        raise CliError(f"--resource {text}: write SERVER/URI, for example git/file:///README.md", USAGE)
    return checked(PromptResource, server=server, uri=uri)
