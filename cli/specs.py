"""Specifications of resources that are there, and the call that brings a changed one to its owner."""

from collections.abc import Callable
from typing import Any

from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import Conflict
from mcpctl.cli.errors import REFUSED, USAGE, CliError
from mcpctl.cli.manifests import KINDS
from mcpctl.cli.resources import Resource
from mcpctl.cli.session import Session, checked

Members = dict[str, Any]


def spec_of(resource: Resource, item: Any, **changes: Any) -> Any:
    """Return an item's specification, with `changes`. Raises `CliError` for one that is not allowed."""
    model = KINDS[resource.name].spec
    source = getattr(item, "spec", item)
    members = {name: getattr(source, name) for name in model.model_fields if hasattr(source, name)}
    return checked(model, **members | changes)


def _whole(_before: Any, after: Any, item: Any) -> Members:
    return {"spec": after, "revision": item.revision}


def _definition(_before: Any, after: Any, _item: Any) -> Members:
    return {"definition": after, "replace": True}


def _differences(before: Any, after: Any, _item: Any) -> Members:
    """Return what is changed alone, so that two who change different members do not undo each other."""
    if getattr(after, "password_hash", None) is not None:
        raise CliError("passwordHash: give a user another password with --password-stdin", USAGE)
    if getattr(after, "router_site", None) != getattr(before, "router_site", None):
        raise CliError("routerSite cannot be changed: delete the service account, and create it again", USAGE)
    names = [name for name in type(after).model_fields if getattr(after, name) != getattr(before, name)]
    return {name: getattr(after, name) for name in names}


MEMBERS: dict[str, Callable[[Any, Any, Any], Members]] = {
    "project": _whole,
    "server": _whole,
    "prompt": _whole,
    "rbac": _definition,
    "user": _differences,
    "group": _differences,
    "serviceaccount": _differences,
}
"""What the call that edits a kind is asked with."""


async def send(opened: Session, resource: Resource, before: Any, after: Any, item: Any) -> bool:
    """Bring a changed specification to its owner, and tell whether there was a change.

    Raises `CliError` where somebody else was quicker, `BusError` for a refusal.
    """
    if before == after:
        return False
    name = resource.key(item)
    if resource.name == "secret":
        await opened.ask(catalog.apply, secrets=(after,))
        return True
    try:
        members = MEMBERS[resource.name](before, after, item)
        await opened.ask(resource.call("edit"), **{"name": name, **members})
    except Conflict as error:
        if "revision" not in str(error):
            raise
        text = f'{resource.name} "{name}" was changed by somebody else meanwhile: edit it again'
        raise CliError(text, REFUSED) from error
    return True
