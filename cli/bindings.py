"""Bindings and subjects as they are written on the command line."""

import re
import shlex
from collections.abc import Iterable, Sequence
from typing import get_args

from pydantic import ValidationError

from mcpctl.bus.bindings import why_useless
from mcpctl.bus.connection import first_fault
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import Binding, Role
from mcpctl.bus.errors import NotFound
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.explain import humane
from mcpctl.cli.resources import NOUNS
from mcpctl.cli.session import Session

TOKEN_MARK = "McpToken:"  # noqa: S105 - the mark of a subject, not a secret
_SHA = re.compile(r"[0-9a-f]{64}")


def parse_bindings(texts: Iterable[str]) -> tuple[Binding, ...]:
    """Read bindings. Raises `CliError` for one that is none."""
    try:
        found = tuple(Binding.parse(text) for text in texts)
    except ValueError as error:
        raise CliError(f"binding: {_fault(error)}", USAGE) from error
    for binding in found:
        fault = why_useless(binding)
        if fault is not None:
            raise CliError(f"binding: {fault}", USAGE)
    return found


def _fault(error: ValueError) -> str:
    return humane(first_fault(error)) if isinstance(error, ValidationError) else str(error)


def refuse_old_forms(option: str, bindings: Sequence[str] | None, operations: Sequence[str] | None) -> None:
    """Raise `CliError` where `--binding` or `--operation` was used: it says the same with `option`."""
    used = [name for name, given in (("--binding", bindings), ("--operation", operations)) if given]
    if not used:
        return
    forms = [*map(_new_form, bindings or ()), *(f"action:{operation}" for operation in operations or ())]
    written = " ".join(f"{option} {shlex.quote(form)}" for form in forms)
    raise CliError(f"{' and '.join(used)}: no such option any more: write {written}", USAGE)


def _new_form(text: str) -> str:
    """Return what `view:servers` or `servers:view:my-ha` is now; what is no binding at all becomes the pattern."""
    try:
        return str(Binding.parse(text))
    except ValueError:
        first, _, rest = text.partition(":")
        second, _, name = rest.partition(":")
    if first not in get_args(Role):
        first, second = second, first
    noun = NOUNS.get(second.lower())
    resource = noun.plural if noun else second
    if first not in get_args(Role) or not resource:
        return "role:ROLE,resource:RESOURCE[,name:GLOB]"
    return f"role:{first},resource:{resource}" + (f",name:{name}" if name else "")


async def with_token_ids(opened: Session, subjects: Iterable[str], project: str | None) -> tuple[str, ...]:
    """Return subjects with `McpToken:<name>` as `McpToken:<SHA-256>`. Raises `CliError` for a token not there."""
    found = []
    for subject in subjects:
        name = subject.removeprefix(TOKEN_MARK)
        if name == subject or _SHA.fullmatch(name):
            found.append(subject)
            continue
        if project is None:
            raise CliError(f"{subject}: mcptokens are named within a project: add -p PROJECT", USAGE)
        try:
            found.append(TOKEN_MARK + (await opened.ask(token.describe, project=project, name=name)).id)
        except NotFound as error:
            raise CliError(f'{subject}: mcptoken "{name}" not found in project "{project}"') from error
    return tuple(found)


def as_token_ids(subjects: Iterable[str]) -> tuple[str, ...]:
    """Return subjects that can be checked before anybody is asked: an mcptoken's name stands for some id."""
    return tuple(TOKEN_MARK + "0" * 64 if subject.startswith(TOKEN_MARK) else subject for subject in subjects)
