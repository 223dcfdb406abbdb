"""`mcpctl get tools`: what an agent with the operator's rights sees, asked through the gateway."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import Forbidden
from mcpctl.cli.errors import UNAVAILABLE, CliError
from mcpctl.cli.gateway import endpoint
from mcpctl.cli.mcp_session import McpErrors, McpSession, explain_mcp
from mcpctl.cli.output import note
from mcpctl.cli.session import Session

PATIENCE = 30.0
"""Seconds for one project."""


@dataclass(frozen=True)
class ToolItem:
    """One tool of a project, as the list of its endpoint has it: `tool` is the whole."""

    name: str
    project: str
    server: str
    description: str
    tool: dict[str, Any] = field(repr=False)


async def list_tools(opened: Session, *, project: str | None, server: str | None) -> list[ToolItem]:
    """Return the tools of a project, or of all projects that the operator sees; of one server if it is named.

    What a project cannot list now is told on stderr. Raises `CliError`, `BusError`.
    """
    projects = (await opened.ask(catalog.list_projects)).items
    wanted = [each for each in projects if project in (None, each.spec.name) and server in (None, *each.spec.servers)]
    if not wanted and project is not None:
        where = f'server "{server}" is not in project "{project}"' if server else f'project "{project}" not found'
        raise CliError(where)
    slugs = await _slugs(opened)
    found = await asyncio.gather(*(_of_project(opened, each.spec, slugs) for each in wanted))
    return [tool for tools in found for tool in tools if server in (None, tool.server)]


async def _slugs(opened: Session) -> dict[str, str]:
    """Return the servers by what stands before the names of their tools, as far as the operator sees them."""
    try:
        servers = (await opened.ask(catalog.list_servers)).items
    except Forbidden:
        return {}
    return {each.spec.slug: each.spec.name for each in servers}


async def _of_project(opened: Session, project: catalog.ProjectSpec, slugs: dict[str, str]) -> list[ToolItem]:
    url = endpoint(opened.context, project.name)
    session = McpSession(url, opened.context.bearer, timeout=PATIENCE, on_progress=lambda _: None)
    try:
        await session.connect()
        tools, missing = await session.tools()
    except McpErrors as error:
        failure = explain_mcp(error, has_token=True, unreachable=UNAVAILABLE)
        raise CliError(f"the tools of project {project.name} cannot be listed: {failure}", failure.code) from error
    finally:
        await session.close()
    for name, reason in missing.items():
        note(f"Not listed: server {name} of project {project.name}: {reason}")
    return [_item(project, tool, slugs) for tool in tools]


def _item(project: catalog.ProjectSpec, tool: dict[str, Any], slugs: dict[str, str]) -> ToolItem:
    name = tool["name"]
    server = project.servers[0] if len(project.servers) == 1 else slugs.get(name.partition("__")[0], "")
    return ToolItem(name, project.name, server, str(tool.get("description") or ""), tool)
