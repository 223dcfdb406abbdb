"""`mcpctl get tools`: what an agent with the operator's rights sees, asked through the gateway."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from mcpctl.bus.contracts import catalog, pins
from mcpctl.bus.errors import Forbidden
from mcpctl.cli.errors import UNAVAILABLE, CliError
from mcpctl.cli.explain import humane
from mcpctl.cli.gateway import endpoint, trusted
from mcpctl.cli.mcp_session import McpErrors, McpSession, RpcFault, explain_mcp
from mcpctl.cli.output import note
from mcpctl.cli.pins import tools_of
from mcpctl.cli.session import Session

SEPARATOR = "__"
"""Stands between a server's prefix and the name of a tool."""

PATIENCE = 30.0
"""Seconds for one project."""


Pinned = dict[tuple[str, str], pins.Tool]
"""Tools that were seen, by server and name."""


@dataclass(frozen=True)
class ToolItem:
    """One tool of a project, as the list of its endpoint has it: `tool` is the whole.

    `state` is `pinned`, `approved` or `quarantined`, or None where that is not known or does not count.
    """

    name: str
    project: str
    server: str
    title: str
    description: str
    state: str | None
    tool: dict[str, Any] = field(repr=False)


async def list_tools(opened: Session, *, project: str | None, server: str | None) -> list[ToolItem]:
    """Return the tools of a project, or of all projects that the operator sees; of one server if it is named.

    It asks the gateway as an agent with the operator's rights would. What cannot be listed now is told on stderr.
    Raises `CliError` where nothing can be listed, `BusError`.
    """
    projects = (await opened.ask(catalog.list_projects)).items
    wanted = [each for each in projects if project in (None, each.spec.name) and server in (None, *each.spec.servers)]
    if not wanted and project is not None:
        where = f'server "{server}" is not in project "{project}"' if server else f'project "{project}" not found'
        raise CliError(where)
    slugs = await _slugs(opened)
    found = await asyncio.gather(*(_of_project(opened, each.spec) for each in wanted), return_exceptions=True)
    failures = [each for each in found if isinstance(each, BaseException)]
    told = [failure for failure in failures if isinstance(failure, CliError)]
    if failures and (len(failures) == len(found) or len(told) < len(failures)):
        raise failures[0]
    for failure in told:
        note(str(failure))
    pinned = await _pinned(opened, {name for each in wanted for name in each.spec.servers if server in (None, name)})
    items = (
        item
        for each, tools in zip(wanted, found, strict=True)
        if isinstance(tools, list)
        for item in _items(each.spec, tools, slugs, pinned)
    )
    return [item for item in items if server in (None, item.server)]


async def _slugs(opened: Session) -> dict[str, str]:
    """Return the servers by what stands before the names of their tools, as far as the operator sees them."""
    try:
        servers = (await opened.ask(catalog.list_servers)).items
    except Forbidden:
        return {}
    return {each.spec.slug: each.spec.name for each in servers}


async def _pinned(opened: Session, servers: set[str]) -> Pinned:
    """Return what is known of the tools of servers, as far as the operator may see it."""
    found = await asyncio.gather(*(tools_of(opened, name) for name in sorted(servers)), return_exceptions=True)
    return {(item.server, item.tool): item for items in found if isinstance(items, tuple) for item in items}


async def _of_project(opened: Session, project: catalog.ProjectSpec) -> list[dict[str, Any]]:
    context = opened.context
    session = McpSession(
        endpoint(context, project.name),
        context.bearer,
        timeout=PATIENCE,
        on_progress=lambda _: None,
        tls=trusted(context),
    )
    where = f"the tools of project {project.name} cannot be listed"
    try:
        await session.connect()
        tools, missing = await session.tools()
    except RpcFault as error:
        raise CliError(f"{where}: {error.text}", UNAVAILABLE) from error
    except McpErrors as error:
        failure = explain_mcp(error, has_token=True, unreachable=UNAVAILABLE)
        raise CliError(f"{where}: {failure}", failure.code) from error
    finally:
        await session.close()
    for name, reason in missing.items():
        note(f"Not listed: server {name} of project {project.name}: {humane(reason)}")
    return tools


def _items(
    project: catalog.ProjectSpec, tools: list[dict[str, Any]], slugs: dict[str, str], pinned: Pinned
) -> list[ToolItem]:
    """Return the tools that agents see, and those that are kept back from them."""
    known = pinned if project.pin_tools else {}
    kept_back = [
        _kept_back(project, item, slugs)
        for item in known.values()
        if item.state == "quarantined" and item.server in project.servers
    ]
    return [_item(project, tool, slugs, known) for tool in tools] + kept_back


def _kept_back(project: catalog.ProjectSpec, item: pins.Tool, slugs: dict[str, str]) -> ToolItem:
    """Return a tool that agents do not see: by the name that it had for them, and with what changed."""
    slug = next((slug for slug, server in slugs.items() if server == item.server), item.server)
    name = f"{slug}{SEPARATOR}{item.tool}" if project.naming == "prefix" else item.tool
    whole = {"name": name, "changes": list(item.changes)}
    return ToolItem(name, project.name, item.server, "", f"changed: {'; '.join(item.changes)}", item.state, whole)


def _item(project: catalog.ProjectSpec, tool: dict[str, Any], slugs: dict[str, str], pinned: Pinned) -> ToolItem:
    name = tool["name"]
    slug, _, rest = name.partition(SEPARATOR)
    server = project.servers[0] if len(project.servers) == 1 else slugs.get(slug, "")
    known = pinned.get((server, rest if project.naming == "prefix" else name))
    annotations = tool.get("annotations")
    title = tool.get("title") or (annotations.get("title") if isinstance(annotations, dict) else None)
    state = None if known is None else known.state
    return ToolItem(name, project.name, server, str(title or ""), str(tool.get("description") or ""), state, tool)
