"""Trying an MCP endpoint, step by step: health, handshake, list of tools, one call."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
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
from mcpctl.cli.errors import DONE, REFUSED, USAGE, CliError
from mcpctl.cli.explain import humane
from mcpctl.cli.http_probe import fetch

MOST_PAGES = 1000
Era = Literal["auto", "modern", "legacy"]


class StepFailed(Exception):
    """A step went wrong: `code` is 1 for transport, auth and health, 2 for a broken contract."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Step:
    """One step that was taken, and how it went."""

    name: str
    passed: bool
    ms: float
    detail: str


@dataclass
class Report:
    """All that was found out."""

    url: str
    steps: list[Step] = field(default_factory=list)
    era: str | None = None
    version: str | None = None
    server: dict[str, Any] | None = None
    tools: list[str] | None = None
    result: dict[str, Any] | None = None
    code: int = DONE


@dataclass(frozen=True)
class Wanted:
    """What to try. `timeout` is for all steps together, in seconds."""

    url: str
    token: str | None = field(default=None, repr=False)
    tool: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    expected: tuple[str, ...] = ()
    timeout: float = 30.0
    health: bool = True
    era: Era = "auto"


class EndpointCheck:
    """One run over an endpoint. `on_step` and `on_progress` hear of what happens while it happens."""

    def __init__(self, wanted: Wanted, on_step: Callable[[Step], None], on_progress: Callable[[str], None]) -> None:
        self._wanted, self._on_step, self._on_progress = wanted, on_step, on_progress
        self._deadline = 0.0
        self._schemas: dict[str, dict[str, Any]] = {}
        self.report = Report(wanted.url)

    async def run(self) -> Report:
        """Take the steps up to the first that fails. Raises `CliError` for a URL or token that cannot be used."""
        headers = {"Authorization": f"Bearer {self._wanted.token}"} if self._wanted.token else {}
        try:
            client = McpHttpClient(self._wanted.url, headers=headers)
        except ValueError as error:
            raise CliError(str(error), USAGE) from error
        self._deadline = asyncio.get_running_loop().time() + self._wanted.timeout
        try:
            await self._steps(client)
        except StepFailed as failure:
            self.report.code = failure.code
        finally:
            await client.close()
        return self.report

    async def _steps(self, client: McpHttpClient) -> None:
        if self._wanted.health:
            await self._step("health", self._health)
        await self._step("connect", lambda: self._connect(client))
        if self._offers_tools() or self._wanted.tool or self._wanted.expected:
            await self._step("tools/list", lambda: self._list(client))
        if self._wanted.expected:
            await self._step("expect", self._expect)
        if self._wanted.tool is not None:
            await self._step(self._wanted.tool, lambda: self._call(client))

    async def _step(self, name: str, work: Callable[[], Awaitable[str]]) -> None:
        began = time.perf_counter()
        failure: StepFailed | None = None
        try:
            detail = await work()
        except StepFailed as error:
            failure = error
        except McpAuthError as error:
            failure = StepFailed(f"{error}: {_advice(error, has_token=self._wanted.token is not None)}", REFUSED)
        except McpTransportError as error:
            failure = StepFailed(humane(str(error)), REFUSED)
        except McpSessionLost as error:
            failure = StepFailed(str(error), REFUSED)
        except McpWireError as error:
            failure = StepFailed(f"not MCP as it should be: {error}", USAGE)
        taken = (time.perf_counter() - began) * 1000
        step = Step(name, failure is None, round(taken, 1), detail if failure is None else str(failure))
        self.report.steps.append(step)
        self._on_step(step)
        if failure is not None:
            raise failure

    def _left(self) -> float:
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    async def _health(self) -> str:
        try:
            status, _ = await fetch(self._wanted.url, "/healthz", self._left())
        except CliError as error:
            raise StepFailed(humane(str(error)), REFUSED) from error
        if status == 404:
            return "the origin has no /healthz"
        if not 200 <= status < 300:
            raise StepFailed(f"/healthz answers HTTP {status} (--no-health leaves it out)", REFUSED)
        return f"HTTP {status}"

    async def _connect(self, client: McpHttpClient) -> str:
        info = await client.connect(timeout=self._left(), era=self._wanted.era)
        self.report.era, self.report.version = info.era, info.version
        self.report.server = _server_of(info)
        named = " ".join(str(self.report.server.get(key, "")) for key in ("name", "version")).strip()
        return f"MCP {info.version}" + (f", {named}" if named else "")

    def _offers_tools(self) -> bool:
        return "tools" in (self._capabilities or {})

    async def _list(self, client: McpHttpClient) -> str:
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            params = {} if cursor is None else {"cursor": cursor}
            page = await self._ask(client, "tools/list", params)
            for tool in _tools_of(page):
                if tool["name"] in self._schemas:
                    raise StepFailed(f"the tool {tool['name']} is listed twice", USAGE)
                self._schemas[tool["name"]] = tool["inputSchema"]
            cursor = page.get("nextCursor")
            if cursor is None:
                break
            if not isinstance(cursor, str):
                raise StepFailed("nextCursor is not a text", USAGE)
        else:
            raise StepFailed(f"the list has more than {MOST_PAGES} pages", USAGE)
        self.report.tools = list(self._schemas)
        return f"{len(self._schemas)} tools" if len(self._schemas) != 1 else "1 tool"

    async def _expect(self) -> str:
        missing = [name for name in self._wanted.expected if name not in self._schemas]
        if missing:
            raise StepFailed(f"not listed: {', '.join(missing)}", USAGE)
        return f"all {len(self._wanted.expected)} listed"

    async def _call(self, client: McpHttpClient) -> str:
        name = self._wanted.tool or ""
        params = {"name": name, "arguments": self._wanted.arguments}
        result = await self._ask(client, "tools/call", params, name=name)
        self.report.result = result
        if result.get("resultType", "complete") == "input_required":
            raise StepFailed("the tool asks its user for input, which this test cannot give", USAGE)
        if not isinstance(result.get("content"), list):
            raise StepFailed("the result has no list of contents", USAGE)
        if result.get("isError"):
            raise StepFailed("the tool reports an error", USAGE)
        return "done"

    async def _ask(
        self, client: McpHttpClient, method: str, params: dict[str, Any], name: str | None = None
    ) -> dict[str, Any]:
        """Send one request and return its result. Raises `StepFailed` for a JSON-RPC error."""
        meta: dict[str, Any] = {} if name is None else {"progressToken": "test"}
        extra = {}
        if self.report.era == "modern":
            meta |= {PROTOCOL_VERSION: MODERN, CLIENT_INFO: orjson.Fragment(IMPLEMENTATION), CLIENT_CAPABILITIES: {}}
            extra = dict(_parameter_headers(self._schemas.get(name or "", {}), self._wanted.arguments))
        body = orjson.dumps(params | ({"_meta": meta} if meta else {}))
        answer = await client.request(
            method, body, name=name, on_notification=self._heard, timeout=self._left(), extra_headers=extra
        )
        if answer.result is None:
            error = orjson.loads(answer.error or b"{}")
            raise StepFailed(f"{method}: error {error.get('code')}: {error.get('message')}", USAGE)
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

    @property
    def _capabilities(self) -> Any:
        return (self.report.server or {}).get("capabilities")


def _advice(error: McpAuthError, *, has_token: bool) -> str:
    """Say what to do about a refusal, with the reason that the server gives (RFC 6750, section 3)."""
    if error.status == 403:
        return "this token may not use this endpoint"
    if not has_token:
        return "give a token with --token or $MCPCTL_TOKEN"
    described = re.search(r'error_description="([^"]*)"', error.challenge)
    return described[1] if described is not None else "the token is not accepted"


def _server_of(info: ServerInfo) -> dict[str, Any]:
    """Return what a server says of itself: name, version, capabilities."""
    result = orjson.loads(info.result)
    named = result.get("serverInfo") or (result.get("_meta") or {}).get("io.modelcontextprotocol/serverInfo") or {}
    if not isinstance(named, dict):
        named = {}
    return {
        **{key: named[key] for key in ("name", "version") if key in named},
        "capabilities": result.get("capabilities"),
    }


def _tools_of(page: dict[str, Any]) -> list[dict[str, Any]]:
    tools = page.get("tools")
    if not isinstance(tools, list):
        raise StepFailed("the answer to tools/list has no list of tools", USAGE)
    for tool in tools:
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise StepFailed("a listed tool has no name", USAGE)
        if not isinstance(tool.get("inputSchema"), dict):
            raise StepFailed(f"the tool {tool['name']} has no inputSchema", USAGE)
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
