"""The live connections to upstream servers: opened when first asked for, kept, restarted, closed when idle."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router.era import params_for_legacy, result_for_bus
from mcpctl.actors.upstream_router.server_logs import ServerLog, ServerLogs
from mcpctl.actors.upstream_router.stdio import StdioClient
from mcpctl.bus.connection import Tasks
from mcpctl.bus.contracts.catalog import Connection, UpstreamServer
from mcpctl.bus.errors import BadGateway, BusError, DeadlineExceeded
from mcpctl.bus.mcp_client import (
    Answer,
    McpHttpClient,
    McpSessionLost,
    McpTransportError,
    McpWireError,
    ServerInfo,
)

log = structlog.get_logger()

Notify = Callable[[str, bytes], None]
Authority = tuple[str, str]
"""The bearer and the project of the latest caller: for whom a connection is opened."""

Unseal = Callable[[str, Authority], Awaitable[Connection]]

CONNECT_SECONDS = 15.0
CRASHES = 5
"""A stdio server that ended so often within `CRASH_WINDOW` seconds is not started again until the window is over."""

CRASH_WINDOW = 60.0
PROBE_FIRST, PROBE_LAST = 1.0, 30.0
"""Seconds between two attempts to reach a faulty server in the background: doubled from the first to the last."""


class Upstream:
    """One server of the Catalog, at one revision, as this router reaches it.

    `fault` says why the server is away; while it is set, lists go on without the server and a background task
    tries to reach it again.
    """

    def __init__(self, server: UpstreamServer, unseal: Unseal, authority: Authority, logs: ServerLogs) -> None:
        self.server = server
        self._logs = logs
        self.authority = authority
        self.fault: str | None = None
        self.last_used = time.monotonic()
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._unseal = unseal
        self._client: McpHttpClient | StdioClient | None = None
        self._connecting = asyncio.Lock()
        self._crashes: list[float] = []
        self._tasks = Tasks()
        self._probing = self._closed = False

    async def connected(self) -> ServerInfo:
        """Return what the server said of itself.

        Raises `BadGateway` or `DeadlineExceeded` where it is away, and what the Catalog answers to a caller who may
        not connect to it: that is no fault of the server.
        """
        with self._busy():
            client = await self._open()
        assert client.server is not None  # noqa: S101 - `_open` returns connected clients only
        return client.server

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self.running += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            self.last_used = time.monotonic()
            if not self.running:
                self.idle.set()

    async def request(
        self,
        method: str,
        params: bytes,
        *,
        name: str | None = None,
        notify: Notify | None = None,
        timeout: float,
    ) -> Answer:
        """Ask the server, in its own era; answer in the modern one.

        Raises `BadGateway` where the server is away and `DeadlineExceeded` where it is silent for `timeout`
        seconds. A request is repeated only where the server certainly has not seen it.
        """
        with self._busy():
            for attempt in (1, 2):
                client = await self._open()
                try:
                    return await self._ask(client, method, params, name, notify, timeout)
                except McpSessionLost as error:
                    await self._drop(client)
                    if attempt == 2:
                        raise self._away(error) from error
                except (McpTransportError, McpWireError) as error:
                    if isinstance(client, StdioClient) and not client.alive:
                        await self._drop(client)
                    raise self._away(error) from error
            raise AssertionError("the second attempt returns or raises")

    async def _ask(
        self,
        client: McpHttpClient | StdioClient,
        method: str,
        params: bytes,
        name: str | None,
        notify: Notify | None,
        timeout: float,
    ) -> Answer:
        legacy = client.server is not None and client.server.era == "legacy"
        answer = await client.request(
            method,
            params_for_legacy(params) if legacy else params,
            name=name,
            on_notification=notify,
            timeout=timeout,
        )
        if answer.result is None:
            return answer
        return Answer(result=result_for_bus(answer.result, method), error=None)

    async def _open(self) -> McpHttpClient | StdioClient:
        client = self._client
        if client is not None and (isinstance(client, McpHttpClient) or client.alive):
            return client
        async with self._connecting:
            if self._client is not None and isinstance(self._client, StdioClient) and not self._client.alive:
                await self._drop(self._client)
            if self._client is None:
                self._client = await self._connect()
                self.fault = None
            return self._client

    async def _connect(self) -> McpHttpClient | StdioClient:
        self._refuse_crash_loop()
        connection = await self._unseal(self.server.name, self.authority)
        try:
            client = _client_for(connection, self._logs.of(self.server.name))
        except ValueError as error:
            raise BadGateway(f"server {self.server.name}: its url or a header cannot be sent") from error
        try:
            await client.connect(timeout=CONNECT_SECONDS)
        except (McpTransportError, McpWireError, McpSessionLost) as error:
            if isinstance(client, StdioClient):
                self._crashes.append(time.monotonic())
            await client.close()
            raise self._away(error) from error
        except BaseException:
            await client.close()
            raise
        if self._closed:
            await client.close()
            raise BadGateway(f"server {self.server.name} was changed meanwhile: ask again")
        log.info("upstream connected", server=self.server.name, era=client.server and client.server.era)
        return client

    def _refuse_crash_loop(self) -> None:
        horizon = time.monotonic() - CRASH_WINDOW
        self._crashes = [at for at in self._crashes if at > horizon]
        if len(self._crashes) >= CRASHES:
            raise BadGateway(
                f"server {self.server.name} keeps ending and is not started again for a while; {self.fault}"
            )

    async def _drop(self, client: McpHttpClient | StdioClient) -> None:
        if self._client is client:
            self._client = None
            if isinstance(client, StdioClient):
                self._crashes.append(time.monotonic())
        await client.close()

    def _away(self, error: Exception) -> BusError:
        text = f"server {self.server.name}: {error}"
        if isinstance(error, McpTransportError) and str(error).startswith("no answer"):
            return DeadlineExceeded(text)
        return BadGateway(text)

    def mark_faulty(self, reason: str) -> None:
        """Leave the server out of lists from now on, until the background task reaches it again."""
        self.fault = reason
        if not self._probing:
            self._probing = True
            log.warning("upstream away", server=self.server.name, reason=reason)
            self._tasks.start(self._probe())

    async def _probe(self) -> None:
        pause = PROBE_FIRST
        try:
            while self.fault is not None:
                await asyncio.sleep(pause)
                pause = min(pause * 2, PROBE_LAST)
                await self._try_again()
            log.info("upstream back", server=self.server.name)
        finally:
            self._probing = False

    async def _try_again(self) -> None:
        if self._client is not None and not self.running:
            await self._drop(self._client)
        try:
            await self.connected()
            self.fault = None
        except (BadGateway, DeadlineExceeded) as error:
            self.fault = str(error)
        except BusError:
            self.fault = None  # the last caller may not connect any more: let the next one try

    async def rest(self) -> None:
        """Close the connection; the next request opens another."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def close(self) -> None:
        self._closed = True
        await self._tasks.cancel()
        await self.rest()


def _client_for(connection: Connection, log: ServerLog) -> McpHttpClient | StdioClient:
    if connection.url is not None:
        return McpHttpClient(connection.url, headers=connection.headers)
    return StdioClient(connection.command, connection.env, log.write)


class Upstreams:
    """All upstreams of this router, by server, revision and (with `isolation: session`) session."""

    def __init__(self, settings: ActorSettings, unseal: Unseal, logs: ServerLogs) -> None:
        self._unseal, self._logs = unseal, logs
        self._idle = settings.stdio_idle_ms / 1000
        self._live: dict[tuple[str, str, str], Upstream] = {}
        self._retired: set[Upstream] = set()
        self._tasks = Tasks()

    def get(self, server: UpstreamServer, session: str, authority: Authority) -> Upstream:
        """Return the upstream of a server; a newer revision replaces the older one, which ends when it is idle."""
        key = (server.name, server.revision, session if server.isolation == "session" else "")
        upstream = self._live.get(key)
        if upstream is not None:
            upstream.authority = authority
        else:
            upstream = self._live[key] = Upstream(server, self._unseal, authority, self._logs)
            for old in [k for k in self._live if k[0] == server.name and k[1] != server.revision]:
                self._tasks.start(self._retire(self._live.pop(old)))
        return upstream

    async def _retire(self, upstream: Upstream) -> None:
        self._retired.add(upstream)
        await upstream.idle.wait()
        await upstream.close()
        self._retired.discard(upstream)

    async def sweep(self) -> None:
        """For ever: close what has been idle for too long."""
        while True:
            await asyncio.sleep(min(self._idle, 30.0))
            horizon = time.monotonic() - self._idle
            for key, upstream in list(self._live.items()):
                if not upstream.running and upstream.last_used < horizon:
                    self._live.pop(key)
                    await upstream.close()

    async def close(self) -> None:
        await self._tasks.cancel()
        await asyncio.gather(*(upstream.close() for upstream in (*self._live.values(), *self._retired)))
        self._live.clear()
