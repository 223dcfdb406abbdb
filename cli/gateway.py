"""Where a project's MCP endpoint is, and with which bearer the CLI goes there."""

import os
import ssl
from dataclasses import replace
from urllib.parse import quote

from mcpctl.bus.nats_url import trust_also
from mcpctl.cli.context import Config, Context
from mcpctl.cli.errors import USAGE, CliError, NotLoggedIn
from mcpctl.cli.given import given_token, option_token


def endpoint(context: Context, project: str, server: str | None = None) -> str:
    """Return the URL of a project's MCP endpoint, or of one of its servers. Raises `CliError`."""
    if context.gateway_url is None:
        raise CliError(
            "this context does not say where the gateway is: mcpctl config set-context NAME --gateway-url URL", USAGE
        )
    below = f"/servers/{quote(server, safe='')}" if server is not None else ""
    return f"{context.gateway_url.rstrip('/')}/projects/{quote(project, safe='')}{below}/mcp"


def trusted(context: Context) -> ssl.SSLContext | None:
    """Return what believes the context's CA beside the system's; None without one. Raises `CliError`."""
    try:
        return trust_also(context.ca) if context.ca is not None else None
    except ValueError as error:
        raise CliError(str(error), USAGE) from error


def as_agent(context_name: str | None, token: str | None, gateway_url: str | None = None) -> tuple[Context, str]:
    """Return the context and a bearer: `--token`, `MCPCTL_TOKEN`, `MCPCTL_TOKEN_FILE`, or that of the login session.

    `gateway_url` takes the place of the context's, and needs no context. Raises `CliError` where there is no bearer.
    """
    config = Config.load()
    none_needed = gateway_url is not None and config.chosen(context_name) is None
    context = Context() if none_needed else config.stored(context_name)[1]
    if gateway_url is not None:
        context = replace(context, gateway_url=gateway_url)
    bearer = option_token(token) or given_token(_of_environment()) or context.bearer
    if bearer is None:
        raise NotLoggedIn
    return context, bearer


def _of_environment() -> str | None:
    if token := os.environ.get("MCPCTL_TOKEN"):
        return token
    file = os.environ.get("MCPCTL_TOKEN_FILE")
    return f"@{file}" if file else None
