"""`mcpctl get tools`: what an agent with the operator's rights sees, asked through the gateway."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import Forbidden
from mcpctl.cli.errors import UNAVAILABLE, CliError
from mcpctl.cli.explain import humane
from mcpctl.cli.gateway import endpoint, trusted
from mcpctl.cli.mcp_session import McpErrors, McpSession, RpcFault, explain_mcp
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
    title: str
    description: str
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
    found = await asyncio.gather(*(_of_project(opened, each.spec, slugs) for each in wanted), return_exceptions=True)
    failures = [each for each in found if isinstance(each, BaseException)]
    told = [failure for failure in failures if isinstance(failure, CliError)]
    if failures and (len(failures) == len(found) or len(told) < len(failures)):
        raise failures[0]
    for failure in told:
        note(str(failure))
    return [tool for tools in found if isinstance(tools, list) for tool in tools if server in (None, tool.server)]


async def _slugs(opened: Session) -> dict[str, str]:
    """Return the servers by what stands before the names of their tools, as far as the operator sees them."""
    try:
        servers = (await opened.ask(catalog.list_servers)).items
    except Forbidden:
        return {}
    return {each.spec.slug: each.spec.name for each in servers}


async def _of_project(opened: Session, project: catalog.ProjectSpec, slugs: dict[str, str]) -> list[ToolItem]:
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
    return [_item(project, tool, slugs) for tool in tools]


def _item(project: catalog.ProjectSpec, tool: dict[str, Any], slugs: dict[str, str]) -> ToolItem:
    name = tool["name"]
    server = project.servers[0] if len(project.servers) == 1 else slugs.get(name.partition("__")[0], "")
    annotations = tool.get("annotations")
    title = tool.get("title") or (annotations.get("title") if isinstance(annotations, dict) else None)
    return ToolItem(name, project.name, server, str(title or ""), str(tool.get("description") or ""), tool)
