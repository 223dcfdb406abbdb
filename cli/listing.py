"""How items of a resource are shown: as a table, as the documents that `apply` takes, as details."""

import importlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from mcpctl.bus.contracts import rbac
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.finding import Wanted
from mcpctl.cli.output import label
from mcpctl.cli.resources import Resource
from mcpctl.cli.session import Session


def table(resource: Resource, items: Sequence[Any], *, wide: bool = False) -> tuple[list[str], list[list[object]]]:
    """Return titles and rows."""
    columns = resource.shown(wide=wide)
    return [column.title for column in columns], [[column.cell(item) for column in columns] for item in items]


async def filled(opened: Session, wanted: Wanted, items: Sequence[Any]) -> list[Any]:
    """Return items with what only tables show of them."""
    if wanted.resource.beside is None:
        return list(items)
    module, _, function = wanted.resource.beside.partition(":")
    add = getattr(importlib.import_module(module), function)
    return list(await add(opened, items, named=bool(wanted.names)))


async def documents(opened: Session, resource: Resource, items: Sequence[Any]) -> list[Any]:
    """Return items as what `apply` takes; tools as their servers describe them, and gates as what is known of them.

    The bindings of mcptokens are asked for.
    """
    from mcpctl.cli.manifests import document  # noqa: PLC0415 - tables do without

    if resource.data is not None:
        return [resource.data(item) for item in items]
    if resource.name != "mcptoken":
        return [document(resource.name, item) for item in items]
    bound = await _bindings(opened, items)
    return [document(resource.name, item, bindings=bound.get(item.id, ())) for item in items]


async def _bindings(opened: Session, tokens: Sequence[Any]) -> dict[str, tuple[rbac.Binding, ...]]:
    """Return the bindings of mcptokens by their ids, with one request for one token or one for all."""
    if len(tokens) == 1:
        only = tokens[0]
        return {only.id: await bindings_of(opened, only)}
    projects = {token.project for token in tokens}
    if not projects:
        return {}
    asked = projects.pop() if len(projects) == 1 else None
    return (await opened.ask(rbac.list_token_bindings, project=asked)).items


async def bindings_of(opened: Session, token: Any) -> tuple[rbac.Binding, ...]:
    """Return the bindings of one mcptoken."""
    found = await opened.ask(rbac.get_bindings, project=token.project, name=token.name, sha=token.id)
    return found.bindings


async def details(opened: Session, resource: Resource, item: Any) -> dict[str, object]:
    """Return all there is to know about an item, by label: its specification first, then the facts."""
    if resource.name == "mcptoken":
        return await _token_details(opened, item)
    spec = getattr(item, "spec", None)
    members = {} if spec is None else _by_label(spec)
    members |= {name: value for name, value in _by_label(item).items() if name != "Spec"}
    if resource.name == "server":
        from mcpctl.cli import server_states  # noqa: PLC0415 - of servers alone

        members["Routers"] = await server_states.details(opened, item.spec) or "none answers: see mcpctl status"
    return members


async def _token_details(opened: Session, item: Any) -> dict[str, object]:
    owner = item.owner
    groups = f" (in {', '.join(owner.groups)})" if owner.groups else ""
    found: dict[str, object] = {
        "Name": item.name,
        "Project": item.project,
        "Status": item.status,
        "Description": item.description,
        "Labels": dict(item.labels),
        "Owner": f"{owner.kind} {owner.name}{groups}",
        "Parent": item.parent,
        "Prefix": item.prefix,
        "Id": item.id,
        "Created at": item.created_at,
        "Expires at": item.expires_at,
        "Quota": item.quota,
    }
    if item.revoked_at is not None:
        found["Revoked at"] = item.revoked_at
    found["Last use"] = item.last_use or "never"
    bindings = await bindings_of(opened, item) if item.status == "active" else ()
    return found | {"Bindings": bindings or ("none: it can do nothing" if item.status == "active" else "none any more")}


def _by_label(message: Any) -> dict[str, object]:
    return {label(name): getattr(message, name) for name in type(message).model_fields}


def sorted_by(resource: Resource, items: Sequence[Any], field: str | None) -> list[Any]:
    """Return items in the order of a column, or of a member by its path (`created_at`, `spec.url`, `.status`).

    What has no value comes last. Raises `CliError` for a field that is not there.
    """
    if field is None or not items:
        return list(items)
    column = next((column for column in resource.columns if column.title == field.upper().replace("_", " ")), None)
    if column is not None:
        return sorted(items, key=lambda item: _rank((column.by or column.cell)(item)))
    steps = field.strip(".").split(".")
    try:
        return sorted(items, key=lambda item: _rank(_member(item, steps)))
    except AttributeError as error:
        titles = ", ".join(column.title.lower().replace(" ", "_") for column in resource.columns)
        raise CliError(f"--sort-by {field}: write a column ({titles}) or a path such as created_at", USAGE) from error


def _member(item: Any, steps: Sequence[str]) -> Any:
    spec = getattr(item, "spec", None)
    if spec is not None and not hasattr(item, _snake(steps[0])):
        item = spec
    for step in steps:
        if item is not None:
            item = item.get(step) if isinstance(item, dict) else getattr(item, _snake(step))
    return item


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()


def _rank(value: Any) -> tuple[bool, Any]:
    if isinstance(value, datetime):
        value = value.timestamp()
    if isinstance(value, bool | int | float):
        return False, value
    if isinstance(value, list | tuple):
        return False, ", ".join(map(str, value))
    return (True, "") if value is None else (False, str(value))
