"""`mcpctl edit`: a resource's document in $EDITOR, or members of it with `--set`."""

import asyncio
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError
from mcpctl.cli import nested
from mcpctl.cli.create import demand_member
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.explain import explain
from mcpctl.cli.finding import one, targets
from mcpctl.cli.given import ask_password
from mcpctl.cli.manifests import KINDS, document, read
from mcpctl.cli.mcp_servers import looks_secret
from mcpctl.cli.options import ContextName, GateChange, NamingForm, Noun, Project
from mcpctl.cli.output import note, say
from mcpctl.cli.resources import Resource
from mcpctl.cli.session import Session, session
from mcpctl.cli.specs import send, spec_of
from mcpctl.cli.yaml_documents import Path as Place
from mcpctl.cli.yaml_documents import YamlDocument, parse
from mcpctl.cli.yaml_text import dumped

Document = dict[str, Any]

YAML_BEGINS = ("[", "{", '"', "'")
YAML_WORDS = ("true", "false", "null")

MEMBERS = ("user", "serviceaccount", "group")
"""What can be a member of groups."""


@dataclass(frozen=True)
class Membership:
    """Members that a group gets or loses, and groups that something joins or leaves."""

    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    join: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove or self.join or self.leave)

    def check(self, resource: Resource) -> None:
        """Raise `CliError` where it is not for this kind of resource."""
        if (self.add or self.remove) and resource.name != "group":
            raise CliError("--add and --remove are for a group: name groups with --add-group, --remove-group", USAGE)
        if (self.join or self.leave) and resource.name not in MEMBERS:
            raise CliError(f"a {resource.name} is in no group: that can {', '.join(MEMBERS)}", USAGE)
        for option, members in (("--add", self.add), ("--remove", self.remove)):
            for member in members:
                demand_member(option, member)


class _Assigned(YamlDocument):
    """A document as `--set` left it: it has no lines."""

    def error(self, path: Place, text: str) -> CliError:
        where = ".".join(str(step) for step in path)
        return CliError(f"{where}: {text}" if where else text, USAGE)


def edit(
    noun: Noun,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name of the resource.")] = None,
    *,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change one member; repeatable. No editor is opened."),
    ] = None,
    naming: Annotated[
        NamingForm | None, typer.Option(help="project: its tools' names, plain or PREFIX__TOOL. Agents see new names.")
    ] = None,
    gate: Annotated[
        GateChange | None, typer.Option(help="project: what a tool call meets before a briefing; off takes it away.")
    ] = None,
    pin_tools: Annotated[
        bool | None,
        typer.Option("--pin-tools/--no-pin-tools", help="project: keep back tools that their servers change, or not."),
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option("--add", metavar="KIND:NAME", help="group: a new member, User:ann; repeatable.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KIND:NAME", help="group: a member that leaves; repeatable.")
    ] = None,
    add_group: Annotated[
        list[str] | None, typer.Option("--add-group", metavar="GROUP", help="Group to join; repeatable.")
    ] = None,
    remove_group: Annotated[
        list[str] | None, typer.Option("--remove-group", metavar="GROUP", help="Group to leave; repeatable.")
    ] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Give a user a new password, read from stdin.")
    ] = False,
    project: Project = None,
    context: ContextName = None,
) -> None:
    """Change a resource: its document in $EDITOR, or what the options say.

    \b
    Examples:
      mcpctl edit server time
      mcpctl edit project demo --set 'servers=[time,git]' --set description='For the shop'
      mcpctl edit project demo --naming prefix
      mcpctl edit project demo --gate brief --set gate.budget=8192
      mcpctl edit project demo --set quota.requestsPerSecond=50 --set quota.streams=null
      mcpctl edit prompt style --set priority=9 --set 'tags=[python,review]'
      mcpctl edit group devs --add User:bob --remove User:ann
      mcpctl edit user ann --add-group devs
      mcpctl edit user ann --password-stdin < password.txt
    """  # noqa: D301 - \b keeps the examples' lines apart
    resource, names = targets(noun, [name] if name else [])
    resource.call("edit")
    if len(names) != 1:
        raise CliError("name one resource to edit", USAGE)
    if naming is not None:
        if resource.name != "project":
            raise CliError("--naming is for a project", USAGE)
        changes = [*(changes or ()), f"naming={naming.value}"]
    if gate is not None:
        if resource.name != "project":
            raise CliError("--gate is for a project", USAGE)
        changes = [gate.change, *(changes or ())]
    if pin_tools is not None:
        if resource.name != "project":
            raise CliError("--pin-tools is for a project", USAGE)
        changes = [*(changes or ()), f"pinTools={str(pin_tools).lower()}"]
    membership = Membership(*(tuple(given or ()) for given in (add, remove, add_group, remove_group)))
    membership.check(resource)
    if password_stdin and (resource.name != "user" or changes or membership):
        raise CliError("--password-stdin is for a user, and stands alone", USAGE)
    if changes and membership:
        raise CliError("--set and the options of membership are two edits: run them one after the other", USAGE)
    password = ask_password(from_stdin=True) if password_stdin else None
    asyncio.run(_edit(resource, names[0], changes or [], membership, password, project, context))


async def _edit(
    resource: Resource,
    name: str,
    changes: list[str],
    membership: Membership,
    password: str | None,
    project: str | None,
    context: str | None,
) -> None:
    async with session(context) as opened:
        if password is not None:
            await opened.ask(resource.call("edit"), name=name, password=password)
            say(f'password of {resource.name} "{name}" changed')
            return
        item = await one(opened, resource, name, project)
        if membership:
            await _change_membership(opened, resource, name, item, membership)
        elif changes:
            assigned = _Assigned("--set", with_changes(_shown(resource, item), changes))
            await _send(opened, resource, name, assigned, item)
        else:
            await _edit_in_editor(opened, resource, name, item)


async def _change_membership(opened: Session, resource: Resource, name: str, item: Any, wanted: Membership) -> None:
    members: dict[str, Any] = {}
    if wanted.join or wanted.leave:
        members["groups"] = _groups(item.groups, wanted)
    if resource.name == "group":
        members |= {"add_members": wanted.add, "remove_members": wanted.remove}
        await opened.ask(token.edit_group, name=name, **members)
    else:
        await opened.ask(resource.call("edit"), name=name, **members)
    say(f'{resource.name} "{name}" edited')


def _groups(now: Sequence[str], wanted: Membership) -> tuple[str, ...]:
    kept = [group for group in now if group not in wanted.leave]
    return tuple(dict.fromkeys([*kept, *wanted.join]))


def _shown(resource: Resource, item: Any) -> Document:
    """Return an item as a document, without what cannot be edited."""
    return {key: value for key, value in document(resource.name, item).items() if key != "status"}


async def _edit_in_editor(opened: Session, resource: Resource, name: str, item: Any) -> None:
    text = dumped(_shown(resource, item))
    file = _write_for_editor(resource, name, text)
    edited = await asyncio.to_thread(_run_editor, file)
    if edited == text:
        file.unlink()
        note("Nothing was changed.")
        return
    try:
        await _send(opened, resource, name, _parse(edited), item)
    except CliError as error:
        raise CliError(f"{error}; your edit is kept in {file}", error.code) from error
    except BusError as error:
        failure = explain(error, opened.context.user)
        raise CliError(f"{failure}; your edit is kept in {file}", failure.code) from error
    file.unlink()


async def _send(opened: Session, resource: Resource, name: str, edited: YamlDocument, item: Any) -> None:
    manifest = read(edited)
    if manifest.kind.name != resource.name or manifest.spec.name != name:
        raise CliError("kind and name cannot be changed: create a new one and delete this one", USAGE)
    done = await send(opened, resource, spec_of(resource, item), manifest.spec, item)
    say(f'{resource.name} "{name}" {"edited" if done else "unchanged"}')


def _parse(text: str) -> YamlDocument:
    documents = list(parse(text, "the edit"))
    if len(documents) != 1:
        raise CliError("the edit is not one document", USAGE)
    return documents[0]


def with_changes(document: Document, changes: list[str]) -> Document:
    """Return the document with `path=value` applied: dots lead into mappings, null removes.

    Lists, mappings, true, false, null, what is quoted and the value of a member that is a number are read as YAML; all
    else is text. Raises `CliError` for a path that leads nowhere.
    """
    changed: Document = yaml.safe_load(yaml.safe_dump(document))
    for change in changes:
        path, equals, text = change.partition("=")
        steps, shape = _steps(document, path)
        if not equals or not all(steps):
            raise CliError("--set takes PATH=VALUE, for example description='new text' or headers.X-Team=core", USAGE)
        *way, last = steps
        place = changed
        for step in way:
            place = place.setdefault(step, {})
            if not isinstance(place, dict):
                raise CliError(f"--set {path}: {step} holds no members", USAGE)
        as_yaml = text[:1] in YAML_BEGINS or text in YAML_WORDS or shape in (int, float)
        value = _yaml(text, f"--set {path}") if as_yaml else text
        if way[-1:] in (["headers"], ["env"]) and isinstance(value, str) and looks_secret(last, value):
            raise CliError(f"--set {path} looks like a secret: seal it, and write {path}=secret:NAME", USAGE)
        if value is None:
            place.pop(last, None)
        else:
            place[last] = value
    return changed


def _steps(document: Document, path: str) -> tuple[list[str], Any]:
    """Return the keys of a path, and the type of what it leads to where that is known.

    The names in a mapping may have dots in them: what follows the mapping is one key.
    """
    key, dot, rest = path.partition(".")
    kind = KINDS.get(document.get("kind", ""))
    further, shape = nested.steps(kind.shape(key) if kind else None, rest) if dot else ([], kind and kind.shape(key))
    return [key, *further], shape


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark is not None else ""
        raise CliError(f"{where} is no valid YAML{place}", USAGE) from error


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
