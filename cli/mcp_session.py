"""The CLI as an MCP client: connect, list tools, call one; in whichever era the endpoint speaks."""

import asyncio
import re
import ssl
from collections.abc import Callable, Iterator
from typing import Any, Literal

import orjson

from mcpctl.bus.mcp_client import (
    McpAuthError,
    McpHttpClient,
    McpSessionLost,
    McpTransportError,
    McpWireError,
    ServerInfo,
    encode_value,
)
from mcpctl.bus.mcp_messages import CLIENT_CAPABILITIES, CLIENT_INFO, IMPLEMENTATION, MODERN, PROTOCOL_VERSION
from mcpctl.cli.errors import REFUSED, USAGE, CliError
from mcpctl.cli.explain import humane

Era = Literal["auto", "modern", "legacy"]
Tool = dict[str, Any]

MOST_PAGES = 1000
McpErrors = (McpAuthError, McpTransportError, McpSessionLost, McpWireError)


class RpcFault(CliError):
    """The endpoint answered a request with a JSON-RPC error of this code."""

    def __init__(self, method: str, error: dict[str, Any]) -> None:
        super().__init__(f"{method}: error {error.get('code')}: {error.get('message')}", USAGE)
        self.rpc_code, self.text = error.get("code"), str(error.get("message"))


class McpSession:
    """One endpoint. `timeout` is for all that is done with it, in seconds; `tls` says which certificates are believed.

    The methods raise `McpErrors` and `CliError`.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout: float,
        era: Era = "auto",
        on_progress: Callable[[str], None],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Raise `CliError` for a URL or token that cannot be used."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._client = McpHttpClient(url, headers=headers, tls=tls)
        except ValueError as error:
            raise CliError(str(error), USAGE) from error
        self._era, self._on_progress = era, on_progress
        self._deadline = asyncio.get_running_loop().time() + timeout
        self._modern = False
        self._schemas: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def connect(self) -> ServerInfo:
        info = await self._client.connect(timeout=self.left, era=self._era)
        self._modern = info.era == "modern"
        return info

    async def close(self) -> None:
        await self._client.close()

    async def tools(self) -> tuple[list[Tool], dict[str, str]]:
        """Return all tools, and the reason for each server that is missing."""
        found: list[Tool] = []
        missing: dict[str, str] = {}
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            page = await self.ask("tools/list", {} if cursor is None else {"cursor": cursor})
            for tool in _tools_of(page):
                if tool["name"] in self._schemas:
                    raise CliError(f"the tool {tool['name']} is listed twice", USAGE)
                self._schemas[tool["name"]] = tool["inputSchema"]
                found.append(tool)
            missing |= _unavailable(page)
            cursor = page.get("nextCursor")
            if cursor is None:
                return found, missing
            if not isinstance(cursor, str):
                raise CliError("nextCursor is not a text", USAGE)
        raise CliError(f"the list has more than {MOST_PAGES} pages", USAGE)

    async def call(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Call a tool, and return its result as it came, one that reports an error too."""
        result = await self.ask("tools/call", {"name": name, "arguments": arguments}, name=name)
        if result.get("resultType", "complete") == "input_required":
            raise CliError("the tool asks its user for input, which cannot be given here", USAGE)
        if not isinstance(result.get("content"), list):
            raise CliError("the result has no list of contents", USAGE)
        return result

    async def ask(self, method: str, params: dict[str, Any], name: str | None = None) -> dict[str, Any]:
        """Send one request and return its result. Raises `RpcFault` for a JSON-RPC error."""
        meta: dict[str, Any] = {} if name is None else {"progressToken": "cli"}
        extra = {}
        if self._modern:
            meta |= {PROTOCOL_VERSION: MODERN, CLIENT_INFO: orjson.Fragment(IMPLEMENTATION), CLIENT_CAPABILITIES: {}}
            extra = dict(_parameter_headers(self._schemas.get(name or "", {}), params.get("arguments")))
        body = orjson.dumps(params | ({"_meta": meta} if meta else {}))
        answer = await self._client.request(
            method, body, name=name, on_notification=self._heard, timeout=self.left, extra_headers=extra
        )
        if answer.result is None:
            raise RpcFault(method, orjson.loads(answer.error or b"{}"))
        result: dict[str, Any] = orjson.loads(answer.result)
        return result

    def _heard(self, method: str, message: bytes) -> None:
        if method != "notifications/progress":
            return
        params = orjson.loads(message).get("params") or {}
        total = f"/{params['total']:g}" if isinstance(params.get("total"), int | float) else ""
        done = params.get("progress")
        text = params.get("message") or ""
        self._on_progress(f"{done:g}{total} {text}".strip() if isinstance(done, int | float) else str(text))


def explain_mcp(error: Exception, *, has_token: bool, unreachable: int = REFUSED) -> CliError:
    """Return what one of `McpErrors` means; `unreachable` is the exit code for an endpoint that is away."""
    if isinstance(error, McpAuthError):
        return CliError(f"{error}: {_advice(error, has_token=has_token)}", REFUSED)
    if isinstance(error, McpWireError):
        return CliError(f"not MCP as it should be: {error}", USAGE)
    return CliError(humane(str(error)), unreachable)


def _advice(error: McpAuthError, *, has_token: bool) -> str:
    """Say what to do about a refusal, with the reason that the server gives (RFC 6750, section 3)."""
    if error.status == 403:
        return "this token may not use this endpoint"
    if not has_token:
        return "give a token with --token or $MCPCTL_TOKEN"
    described = re.search(r'error_description="([^"]*)"', error.challenge)
    return described[1] if described is not None else "the token is not accepted"


def _unavailable(page: dict[str, Any]) -> dict[str, str]:
    meta = page.get("_meta")
    found = meta.get("mcpctl/unavailable") if isinstance(meta, dict) else None
    return {str(server): str(reason) for server, reason in found.items()} if isinstance(found, dict) else {}


def _tools_of(page: dict[str, Any]) -> list[Tool]:
    tools = page.get("tools")
    if not isinstance(tools, list):
        raise CliError("the answer to tools/list has no list of tools", USAGE)
    for tool in tools:
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise CliError("a listed tool has no name", USAGE)
        if not isinstance(tool.get("inputSchema"), dict):
            raise CliError(f"the tool {tool['name']} has no inputSchema", USAGE)
    return tools


def _parameter_headers(schema: Any, arguments: Any) -> Iterator[tuple[str, str]]:
    """Yield the headers that mirror arguments (2026-07-28, streamable-http, "Custom Headers from Tool Parameters")."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or not isinstance(arguments, dict):
        return
    for name, below in properties.items():
        value = arguments.get(name)
        header = below.get("x-mcp-header") if isinstance(below, dict) else None
        if isinstance(header, str) and isinstance(value, str | int | bool):
            yield f"Mcp-Param-{header}", encode_value(value if isinstance(value, str) else orjson.dumps(value).decode())
        yield from _parameter_headers(below, value)
