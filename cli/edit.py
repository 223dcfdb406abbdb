"""`mcpctl edit`: a resource's specification as YAML in $EDITOR, or members of it with `--set`."""

import asyncio
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from mcpctl.bus.contract import Message
from mcpctl.bus.contracts.catalog import ProjectSpec, ServerSpec
from mcpctl.bus.contracts.rbac import Definition
from mcpctl.bus.contracts.token import EditUser
from mcpctl.bus.errors import BusError, Conflict
from mcpctl.cli.create import parse_bindings
from mcpctl.cli.errors import REFUSED, USAGE, CliError
from mcpctl.cli.explain import explain
from mcpctl.cli.given import ask_password
from mcpctl.cli.options import ContextName, Noun, Project
from mcpctl.cli.output import note, say
from mcpctl.cli.resources import Resource
from mcpctl.cli.session import Session, checked, session
from mcpctl.cli.verbs import one, targets

Document = dict[str, Any]


@dataclass(frozen=True)
class Editable:
    """How a noun is shown for editing, and what the edited document becomes: the members of the call's request."""

    show: Callable[[Any], Document]
    read: Callable[[Document, Any], dict[str, Any]]


def _of_spec(model: type[Message]) -> Editable:
    return Editable(
        show=lambda item: _dump(item.spec),
        read=lambda document, item: {"spec": checked(model, **document), "revision": item.revision},
    )


def _show_definition(item: Definition) -> Document:
    return _dump(item) | {"bindings": [str(binding) for binding in item.bindings]}


def _read_definition(document: Document, _item: Definition) -> dict[str, Any]:
    bindings = document.get("bindings") or []
    if not isinstance(bindings, list) or not all(isinstance(text, str) for text in bindings):
        raise CliError("bindings: a list of texts such as role:view,resource:servers", USAGE)
    return {"definition": checked(Definition, **document | {"bindings": parse_bindings(bindings)}), "replace": True}


def _read_user(document: Document, _item: Any) -> dict[str, Any]:
    checked(EditUser, bearer="", **document)
    return document


YAML_BEGINS = ("[", "{", '"', "'")
YAML_WORDS = ("true", "false", "null")

EDITABLE = {
    "project": _of_spec(ProjectSpec),
    "server": _of_spec(ServerSpec),
    "rbac": Editable(_show_definition, _read_definition),
    "user": Editable(
        lambda item: {"name": item.name, "groups": list(item.groups), "disabled": item.disabled}, _read_user
    ),
}


def edit(
    noun: Noun,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of the resource.")] = None,
    *,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change one member; repeatable. No editor is opened."),
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Give a user a new password, read from stdin.")
    ] = False,
    project: Project = None,
    context: ContextName = None,
) -> None:
    """Change a resource: `edit server time`, `edit project demo --set 'servers=[time,git]'`."""
    resource, names = targets(noun, [name] if name else [])
    resource.call("edit")
    if len(names) != 1:
        raise CliError("name one resource to edit", USAGE)
    if password_stdin and (resource.name != "user" or changes):
        raise CliError("--password-stdin is for a user, and stands alone", USAGE)
    password = ask_password(from_stdin=True) if password_stdin else None
    asyncio.run(_edit(resource, names[0], changes or [], password, project, context))


async def _edit(
    resource: Resource, name: str, changes: list[str], password: str | None, project: str | None, context: str | None
) -> None:
    async with session(context) as opened:
        if password is not None:
            await opened.ask(resource.call("edit"), name=name, password=password)
            say(f'password of {resource.name} "{name}" changed')
            return
        item = await one(opened, resource, name, project)
        editable = EDITABLE[resource.name]
        before = editable.show(item)
        if changes:
            await _send(opened, resource, name, editable.read(_same_name(with_changes(before, changes), name), item))
        else:
            await _edit_in_editor(opened, resource, name, item)


async def _edit_in_editor(opened: Session, resource: Resource, name: str, item: Any) -> None:
    editable = EDITABLE[resource.name]
    text = yaml.safe_dump(editable.show(item), sort_keys=False, allow_unicode=True)
    file = _write_for_editor(resource, name, text)
    edited = await asyncio.to_thread(_run_editor, file)
    if edited == text:
        file.unlink()
        note("Nothing was changed.")
        return
    try:
        await _send(opened, resource, name, editable.read(_same_name(_parse(edited), name), item))
    except CliError as error:
        raise CliError(f"{error}; your edit is kept in {file}", error.code) from error
    except BusError as error:
        failure = explain(error, opened.context.user)
        raise CliError(f"{failure}; your edit is kept in {file}", failure.code) from error
    file.unlink()


async def _send(opened: Session, resource: Resource, name: str, members: dict[str, Any]) -> None:
    try:
        await opened.ask(resource.call("edit"), **{"name": name, **members})
    except Conflict as error:
        if "revision" not in str(error):
            raise
        text = f'{resource.name} "{name}" was changed by somebody else meanwhile: edit it again'
        raise CliError(text, REFUSED) from error
    say(f'{resource.name} "{name}" edited')


def with_changes(document: Document, changes: list[str]) -> Document:
    """Return the document with `path=value` applied: dots lead into mappings, null removes.

    Lists, mappings, true, false, null and what is quoted are read as YAML; all else is text, numbers too.
    Raises `CliError` for a path that leads nowhere.
    """
    changed: Document = yaml.safe_load(yaml.safe_dump(document))
    for change in changes:
        path, equals, text = change.partition("=")
        *way, last = path.split(".", 1)
        if not equals or not last or not all(way):
            raise CliError("--set takes PATH=VALUE, for example description='new text' or headers.X-Team=core", USAGE)
        place = changed
        for step in way:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise CliError(f"--set {path}: {step} holds no members", USAGE)
        value = _yaml(text, f"--set {path}") if text[:1] in YAML_BEGINS or text in YAML_WORDS else text
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return changed


def _same_name(document: Document, name: str) -> Document:
    if document.get("name") != name:
        raise CliError("the name cannot be changed: create a new one and delete this one", USAGE)
    return document


def _parse(text: str) -> Document:
    document = _yaml(text, "the edit")
    if not isinstance(document, dict):
        raise CliError("the edit is not a mapping", USAGE)
    return document


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark is not None else ""
        raise CliError(f"{where} is no valid YAML{place}", USAGE) from error


def _dump(message: Message) -> Document:
    document = message.model_dump(mode="json", exclude_none=True)
    return {key: value for key, value in document.items() if value not in ([], {})} | {"name": document["name"]}


def _write_for_editor(resource: Resource, name: str, text: str) -> Path:
    descriptor, path = tempfile.mkstemp(prefix=f"mcpctl-{resource.name}-{name}-", suffix=".yaml")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return Path(path)


def _run_editor(file: Path) -> str:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        code = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode  # noqa: S603 - the user's own
    except (OSError, ValueError) as error:
        file.unlink()
        raise CliError(f"cannot start the editor {editor!r}: set EDITOR, or use --set", USAGE) from error
    if code != 0:
        raise CliError(f"the editor ended with code {code}, so nothing was changed; the text is kept in {file}")
    return file.read_text()
