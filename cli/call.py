"""`mcpctl call tool`: one call through the gateway, as an agent makes it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

import typer

from mcpctl.bus.mcp_messages import INTERNAL_ERROR
from mcpctl.cli.command_groups import Group
from mcpctl.cli.context import Context
from mcpctl.cli.endpoint_command import Form, content_lines
from mcpctl.cli.errors import REFUSED, UNAVAILABLE, USAGE, CliError
from mcpctl.cli.explain import humane
from mcpctl.cli.gateway import as_agent, endpoint, trusted
from mcpctl.cli.given import json_object, read_text
from mcpctl.cli.mcp_session import McpErrors, McpSession, RpcFault, explain_mcp
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import note, plain, say

app = typer.Typer(cls=Group, rich_markup_mode=None, help="Call a tool.")

CODES: dict[object, int] = {INTERNAL_ERROR: UNAVAILABLE}
"""Exit codes of JSON-RPC errors; the gateway's internal error is a server, or a part behind it, that is away."""

Tools = list[dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """The call; `assigned` are the `NAME=VALUE` that need the tool's schema to be read."""

    project: str
    server: str | None
    tool: str
    arguments: dict[str, Any]
    assigned: tuple[str, ...]


@app.callback()
def _call() -> None:
    """Call a tool through the gateway.

    \b
    Examples:
      mcpctl call tool time__get_current_time -p demo --arg timezone=UTC
    """  # noqa: D301 - \b keeps the examples' lines apart


@app.command()
def tool(
    name: Annotated[
        str, typer.Argument(metavar="TOOL", help="Name of the tool, as mcpctl get tools lists it; or SERVER/TOOL.")
    ],
    *,
    project: Annotated[str, typer.Option("-p", "--project", metavar="PROJECT", help="Project that it is called in.")],
    server: Annotated[
        str | None, typer.Option(metavar="SERVER", help="Server whose own name of the tool it is.")
    ] = None,
    args: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE|-", help="Arguments, a JSON object; - reads stdin.")
    ] = None,
    arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="One argument; repeatable. Its type is that of the tool's schema."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="-|@FILE", help="Bearer on stdin, or in a file (default: $MCPCTL_TOKEN, or yours)."),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How long to wait.")] = 120.0,
    gateway_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The gateway, such as http://host:3200 (default: the context's).")
    ] = None,
    output: Annotated[Form, typer.Option("-o", "--output", help="How to print the result.")] = Form.TEXT,
    context: ContextName = None,
) -> None:
    """Call a tool of a project, as an agent does. Exit code 1: the tool reports an error, or may not be called.

    \b
    Examples:
      mcpctl call tool time__get_current_time -p demo --arg timezone=UTC
      mcpctl call tool time/get_current_time -p demo --arg timezone=UTC
      mcpctl call tool time__convert_time -p demo --args @arguments.json
      MCPCTL_TOKEN=... mcpctl call tool git__git_log -p demo --args '{"repo_path": "."}' -o json
    """  # noqa: D301 - \b keeps the examples' lines apart
    if args == token == "-":
        raise CliError("stdin cannot be both --args and --token", USAGE)
    found, bearer = as_agent(context, token, gateway_url)
    wanted = Wanted(project, server, name, _arguments(args), tuple(arg or ()))
    result = asyncio.run(_run(found, bearer, wanted, timeout))
    if output is Form.JSON:
        say(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        for line in content_lines(result):
            say(line)
    if result.get("isError"):
        raise CliError(f"the tool {name} reports an error", REFUSED)


def _arguments(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        text = read_text(text[1:])
    return json_object(text, "--args")


async def _run(found: Context, bearer: str, wanted: Wanted, timeout: float) -> dict[str, Any]:
    """Call the tool, and return its result.

    `SERVER/TOOL` is that server's own name of a tool, unless the project has a tool of just this name.
    """
    async with _opened(found, bearer, wanted, timeout) as (session, tools):
        server, slash, own_name = wanted.tool.partition("/")
        if wanted.server is not None or not slash or wanted.tool in (tool["name"] for tool in tools):
            return await _call_tool(session, tools, wanted)
        left = session.left
    wanted = replace(wanted, server=server, tool=own_name)
    async with _opened(found, bearer, wanted, left) as (session, tools):
        return await _call_tool(session, tools, wanted)


@asynccontextmanager
async def _opened(
    found: Context, bearer: str, wanted: Wanted, timeout: float
) -> AsyncIterator[tuple[McpSession, Tools]]:
    """Connect, and list the tools. Raises `CliError`."""
    url = endpoint(found, wanted.project, wanted.server)
    session = McpSession(url, bearer, timeout=timeout, on_progress=_show_progress, tls=trusted(found))
    try:
        await session.connect()
        tools, _ = await session.tools()
        yield session, tools
    except RpcFault as fault:
        raise CliError(humane(f"{wanted.tool}: {fault.text}"), CODES.get(fault.rpc_code, REFUSED)) from fault
    except McpErrors as error:
        raise explain_mcp(error, has_token=True, unreachable=UNAVAILABLE) from error
    finally:
        await session.close()


async def _call_tool(session: McpSession, tools: Tools, wanted: Wanted) -> dict[str, Any]:
    schema: dict[str, Any] = next((tool["inputSchema"] for tool in tools if tool["name"] == wanted.tool), {})
    assigned = dict(_assignment(text, schema) for text in wanted.assigned)
    return await session.call(wanted.tool, wanted.arguments | assigned)


def _assignment(text: str, schema: dict[str, Any]) -> tuple[str, Any]:
    """Read `NAME=VALUE`: as text where the schema says so, else as JSON where it is some. Raises `CliError`."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise CliError("--arg takes NAME=VALUE", USAGE)
    properties = schema.get("properties")
    property_ = properties.get(name) if isinstance(properties, dict) else None
    if isinstance(property_, dict) and property_.get("type") == "string":
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _show_progress(text: str) -> None:
    if sys.stderr.isatty():
        note(f"progress: {plain(text)}")
