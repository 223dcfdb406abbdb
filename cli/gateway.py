"""Where a project's MCP endpoint is, and with which bearer the CLI goes there."""

import os

from mcpctl.cli.context import Config, Context
from mcpctl.cli.errors import USAGE, CliError, NotLoggedIn
from mcpctl.cli.given import given_token


def endpoint(context: Context, project: str, server: str | None = None) -> str:
    """Return the URL of a project's MCP endpoint, or of one of its servers. Raises `CliError`."""
    if context.gateway_url is None:
        raise CliError(
            "this context does not say where the gateway is: mcpctl config set-context NAME --gateway-url URL", USAGE
        )
    below = f"/servers/{server}" if server is not None else ""
    return f"{context.gateway_url.rstrip('/')}/projects/{project}{below}/mcp"


def as_agent(context_name: str | None, token: str | None) -> tuple[Context, str]:
    """Return the context and a bearer: `--token`, else `MCPCTL_TOKEN`, else that of the login session.

    Raises `CliError` where there is none.
    """
    _, context = Config.load().stored(context_name)
    bearer = given_token(token if token is not None else os.environ.get("MCPCTL_TOKEN") or None) or context.bearer
    if bearer is None:
        raise NotLoggedIn
    return context, bearer
