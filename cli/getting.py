"""`mcpctl get`: lists in every form, once or watched."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from mcpctl.bus.errors import Forbidden
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.finding import (
    Wanted,
    chosen,
    demand_project,
    end,
    find_items,
    not_found,
    nothing,
    parse_selector,
    targets,
)
from mcpctl.cli.listing import documents, filled, sorted_by, table
from mcpctl.cli.options import ContextName, LabelSelector, NameOption, Noun, Project
from mcpctl.cli.output import (
    GrowingTable,
    ListFormat,
    note,
    print_data,
    print_documents,
    print_table,
    say,
)
from mcpctl.cli.resources import RESOURCES, Resource
from mcpctl.cli.selectors import Selector
from mcpctl.cli.session import Session, session
from mcpctl.cli.watching import Seen, What, watch

ALL = "all"
"""The noun that means every kind of resource."""


@dataclass(frozen=True)
class Shown:
    """How `get` prints what it finds."""

    form: ListFormat = ListFormat.TABLE
    sort_by: str | None = None
    headers: bool = True


Output = Annotated[ListFormat, typer.Option("-o", "--output", help="How to print; `wide`: more columns.")]


def get(
    noun: Noun,
    names: NameOption = None,
    *,
    project: Project = None,
    selector: LabelSelector = None,
    output: Output = ListFormat.TABLE,
    sort_by: Annotated[
        str | None, typer.Option("--sort-by", metavar="FIELD", help="A column, or a path such as created_at.")
    ] = None,
    watched: Annotated[bool, typer.Option("-w", "--watch", help="Go on: a line for each change.")] = False,
    no_headers: Annotated[bool, typer.Option("--no-headers", help="Print no titles.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="rbac: with the bindings of mcptokens. mcptokens -o yaml: with ended ones.")
    ] = False,
    server: Annotated[str | None, typer.Option("--server", metavar="SERVER", help="tools: of this server.")] = None,
    context: ContextName = None,
) -> None:
    """List resources, or show some of them.

    `-o yaml` prints what `mcpctl apply` takes. `get all` lists every kind that you may see.

    \b
    Examples:
      mcpctl get servers
      mcpctl get server time -o yaml
      mcpctl get mcptokens -p demo --sort-by expires
      mcpctl get projects -l team=shop -o wide
      mcpctl get tools -p demo --server time
      mcpctl get mcptokens -p demo -w
    """  # noqa: D301 - \b keeps the examples' lines apart
    shown = Shown(output, sort_by, headers=not no_headers)
    labels = parse_selector(selector, names)
    if noun == ALL and not names:
        if watched or server:
            raise CliError("get all takes neither -w nor --server: name one kind of resource", USAGE)
        asyncio.run(_get_all(project, labels, shown, context, everything=everything))
        return
    resource, found = targets(noun, names or ())
    if found:
        demand_project(resource, project)
    if server is not None and resource.lister is None:
        raise CliError("--server is for tools: get tools -p PROJECT --server SERVER", USAGE)
    wanted = Wanted(resource, tuple(found), project, labels, server, everything)
    if watched:
        if resource.lister is not None:
            raise resource.cannot("watch")
        asyncio.run(_watch(wanted, shown, context))
    else:
        asyncio.run(_get(wanted, shown, context))


async def _get(wanted: Wanted, shown: Shown, context: str | None) -> None:
    async with session(context) as opened:
        items, failures = await find_items(opened, wanted)
        items = await _filled_in(opened, wanted, items, shown)
        items = sorted_by(wanted.resource, items, shown.sort_by)
        if items or not failures:
            await _print(opened, wanted, items, shown)
    end(failures)


async def _filled_in(opened: Session, wanted: Wanted, items: list[Any], shown: Shown) -> list[Any]:
    return await filled(opened, wanted, items) if shown.form in (ListFormat.TABLE, ListFormat.WIDE) else items


async def _print(opened: Session, wanted: Wanted, items: list[Any], shown: Shown) -> None:
    resource, form = wanted.resource, shown.form
    if form is ListFormat.NAME:
        _print_names(resource, items)
    elif form is ListFormat.JSON:
        found = await documents(opened, resource, items)
        print_data(found[0] if len(wanted.names) == 1 else {"items": found}, form)
    elif form is ListFormat.YAML:
        print_documents(await documents(opened, resource, _for_apply(wanted, items)))
    elif items:
        print_table(*table(resource, items, wide=form is ListFormat.WIDE), headers=shown.headers)
    if not items and form is not ListFormat.JSON:
        note(nothing(wanted))


def _for_apply(wanted: Wanted, items: list[Any]) -> list[Any]:
    """Return the items without mcptokens that ended: applied, they would be issued again."""
    if wanted.resource.name != "mcptoken" or wanted.names or wanted.everything:
        return items
    live = [item for item in items if item.status == "active"]
    if len(live) < len(items):
        note(f"{len(items) - len(live)} mcptokens that ended are left out: --all shows them")
    return live


def _print_names(resource: Resource, items: Sequence[Any]) -> None:
    for item in items:
        say(f"{resource.name}/{resource.key(item)}")


async def _get_all(
    project: str | None, selector: Selector | None, shown: Shown, context: str | None, *, everything: bool
) -> None:
    """Show every kind of resource that may be seen; one after the other, so that no kind is mixed into another."""
    found: list[Any] = []
    printed = False
    async with session(context) as opened:
        for resource in RESOURCES:
            if resource.data is not None:
                continue
            wanted = Wanted(resource, (), project, selector, None, everything)
            try:
                items = await _filled_in(opened, wanted, (await find_items(opened, wanted))[0], shown)
            except Forbidden:
                note(f"You may not see {resource.plural}.")
                continue
            if shown.form is ListFormat.NAME:
                _print_names(resource, items)
            elif shown.form in (ListFormat.JSON, ListFormat.YAML):
                items = _for_apply(wanted, items) if shown.form is ListFormat.YAML else items
                found += await documents(opened, resource, items)
            elif items:
                if printed:
                    say("")
                _print_kind(resource, sorted_by(resource, items, shown.sort_by), shown)
                printed = True
    if shown.form is ListFormat.JSON:
        print_data({"items": found}, shown.form)
    elif shown.form is ListFormat.YAML:
        print_documents(found)


def _print_kind(resource: Resource, items: list[Any], shown: Shown) -> None:
    titles, rows = table(resource, items, wide=shown.form is ListFormat.WIDE)
    print_table(titles, [[f"{resource.name}/{row[0]}", *row[1:]] for row in rows], headers=shown.headers)


async def _watch(wanted: Wanted, shown: Shown, context: str | None) -> None:
    resource, form = wanted.resource, shown.form
    wide = form is ListFormat.WIDE
    lines = GrowingTable(["EVENT", *table(resource, [], wide=wide)[0]], headers=shown.headers)
    first = True

    async def look(opened: Session) -> Seen:
        nonlocal first
        items = await _filled_in(opened, wanted, await chosen(opened, wanted), shown)
        if first:
            _demand_all(wanted, items)
            items, first = sorted_by(resource, items, shown.sort_by), False
            if not items:
                note(nothing(wanted))
        return {getattr(item, "id", resource.key(item)): item for item in items}

    async def tell(opened: Session, events: Sequence[tuple[What, Any]]) -> None:
        items = [item for _, item in events]
        if form is ListFormat.NAME:
            _print_names(resource, items)
        elif form in (ListFormat.JSON, ListFormat.YAML):
            for (what, _), found in zip(events, await documents(opened, resource, items), strict=True):
                _print_event({"event": what, "item": found}, form)
        else:
            rows = table(resource, items, wide=wide)[1]
            lines.add([what, *row] for (what, _), row in zip(events, rows, strict=True))

    await watch(context, look, tell)


def _print_event(event: dict[str, Any], form: ListFormat) -> None:
    if form is ListFormat.YAML:
        say("---")
        print_data(event, form)
        return
    import orjson  # noqa: PLC0415 - one event a line, which no other output needs

    say(orjson.dumps(event).decode())


def _demand_all(wanted: Wanted, items: Sequence[Any]) -> None:
    there = {wanted.resource.key(item) for item in items}
    for name in wanted.names:
        if name not in there:
            raise not_found(wanted.resource, name, wanted.project)
