"""Mixed traffic through one URL: raw clients and the official SDK's of both eras, open streams, and changes.

Each client goes on until it is told to stop. What it sent and what came of it stands in one list of attempts, so that
afterwards each call can be held against what was executed and what is in the ledger.
"""

import asyncio
import itertools
import json
import secrets
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from mcpctl.bus.mcp_messages import INTERNAL_ERROR
from tests.gateway.test_edge import headers, modern

VERSION = "2025-11-25"
PAUSE = 0.02
PATIENCE = 30.0

SESSION_LOST = ("Session terminated", "no such session")
"""What the SDK says of a 404, and what the gateway does."""


@dataclass
class Attempt:
    """One request: `done`, `refused` (503, 429: the client is told to come again), `failed`, or `wrong`."""

    kind: str
    mark: str
    began: float
    ended: float = 0.0
    outcome: str = ""
    detail: str = ""
    trace: str = ""
    """the trace id that it sent, by which it is found in the ledger"""


@dataclass
class Traffic:
    """All clients of one project behind one URL; `marks` are unique over all of them."""

    url: str
    project: str
    bearer: str
    tool: str
    """`record`'s name in the project"""
    wait_ms: tuple[int, ...] = (0,)
    """how long a call takes at the upstream, in turn"""
    attempts: list[Attempt] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    """how open streams ended: `clean` or `cut`"""
    sessions_lost: list[float] = field(default_factory=list)
    connection_limit: int = 1
    _run: str = field(default_factory=lambda: secrets.token_hex(4))
    _numbers: itertools.count = field(default_factory=itertools.count)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"{self.url}/projects/{self.project}/mcp"

    def start(self, *, raw: int = 2, legacy: int = 2, sdk: int = 1, streams: int = 2) -> None:
        """Begin with so many clients of each kind (of each era, for the SDK's)."""
        works = [self._modern() for _ in range(raw)]
        works += [self._legacy() for _ in range(legacy)]
        works += [self._sdk(mode) for _ in range(sdk) for mode in ("legacy", "2026-07-28")]
        works += [self._stream() for _ in range(streams)]
        self._tasks += [asyncio.create_task(work) for work in works]

    async def stop(self) -> None:
        """Let each client finish what it has begun."""
        if self._stop.is_set():
            return
        self._stop.set()
        done, late = await asyncio.wait(self._tasks, timeout=2 * PATIENCE)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        assert not late, "clients did not end"
        for task in done:
            task.result()

    @asynccontextmanager
    async def running(self, **clients: int):
        self.start(**clients)
        try:
            yield self
        finally:
            await self.stop()

    def count(self, outcome: str) -> int:
        return sum(attempt.outcome == outcome for attempt in self.attempts)

    # --- one attempt ---

    @asynccontextmanager
    async def _attempt(self, kind: str):
        number = next(self._numbers)
        attempt = Attempt(kind, f"{kind}-{self._run}-{number}", time.monotonic(), trace=secrets.token_hex(16))
        try:
            yield attempt, self.wait_ms[number % len(self.wait_ms)]
        except (aiohttp.ClientError, httpx2.HTTPError, OSError, TimeoutError) as error:
            attempt.outcome, attempt.detail = "failed", repr(error)
        attempt.ended = time.monotonic()
        self.attempts.append(attempt)
        await asyncio.sleep(PAUSE if attempt.outcome == "done" else 10 * PAUSE)

    def _judge(self, attempt: Attempt, status: int, text: str) -> None:
        if status == 200 and f"recorded {attempt.mark}" in text and '"isError":true' not in text:
            attempt.outcome = "done"
        elif status in (429, 503):
            attempt.outcome, attempt.detail = "refused", text[:300]
        elif status == 200:
            code = _code_in(text)
            attempt.outcome, attempt.detail = ("refused" if code == INTERNAL_ERROR else "wrong"), text[:300]
        else:
            attempt.outcome, attempt.detail = "wrong", f"{status}: {text[:300]}"

    # --- clients ---

    async def _modern(self) -> None:
        sent = headers(self.bearer, "tools/call", Mcp_Name=self.tool)
        async with self._session() as http:
            while not self._stop.is_set():
                async with self._attempt("modern") as (attempt, wait):
                    body = modern("tools/call", name=self.tool, arguments={"mark": attempt.mark, "wait_ms": wait})
                    async with http.post(self.endpoint, json=body, headers=sent | _traced(attempt)) as answer:
                        self._judge(attempt, answer.status, await answer.text())

    async def _legacy(self) -> None:
        async with self._session() as http:
            sent: dict[str, str] = {}
            while not self._stop.is_set():
                if not sent:
                    sent = await self._initialize(http)
                    continue
                async with self._attempt("legacy") as (attempt, wait):
                    params = {"name": self.tool, "arguments": {"mark": attempt.mark, "wait_ms": wait}}
                    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
                    async with http.post(self.endpoint, json=body, headers=sent | _traced(attempt)) as answer:
                        text = await answer.text()
                        if answer.status == 404:
                            self.sessions_lost.append(time.monotonic())
                            sent = {}
                        self._judge(attempt, answer.status, text)

    async def _initialize(self, http: aiohttp.ClientSession) -> dict[str, str]:
        """Return the headers of a new session's requests; none where it could not be opened now."""
        sent = {"Authorization": f"Bearer {self.bearer}", "Accept": "application/json, text/event-stream"}
        client = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "traffic", "version": "1"}}
        ask = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": client}
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with http.post(self.endpoint, json=ask, headers=sent) as answer:
                if answer.status == 200:
                    sent |= {"Mcp-Session-Id": answer.headers["Mcp-Session-Id"], "MCP-Protocol-Version": VERSION}
                    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
                    async with http.post(self.endpoint, json=note, headers=sent) as taken:
                        if taken.status == 202:
                            return sent
        await asyncio.sleep(10 * PAUSE)
        return {}

    async def _sdk(self, mode: str) -> None:
        authorization = {"Authorization": f"Bearer {self.bearer}"}
        while not self._stop.is_set():
            try:
                async with (
                    httpx2.AsyncClient(timeout=PATIENCE, headers=authorization) as http,
                    Client(streamable_http_client(self.endpoint, http_client=http), mode=mode) as client,
                ):
                    while not self._stop.is_set():
                        async with self._attempt(f"sdk-{mode}") as (attempt, wait):
                            await self._sdk_call(client, attempt, wait)
            except* (MCPError, httpx2.HTTPError, OSError):  # it did not connect, or ended with its connection
                await asyncio.sleep(10 * PAUSE)

    async def _sdk_call(self, client: Client, attempt: Attempt, wait: int) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                result = await client.call_tool(self.tool, {"mark": attempt.mark, "wait_ms": wait})
        except MCPError as error:
            if any(said in str(error) for said in SESSION_LOST):
                self.sessions_lost.append(time.monotonic())
            known = error.error.code in (INTERNAL_ERROR, -32000)
            attempt.outcome, attempt.detail = ("refused" if known else "wrong"), f"{error.error.code}: {error}"
            return
        right = not result.is_error and result.content[0].text == f"recorded {attempt.mark}"
        attempt.outcome, attempt.detail = ("done", "") if right else ("wrong", str(result)[:300])

    async def _stream(self) -> None:
        """A stateless client that listens for changes; when its stream ends it opens the next."""
        body = modern("subscriptions/listen", notifications={"toolsListChanged": True})
        async with self._session(timeout=aiohttp.ClientTimeout(total=None, sock_connect=5)) as http:
            while not self._stop.is_set():
                try:
                    reading = asyncio.create_task(self._read(http, body))
                    stopped = asyncio.create_task(self._stop.wait())
                    await asyncio.wait((reading, stopped), return_when=asyncio.FIRST_COMPLETED)
                    stopped.cancel()
                    if not reading.done():
                        reading.cancel()
                        with suppress(asyncio.CancelledError):
                            await reading
                        return
                    if (ended := reading.result()) is not None:
                        self.streams.append(ended)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    self.streams.append("cut")
                await asyncio.sleep(PAUSE)

    async def _read(self, http: aiohttp.ClientSession, body: dict[str, object]) -> str | None:
        """Return how a stream ended; None where there was none."""
        last = b""
        async with http.post(self.endpoint, json=body, headers=headers(self.bearer, "subscriptions/listen")) as answer:
            if answer.status != 200:
                return None
            async for line in answer.content:
                last = line if line.startswith(b"data:") and len(line) > 8 else last
        return "clean" if b'"result"' in last else f"cut: {last[:200]!r}"

    def _session(self, timeout: aiohttp.ClientTimeout | None = None) -> aiohttp.ClientSession:
        timeout = timeout or aiohttp.ClientTimeout(total=PATIENCE, sock_connect=5)
        return aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=self.connection_limit))


def _traced(attempt: Attempt) -> dict[str, str]:
    return {"traceparent": f"00-{attempt.trace}-{secrets.token_hex(8)}-01"}


def _code_in(text: str) -> int | None:
    for line in text.splitlines():
        with suppress(ValueError, AttributeError):
            said = json.loads(line.removeprefix("data:").strip())
            if "error" in said:
                return said["error"]["code"]
    return None
