"""Which items a command means: by name, by label, all of them."""

import importlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import BusError, Forbidden, NotFound, Unauthenticated
from mcpctl.cli.errors import REFUSED, UNAVAILABLE, USAGE, CliError
from mcpctl.cli.explain import explain
from mcpctl.cli.output import note
from mcpctl.cli.resources import Resource, find, labels_of
from mcpctl.cli.selectors import Selector
from mcpctl.cli.session import Session


@dataclass(frozen=True)
class Wanted:
    """Which items of a resource are meant: those named, or all; of a project, with labels.

    `server` narrows tools; `everything` adds what lists leave out.
    """

    resource: Resource
    names: tuple[str, ...] = ()
    project: str | None = None
    selector: Selector | None = None
    server: str | None = None
    everything: bool = False


def targets(noun: str, names: Sequence[str]) -> tuple[Resource, list[str]]:
    """Read `server a b`, `server/a server/b` or `server server/a`. Raises `CliError`."""
    if "/" in noun:
        names = [noun, *names]
        noun = noun.partition("/")[0]
    resource = find(noun)
    found = []
    for name in names:
        prefix, slash, rest = name.partition("/")
        if slash and find(prefix) is not resource:
            raise CliError(f"{name} is no {resource.name}: name one kind of resource at a time", USAGE)
        found.append(rest if slash else name)
    return resource, list(dict.fromkeys(found))


async def find_items(opened: Session, wanted: Wanted) -> tuple[list[Any], list[CliError]]:
    """Return the items that are meant, and an error for each name that has none. Raises `BusError`."""
    if not wanted.names:
        found = await chosen(opened, wanted)
        if not found:
            await demand_there(opened, wanted.project)
        return found, []
    if wanted.resource.lister is not None:
        raise wanted.resource.cannot("get")
    return await each(opened, wanted.names, lambda name: one(opened, wanted.resource, name, wanted.project))


async def each(
    opened: Session, things: Sequence[Any], do: Callable[[Any], Awaitable[Any]]
) -> tuple[list[Any], list[CliError]]:
    """Do it to each of the things; stop where a part is away. Raises `Unauthenticated`: that ends the command."""
    done, failures = [], []
    for thing in things:
        try:
            done.append(await do(thing))
        except CliError as failure:
            failures.append(failure)
        except Unauthenticated:
            raise
        except BusError as error:
            failures.append(explain(error, opened.context.user))
            if failures[-1].code == UNAVAILABLE:
                break
    return done, failures


def end(failures: Sequence[CliError]) -> None:
    """Tell all failures and end with the last one, if there are any."""
    for failure in failures[:-1]:
        note(f"Error: {failure}")
    if failures:
        raise failures[-1]


async def one(opened: Session, resource: Resource, name: str, project: str | None) -> Any:
    """Return one item by its name. Raises `CliError` where there is none, `BusError` else."""
    demand_project(resource, project)
    try:
        return await opened.ask(resource.call("get"), name=name, project=project)
    except NotFound as error:
        raise not_found(resource, name, project) from error


async def chosen(opened: Session, wanted: Wanted) -> list[Any]:
    """Return the items of a list that are meant."""
    resource = wanted.resource
    if resource.lister is not None:
        module, _, function = resource.lister.partition(":")
        lister = getattr(importlib.import_module(module), function)
        return list(await lister(opened, project=wanted.project, server=wanted.server))
    items = await every(opened, resource, wanted.project, everything=wanted.everything)
    if wanted.names:
        items = [item for item in items if resource.key(item) in wanted.names]
    if wanted.selector is not None:
        items = [item for item in items if wanted.selector.fits(labels_of(item))]
    return items


async def every(opened: Session, resource: Resource, project: str | None, *, everything: bool = False) -> list[Any]:
    """Return all items, or those of a project; `everything` adds the definitions of mcptokens."""
    items = (await opened.ask(resource.call("list"), project=project, of_tokens=everything)).items
    if project is not None and resource.belongs is not None:
        return [item for item in items if resource.belongs(item, project)]
    return list(items)


def demand_project(resource: Resource, project: str | None) -> None:
    """Raise `CliError` where a name means nothing without its project."""
    if resource.in_project and project is None:
        raise CliError(f"{resource.plural} are named within a project: add -p PROJECT", USAGE)


async def demand_there(opened: Session, project: str | None) -> None:
    """Raise `CliError` where there is no such project, as far as the asker may know."""
    if project is None:
        return
    try:
        await opened.ask(catalog.get_project, name=project)
    except NotFound as error:
        raise CliError(f'project "{project}" not found', REFUSED) from error
    except Forbidden:
        return


def not_found(resource: Resource, name: str, project: str | None) -> CliError:
    where = f' in project "{project}"' if resource.in_project and project else ""
    return CliError(f'{resource.name} "{name}" not found{where}', REFUSED)


def parse_selector(text: str | None, names: Sequence[str] | None) -> Selector | None:
    """Read `-l`. Raises `CliError` where it is none, or stands beside names."""
    if text is not None and names:
        raise CliError("give either names or -l", USAGE)
    return None if text is None else Selector.parse(text)


def nothing(wanted: Wanted) -> str:
    """Return what is said where nothing is found."""
    where = f" in project {wanted.project}" if wanted.project else ""
    which = " with these labels" if wanted.selector else ""
    return f"No {wanted.resource.plural} found{where}{which}."
