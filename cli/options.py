"""Options that many commands take."""

from enum import StrEnum
from typing import Annotated

import typer

from mcpctl.cli.completion import context_names, nouns_and_names, project_names, resource_names
from mcpctl.cli.output import Format


class NamingForm(StrEnum):
    """`--naming`: how agents see the tools of a project."""

    PLAIN = "plain"
    PREFIX = "prefix"


class GateForm(StrEnum):
    """`--gate`: what a call of a tool meets before the agent was briefed."""

    BRIEF = "brief"
    REFUSE = "refuse"
    STRICT = "strict"


class GateChange(StrEnum):
    """`--gate` of a project that is there."""

    BRIEF = "brief"
    REFUSE = "refuse"
    STRICT = "strict"
    OFF = "off"

    @property
    def change(self) -> str:
        """The same as `--set` says it."""
        return "gate=null" if self is GateChange.OFF else f"gate.mode={self.value}"


ContextName = Annotated[
    str | None,
    typer.Option(
        "--context",
        metavar="NAME",
        help="Context to use (default: $MCPCTL_CONTEXT, or the current one).",
        autocompletion=context_names,
    ),
]
Project = Annotated[
    str | None,
    typer.Option("-p", "--project", metavar="PROJECT", help="Project that is meant.", autocompletion=project_names),
]
Output = Annotated[Format, typer.Option("-o", "--output", help="How to print the answer.")]
Noun = Annotated[
    str,
    typer.Argument(
        metavar="RESOURCE",
        help="projects, servers, mcptokens, users, groups, rbac, ... or KIND/NAME",
        autocompletion=nouns_and_names,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME...", help="Names, or RESOURCE/NAME.", autocompletion=resource_names),
]
NameOption = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Names; all where none is given.", autocompletion=resource_names),
]
LabelSelector = Annotated[
    str | None,
    typer.Option("-l", "--selector", metavar="LABELS", help="Those with these labels: app=shop,tier!=test,owner,!old"),
]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Label of the new resource; repeatable.")
]
NewName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the new resource.")]
Description = Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")]
OldBindings = Annotated[list[str] | None, typer.Option("--binding", hidden=True)]
OldOperations = Annotated[list[str] | None, typer.Option("--operation", hidden=True)]
