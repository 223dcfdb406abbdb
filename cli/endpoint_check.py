"""Trying an MCP endpoint, step by step: health, handshake, list of tools, one call."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from mcpctl.bus.mcp_client import ServerInfo
from mcpctl.cli.errors import DONE, REFUSED, USAGE, CliError
from mcpctl.cli.explain import humane
from mcpctl.cli.http_probe import fetch
from mcpctl.cli.mcp_session import Era, McpErrors, McpSession, explain_mcp


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
        self.report = Report(wanted.url)

    async def run(self) -> Report:
        """Take the steps up to the first that fails. Raises `CliError` for a URL or token that cannot be used."""
        wanted = self._wanted
        session = McpSession(
            wanted.url, wanted.token, timeout=wanted.timeout, era=wanted.era, on_progress=self._on_progress
        )
        try:
            await self._steps(session)
        except CliError as failure:
            self.report.code = failure.code
        finally:
            await session.close()
        return self.report

    async def _steps(self, session: McpSession) -> None:
        if self._wanted.health:
            await self._step("health", lambda: self._health(session))
        await self._step("connect", lambda: self._connect(session))
        if self._offers_tools() or self._wanted.tool or self._wanted.expected:
            await self._step("tools/list", lambda: self._list(session))
        if self._wanted.expected:
            await self._step("expect", self._expect)
        if self._wanted.tool is not None:
            await self._step(self._wanted.tool, lambda: self._call(session))

    async def _step(self, name: str, work: Callable[[], Awaitable[str]]) -> None:
        began = time.perf_counter()
        failure: CliError | None = None
        try:
            detail = await work()
        except CliError as error:
            failure = error
        except McpErrors as error:
            failure = explain_mcp(error, has_token=self._wanted.token is not None)
        taken = (time.perf_counter() - began) * 1000
        step = Step(name, failure is None, round(taken, 1), detail if failure is None else str(failure))
        self.report.steps.append(step)
        self._on_step(step)
        if failure is not None:
            raise failure

    async def _health(self, session: McpSession) -> str:
        try:
            status, _ = await fetch(self._wanted.url, "/healthz", session.left)
        except CliError as error:
            raise CliError(humane(str(error)), REFUSED) from error
        if status == 404:
            return "the origin has no /healthz"
        if not 200 <= status < 300:
            raise CliError(f"/healthz answers HTTP {status} (--no-health leaves it out)", REFUSED)
        return f"HTTP {status}"

    async def _connect(self, session: McpSession) -> str:
        info = await session.connect()
        self.report.era, self.report.version = info.era, info.version
        self.report.server = _server_of(info)
        named = " ".join(str(self.report.server.get(key, "")) for key in ("name", "version")).strip()
        return f"MCP {info.version}" + (f", {named}" if named else "")

    def _offers_tools(self) -> bool:
        return "tools" in (self._capabilities or {})

    async def _list(self, session: McpSession) -> str:
        tools, _ = await session.tools()
        self.report.tools = [tool["name"] for tool in tools]
        return f"{len(tools)} tools" if len(tools) != 1 else "1 tool"

    async def _expect(self) -> str:
        missing = [name for name in self._wanted.expected if name not in (self.report.tools or ())]
        if missing:
            raise CliError(f"not listed: {', '.join(missing)}", USAGE)
        return f"all {len(self._wanted.expected)} listed"

    async def _call(self, session: McpSession) -> str:
        self.report.result = await session.call(self._wanted.tool or "", self._wanted.arguments)
        if self.report.result.get("isError"):
            raise CliError("the tool reports an error", USAGE)
        return "done"

    @property
    def _capabilities(self) -> Any:
        return (self.report.server or {}).get("capabilities")


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
