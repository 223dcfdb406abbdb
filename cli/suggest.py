"""`mcpctl suggest`: the least that would have been enough, from what the ledger has."""

import asyncio
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from glob import escape
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from mcpctl.bus.contract import Call, declared
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.contracts.audit import Filter, Use
from mcpctl.bus.contracts.every import CONTRACTS
from mcpctl.bus.contracts.rbac import Binding, Definition
from mcpctl.bus.errors import NotFound
from mcpctl.cli.bindings import TOKEN_MARK
from mcpctl.cli.command_groups import NounGroup
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.manifests import Document, document
from mcpctl.cli.options import ContextName, Project
from mcpctl.cli.output import note, print_data, say
from mcpctl.cli.session import Session, session
from mcpctl.cli.times import parse_past
from mcpctl.cli.usage import counted, moment, number

app = typer.Typer(cls=NounGroup, rich_markup_mode=None, help="Suggest what would be enough, from what was done.")

OWN = "mcptoken-"
"""Begins the name of the definition that holds an mcptoken's own bindings; the beginning of its id follows."""


class Form(StrEnum):
    """`-o` of a suggestion: a document for `apply`, options for `create mcptoken`, or data."""

    YAML = "yaml"
    FLAGS = "flags"
    JSON = "json"


@app.callback()
def _suggest() -> None:
    pass


@app.command("rbac")
def suggest_rbac(
    *,
    from_audit: Annotated[str, typer.Option(metavar="TIME", help="How far to look back: 24h, 30d, 2027-01-31.")],
    token_name: Annotated[str, typer.Option("--token", metavar="NAME", help="The mcptoken that is looked at.")],
    project: Project = None,
    output: Annotated[Form, typer.Option("-o", "--output", help="How to print the answer.")] = Form.YAML,
    context: ContextName = None,
) -> None:
    """Suggest the bindings that cover what an mcptoken did, and nothing else.

    Each tool is named as it is: no globs. What it did once in a longer time is not in a short one.

    \b
    Examples:
      mcpctl suggest rbac --from-audit 30d --token ci -p demo
      mcpctl suggest rbac --from-audit 30d --token ci -p demo | mcpctl apply --dry-run --replay 30d -f -
      mcpctl suggest rbac --from-audit 7d --token ci -p demo -o flags
    """  # noqa: D301 - \b keeps the examples' lines apart
    if project is None:
        raise CliError("mcptokens are named within a project: add -p PROJECT", USAGE)
    found = asyncio.run(_suggested(project, token_name, from_audit, context))
    if found.left_out:
        note(f"No binding can hold these names: {', '.join(found.left_out)}.")
    if output is Form.FLAGS:
        say(found.flags)
    elif output is Form.JSON:
        print_data(found.data, "json")
    else:
        for line in found.remarks:
            say(f"# {line}")
        print_data(found.document, "yaml")


@dataclass(frozen=True)
class Suggestion:
    """Bindings, and the calls that they were made from.

    `held` is the mcptoken's own definition, if it has one; `others` grant it something, too.
    """

    project: str
    name: str
    span: str
    uses: Sequence[Use]
    bindings: Sequence[Binding]
    left_out: Sequence[str]
    held: Definition | None
    others: Sequence[str]

    @property
    def calls(self) -> int:
        return sum(use.count for use in self.uses)

    @property
    def flags(self) -> str:
        return " ".join(f"--bind {shlex.quote(str(binding))}" for binding in self.bindings)

    @property
    def remarks(self) -> list[str]:
        first, last = min(use.first for use in self.uses), max(use.last for use in self.uses)
        made = f"From {number(self.calls, 'allowed call')} of mcptoken {self.name} since {self.span}"
        told = [
            f"{made}, between {moment(first)} and {moment(last)}.",
            f"Applied, it narrows the mcptoken {self.name}." if self.held else "Applied, it creates a new mcptoken.",
            f"For another one: mcpctl create mcptoken NAME -p {self.project} {self.flags}".rstrip(),
        ]
        if self.others:
            told.insert(2, f"What it has by {', '.join(self.others)} stays.")
        return told

    @property
    def document(self) -> Document:
        """Return the mcptoken's own definition as it should be, or a new mcptoken where there is none to narrow."""
        if self.held is not None:
            return document("rbac", self.held.model_copy(update={"bindings": tuple(self.bindings)}))
        texts = [str(binding) for binding in self.bindings]
        return {"kind": "mcptoken", "name": self.name, "project": self.project, "roleBindings": texts}

    @property
    def data(self) -> dict[str, Any]:
        first, last = min(use.first for use in self.uses), max(use.last for use in self.uses)
        return {
            "token": self.name,
            "project": self.project,
            "calls": self.calls,
            "first": moment(first),
            "last": moment(last),
            "bindings": [str(binding) for binding in self.bindings],
            "left_out": list(self.left_out),
            "document": self.document,
        }


async def _suggested(project: str, name: str, span: str, context: str | None) -> Suggestion:
    """Make the suggestion. Raises `CliError` where there is nothing to make it from."""
    wanted = Filter(token=name, outcome="allow", since=parse_past(span))
    async with session(context) as opened:
        found = await counted(opened, wanted, project)
        held, more = await _definitions(opened, project, name)
    uses = [use for use in found if use.kind == "call"]
    if not uses:
        raise CliError(f'the ledger has no allowed call of mcptoken "{name}" in project "{project}" since {span}')
    bindings: dict[Binding, None] = {}
    left_out: dict[str, None] = {}
    for use in sorted(found, key=lambda use: (use.server or "", use.name or "")):
        try:
            bindings |= dict.fromkeys(_covering(use, held.bindings if held is not None else ()))
        except ValidationError:
            left_out[f"{use.server}/{use.name}" if use.server else str(use.name)] = None
    return Suggestion(project, name, span, uses, tuple(bindings), tuple(left_out), held, more)


async def _definitions(opened: Session, project: str, name: str) -> tuple[Definition | None, tuple[str, ...]]:
    """Return the definition with the own bindings of an mcptoken that works, and the names of others about it."""
    try:
        found = await opened.ask(token.describe, project=project, name=name)
    except NotFound:
        return None, ()
    listed = (await opened.ask(rbac.list_definitions, of_tokens=True)).items
    about = {each.name: each for each in listed if f"{TOKEN_MARK}{found.id}" in each.subjects}
    own = about.pop(f"{OWN}{found.id[:32]}", None)
    return (own, tuple(about)) if found.status == "active" else (None, ())


def _covering(use: Use, held: Iterable[Binding]) -> Iterator[Binding]:
    """Yield the least bindings that allow a use. Raises `ValidationError` for a name that none can have."""
    if use.kind != "call":
        yield from _of_verb(use)
    elif use.method == "tools/call" and use.server is not None:
        tool = f"{use.server}/{use.name}"
        narrow = Binding(role="run", resource="tools", name=escape(tool))
        granting = [binding for binding in held if binding.reaches("run", "tools", tool)]
        if granting and all(binding.when for binding in granting):
            yield from (narrow.model_copy(update={"when": binding.when}) for binding in granting)
        else:
            yield narrow
    elif use.server is not None:
        yield Binding(role="view", resource="servers", name=escape(use.server))
    elif use.method == "prompts/get" and use.name is not None:
        yield Binding(role="view", resource="prompts", name=escape(use.name))


def _of_verb(use: Use) -> Iterator[Binding]:
    """Yield the binding for what an mcptoken did to the control plane, such as issuing another."""
    contracts = (each for module in CONTRACTS for each in declared(module))
    call = next((each for each in contracts if isinstance(each, Call) and each.name == use.kind), None)
    need = call.needs if call is not None else None
    if need is None or need.resource is None:
        return
    name = None if use.name is None or need.verb == "create" else escape(use.name)
    yield Binding.model_validate({"role": need.verb, "resource": need.resource, "name": name})
