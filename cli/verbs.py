"""`get`, `describe`, `delete` and `revoke`: the same for every noun of the table."""

import asyncio
from collections.abc import Sequence
from typing import Any

from mcpctl.bus.contracts import rbac
from mcpctl.bus.errors import BusError, Conflict, Forbidden, NotFound
from mcpctl.cli.errors import REFUSED, USAGE, CliError
from mcpctl.cli.explain import explain
from mcpctl.cli.options import ContextName, NameOption, Names, Noun, Output, Project
from mcpctl.cli.output import Format, note, print_data, print_details, print_table, say
from mcpctl.cli.resources import Resource, find
from mcpctl.cli.session import Session, session


def get(
    noun: Noun,
    names: NameOption = None,
    project: Project = None,
    output: Output = Format.TABLE,
    context: ContextName = None,
) -> None:
    """List resources, or show some of them: `get servers`, `get server time -o yaml`."""
    resource, wanted = targets(noun, names or [])
    if wanted:
        demand_project(resource, project)
    asyncio.run(_get(resource, wanted, project, output, context))


def describe(noun: Noun, names: Names = None, project: Project = None, context: ContextName = None) -> None:
    """Show all there is to know about resources: `describe server time`."""
    resource, wanted = named(noun, names)
    demand_project(resource, project)
    asyncio.run(_describe(resource, wanted, project, context))


def delete(noun: Noun, names: Names = None, project: Project = None, context: ContextName = None) -> None:
    """Delete resources: `delete server time git`."""
    resource, wanted = named(noun, names)
    asyncio.run(_change(resource, "delete", wanted, project, context))


def revoke(noun: Noun, names: Names = None, project: Project = None, context: ContextName = None) -> None:
    """Revoke mcptokens, which stay listed: `revoke mcptoken ci -p demo`."""
    resource, wanted = named(noun, names)
    asyncio.run(_change(resource, "revoke", wanted, project, context))


def named(noun: str, names: Sequence[str] | None) -> tuple[Resource, list[str]]:
    """Read what must be named. Raises `CliError` where it is not."""
    resource, wanted = targets(noun, names or ())
    if not wanted:
        raise CliError(f"name the {resource.plural} that you mean", USAGE)
    return resource, wanted


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
    return resource, found


async def _get(resource: Resource, names: list[str], project: str | None, output: Format, context: str | None) -> None:
    async with session(context) as opened:
        if names:
            items = [await one(opened, resource, name, project) for name in names]
        else:
            items = await every(opened, resource, project)
    if output is Format.NAME:
        for item in items:
            say(f"{resource.name}/{resource.key(item)}")
    elif output is not Format.TABLE:
        print_data(items[0] if len(names) == 1 else {"items": items}, output)
    elif items:
        print_table(
            [title for title, _ in resource.columns], [[cell(item) for _, cell in resource.columns] for item in items]
        )
    else:
        note(f"No {resource.plural} found" + (f" in project {project}." if project else "."))


async def _describe(resource: Resource, names: list[str], project: str | None, context: str | None) -> None:
    async with session(context) as opened:
        for number, name in enumerate(names):
            item = await one(opened, resource, name, project)
            if number:
                say("")
            print_details(item)
            if resource.name == "mcptoken":
                found = await opened.ask(rbac.get_bindings, project=item.project, name=item.name, sha=item.sha)
                print_details({"bindings": found.bindings or "none: it can do nothing yet"})


async def _change(resource: Resource, verb: str, names: list[str], project: str | None, context: str | None) -> None:
    """Do it to each; one that fails does not keep the others from it."""
    call = resource.call(verb)
    demand_project(resource, project)
    failures: list[CliError] = []
    async with session(context) as opened:
        for name in names:
            try:
                await opened.ask(call, name=name, project=project)
                say(f'{resource.name} "{name}" {verb}d')
            except NotFound:
                failures.append(not_found(resource, name, project))
            except (Conflict, Forbidden) as error:
                failures.append(explain(error))
            except BusError as error:
                failures.append(explain(error, opened.context.user))
                break
    for failure in failures[:-1]:
        note(f"Error: {failure}")
    if failures:
        raise failures[-1]


async def one(opened: Session, resource: Resource, name: str, project: str | None) -> Any:
    """Return one item by its name. Raises `CliError` where there is none, `BusError` else."""
    demand_project(resource, project)
    try:
        if "get" in resource.calls:
            return await opened.ask(resource.call("get"), name=name, project=project)
        for item in await every(opened, resource, project):
            if resource.key(item) == name:
                return item
    except NotFound as error:
        raise not_found(resource, name, project) from error
    raise not_found(resource, name, project)


async def every(opened: Session, resource: Resource, project: str | None) -> list[Any]:
    """Return all items, or those of a project."""
    items = (await opened.ask(resource.call("list"), project=project)).items
    if project is not None and resource.belongs is not None:
        return [item for item in items if resource.belongs(item, project)]
    return list(items)


def demand_project(resource: Resource, project: str | None) -> None:
    """Raise `CliError` where a name means nothing without its project."""
    if resource.in_project and project is None:
        raise CliError(f"{resource.plural} are named within a project: add -p PROJECT", USAGE)


def not_found(resource: Resource, name: str, project: str | None) -> CliError:
    where = f' in project "{project}"' if resource.in_project and project else ""
    return CliError(f'{resource.name} "{name}" not found{where}', REFUSED)
