"""The live connections to upstream servers: opened when first asked for, kept, restarted, closed when idle."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import structlog

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router.era import NOTHING, answer_for_bus, params_for_legacy, result_for_bus
from mcpctl.actors.upstream_router.other_routers import OtherRouters
from mcpctl.actors.upstream_router.redaction import Redaction
from mcpctl.actors.upstream_router.server_logs import ServerLog, ServerLogs
from mcpctl.actors.upstream_router.stdio import StdioClient
from mcpctl.actors.upstream_router.stdio_rules import StdioRules
from mcpctl.actors.upstream_router.upstream_changes import UpstreamChanges
from mcpctl.bus.connection import Tasks
from mcpctl.bus.contracts.catalog import Connection, UpstreamServer
from mcpctl.bus.errors import BadGateway, BusError, DeadlineExceeded, Unavailable
from mcpctl.bus.mcp_client import (
    Answer,
    McpHttpClient,
    McpSessionLost,
    McpTransportError,
    McpWireError,
    ServerInfo,
)
from mcpctl.bus.mcp_messages import LEVELS, MODERN_MEMBERS, capabilities_of, encode
from mcpctl.bus.networks import Networks
from mcpctl.bus.router_frames import Heard

log = structlog.get_logger()

Notify = Callable[[str, bytes], None]
Era = Literal["modern", "legacy"]
Client = McpHttpClient | StdioClient
Ask = Callable[[Client, str, bytes], bool]
"""Takes a request of a server: on which connection, its method, and the whole message. False refuses it."""

ParamHeaders = dict[str, dict[str, tuple[str, ...]]]
"""By tool: the headers that repeat its arguments, and where in the arguments each of them is."""

Authority = tuple[str, str]
"""The bearer and the project of the latest caller: for whom a connection is opened."""

Unseal = Callable[[str, Authority], Awaitable[Connection]]

CONNECT_SECONDS = 15.0
LEVEL_SECONDS = 10.0
GREETING_SECONDS = 5.0
CRASHES = 5
"""A stdio server that ended so often within `CRASH_WINDOW` seconds is not started again until the window is over."""

CRASH_WINDOW = 60.0
LONGEST_REASON = 500
"""Characters that are told of why a server is away: some of it may be the server's own words."""

PROBE_FIRST, PROBE_LAST = 1.0, 30.0
"""Seconds between two attempts to reach a faulty server in the background: doubled from the first to the last."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an operator lets servers be and do: where they are, what is started, and how much they say at once."""

    networks: Networks
    stdio: StdioRules
    longest: int

    @classmethod
    def of(cls, settings: ActorSettings) -> "Bounds":
        rules = StdioRules(
            settings.stdio_commands, settings.stdio_memory_limit, settings.stdio_files_limit, settings.result_limit
        )
        return cls(Networks.parse(settings.upstream_networks), rules, settings.result_limit)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the latest request or connection failed, and since when none has succeeded (milliseconds since 1970)."""

    reason: str
    since: int


class Upstream:
    """One server of the Catalog, at one revision, as this router reaches it.

    `fault` says why the server is away; while it is set, lists go on without the server and a background task
    tries to reach it again.
    """

    def __init__(
        self,
        server: UpstreamServer,
        unseal: Unseal,
        authority: Authority,
        logs: ServerLogs,
        others: OtherRouters | None,
        capabilities: bytes,
        bounds: Bounds,
        *,
        prefer: Era,
        changes: UpstreamChanges | None = None,
    ) -> None:
        self.server = server
        self._bounds = bounds
        self._prefer = prefer
        self.capabilities = capabilities
        """What the clients of this connection can: a server of a handshake revision is told once and for all."""

        self.era: Era | None = None
        self.speaks_modern_only = False
        self.param_headers: ParamHeaders = {}
        self.on_reachable: list[Callable[[bool], None]] = []
        self.changes = changes or UpstreamChanges(self, others)
        self._shares_changes = changes is not None
        self._logs = logs
        self.authority = authority
        self.fault: str | None = None
        self.trouble: Trouble | None = None
        self.last_used = time.monotonic()
        self.running = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._unseal = unseal
        self._client: Client | None = None
        self._log_level: str | None = None
        self._redact: Callable[[str], str] = str
        self._connecting = asyncio.Lock()
        self._crashes: list[float] = []
        self._tasks = Tasks()
        self._probing = self._closed = False

    async def connected(self) -> ServerInfo:
        """Return what the server said of itself.

        Raises `BadGateway` or `DeadlineExceeded` where it is away, and what the Catalog answers to a caller who may
        not connect to it: that is no fault of the server.
        """
        server = (await self.client()).server
        assert server is not None  # noqa: S101 - `client` returns connected clients only
        return server

    async def client(self) -> Client:
        """Return the connected client. Raises as `connected` does."""
        with self.busy():
            return await self._open()

    @property
    def in_use(self) -> bool:
        """Whether it is not to be closed as idle: a request runs, or somebody listens."""
        return bool(self.running) or (self.changes.listened and not self._shares_changes)

    def share(self, changes: UpstreamChanges) -> None:
        """Announce what is heard on this connection with those of another one to the same server."""
        if self.changes is not changes:
            self.changes = changes
            if self._client is not None:
                changes.joined(self._client, self._drop)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep the connection from being closed as idle inside of this."""
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
        ask: Ask | None = None,
        log_level: str | None = None,
        headers: Mapping[str, str] | None = None,
        owner: str = "",
        timeout: float,
    ) -> Answer:
        """Ask the server, in its own era; answer in the modern one.

        `ask` takes the requests of a server of a handshake revision, `log_level` is what the client wants to hear of,
        `headers` are `Mcp-Param-*` for a stateless server; `owner` tells clients apart that share a stdio process.

        Raises `BadGateway` where the server is away and `DeadlineExceeded` where it is silent for `timeout`
        seconds. A request is repeated only where the server certainly has not seen it.
        """
        with self.busy():
            for attempt in (1, 2):
                client = await self._open()
                try:
                    if client.server is not None and client.server.era == "legacy":
                        if log_level is not None:
                            await self._hear_logs(client, log_level)
                        heard = None if ask is None else partial(ask, client)
                        answer = await client.request(
                            method,
                            params_for_legacy(params),
                            name=name,
                            on_notification=notify,
                            on_server_request=heard,
                            owner=owner,
                            timeout=timeout,
                        )
                        self.trouble = None
                        return answer_for_bus(answer, method, params)
                    answer = await client.request(
                        method,
                        params,
                        name=name,
                        on_notification=notify,
                        extra_headers=headers,
                        timeout=timeout,
                    )
                    self.trouble = None
                    if answer.result is None:
                        return answer
                    return Answer(result=result_for_bus(answer.result, method), error=None)
                except McpSessionLost as error:
                    await self._drop(client)
                    if attempt == 2:
                        raise self._away(error) from error
                except (McpTransportError, McpWireError) as error:
                    if isinstance(client, StdioClient) and not client.alive:
                        await self._drop(client)
                    raise self._away(error) from error
            raise AssertionError("the second attempt returns or raises")

    async def _hear_logs(self, client: Client, level: str) -> None:
        """Lower the level of a handshake server's log messages, which is one for the whole connection."""
        known = self._log_level
        if known is not None and LEVELS.index(level) >= LEVELS.index(known):
            return
        self._log_level = level
        if client.server is not None and "logging" in capabilities_of(client.server.result):
            params = encode({"level": level})
            await client.request("logging/setLevel", params, timeout=LEVEL_SECONDS)

    async def _open(self) -> Client:
        client = self._client
        if client is not None and (isinstance(client, McpHttpClient) or client.alive):
            return client
        async with self._connecting:
            if self._client is not None and isinstance(self._client, StdioClient) and not self._client.alive:
                await self._drop(self._client)
            if self._client is None:
                try:
                    self._client = await self._connect()
                except (BadGateway, DeadlineExceeded, Unavailable) as error:
                    self._note_trouble(str(error))
                    raise
                self._set_fault(None)
            return self._client

    async def _connect(self) -> Client:
        self._refuse_crash_loop()
        connection = await self._unseal(self.server.name, self.authority)
        redaction = Redaction(connection)
        self._redact = redaction.of_text
        try:
            client = _client_for(
                connection, self._logs.of(self.server.name), self.capabilities, self._bounds, redaction
            )
        except ValueError as error:
            raise BadGateway(f"server {self.server.name}: its url or a header cannot be sent: {error}") from error
        try:
            await self._begin(client)
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
        self.era = client.server.era if client.server is not None else None
        self._log_level = None
        self.changes.joined(client, self._drop)
        log.info("upstream connected", server=self.server.name, era=self.era)
        return client

    async def _begin(self, client: Client) -> None:
        """Agree on a revision: the preferred era first, if the server has it."""
        if self._prefer == "legacy":
            try:
                await client.connect(timeout=CONNECT_SECONDS, era="legacy")
            except (McpTransportError, McpWireError) as error:
                if isinstance(error, McpTransportError) and not 400 <= error.status < 500:
                    raise
            else:
                return
        await client.connect(timeout=CONNECT_SECONDS)

    def _refuse_crash_loop(self) -> None:
        horizon = time.monotonic() - CRASH_WINDOW
        self._crashes = [at for at in self._crashes if at > horizon]
        if len(self._crashes) >= CRASHES:
            raise BadGateway(
                f"server {self.server.name} keeps ending and is not started again for a while; {self.fault}"
            )

    async def _drop(self, client: Client) -> None:
        if self._client is client:
            self._client = None
            if isinstance(client, StdioClient):
                self._crashes.append(time.monotonic())
        await client.close()

    def _away(self, error: Exception) -> BusError:
        text = f"server {self.server.name}: {self._redact(str(error))[:LONGEST_REASON]}"
        self._note_trouble(text)
        if isinstance(error, McpTransportError) and str(error).startswith("no answer"):
            return DeadlineExceeded(text)
        return BadGateway(text)

    def mark_faulty(self, reason: str) -> None:
        """Leave the server out of lists from now on, until the background task reaches it again."""
        self._set_fault(reason)
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
            if self._client is not None:
                await self._greet(self._client)
            await self.connected()
            self._set_fault(None)
        except (BadGateway, DeadlineExceeded) as error:
            self._set_fault(str(error))
        except BusError:
            self._set_fault(None)  # the last caller may not connect any more: let the next one try

    async def _greet(self, client: Client) -> None:
        """Return when a server answers on a connection that is in use. Raises `BadGateway`, `DeadlineExceeded`."""
        legacy = client.server is not None and client.server.era == "legacy"
        method, params = ("ping", None) if legacy else ("server/discover", b'{"_meta":{' + MODERN_MEMBERS + b"}}")
        try:
            await client.request(method, params, timeout=GREETING_SECONDS)
        except McpSessionLost:
            await self._drop(client)
        except (McpTransportError, McpWireError) as error:
            raise self._away(error) from error

    def _set_fault(self, reason: str | None) -> None:
        turned = (reason is None) != (self.fault is None)
        self.fault = reason
        if reason is None:
            self.trouble = None
        else:
            self._note_trouble(reason)
        if turned:
            for heard in self.on_reachable:
                heard(reason is None)

    def _note_trouble(self, reason: str) -> None:
        since = self.trouble.since if self.trouble is not None else time.time_ns() // 1_000_000
        self.trouble = Trouble(reason, since)

    @property
    def reached(self) -> ServerInfo | None:
        """What the server said of itself, while there is a connection to it."""
        client = self._client
        return client.server if isinstance(client, McpHttpClient) or (client is not None and client.alive) else None

    async def rest(self) -> None:
        """Close the connection; the next request opens another."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def close(self) -> None:
        self._closed = True
        await self._tasks.cancel()
        if not self._shares_changes:
            await self.changes.close()
        await self.rest()


def _client_for(
    connection: Connection, log: ServerLog, capabilities: bytes, bounds: Bounds, redaction: Redaction
) -> Client:
    redact = redaction.of_bytes if redaction else None
    if connection.url is not None:
        return McpHttpClient(
            connection.url,
            headers=connection.headers,
            capabilities=capabilities,
            max_answer=bounds.longest,
            networks=bounds.networks,
            redact=redact,
        )

    def say(line: str) -> None:
        log.write(redaction.of_text(line))

    return StdioClient(connection.command, connection.env, say, bounds.stdio, capabilities=capabilities, redact=redact)


class Upstreams:
    """All upstreams of this router, by server, revision and (with `isolation: session`) session."""

    def __init__(
        self, settings: ActorSettings, unseal: Unseal, logs: ServerLogs, others: OtherRouters | None = None
    ) -> None:
        self._unseal, self._logs, self._others = unseal, logs, others
        if others is not None:
            others.on_heard.append(self._hear)
        self._bounds = Bounds.of(settings)
        self._idle = settings.stdio_idle_ms / 1000
        self._live: dict[tuple[str, str, str], Upstream] = {}
        self._retired: set[Upstream] = set()
        self._tasks = Tasks()

    def get(self, server: UpstreamServer, state: str, authority: Authority, era: Era, capabilities: bytes) -> Upstream:
        """Return the upstream of a server; a newer revision replaces the older one, which ends when it is idle.

        `state` names whose state it is, where the server is isolated (else ""). `era` and `capabilities` are those of
        whoever comes first.
        """
        key = (server.name, server.revision, state)
        upstream = self._live.get(key)
        if upstream is not None:
            upstream.authority = authority
        else:
            prefer = era if server.isolation == "session" else "modern"
            upstream = Upstream(
                server, self._unseal, authority, self._logs, self._others, capabilities, self._bounds, prefer=prefer
            )
            self._live[key] = upstream
            for old in [k for k in self._live if k[0] == server.name and k[1] != server.revision]:
                self._tasks.start(self._retire(self._live.pop(old)))
        return upstream

    async def fitting(self, upstream: Upstream, era: Era, capabilities: bytes) -> Upstream:
        """Return the upstream for a client of this era and with these capabilities.

        A server that speaks both eras is spoken to in its client's: what it may ask of a client can depend on that. A
        server of a handshake revision is told the capabilities once, so it needs a connection for each set of them.
        Raises `BusError` where the server is away.
        """
        if upstream.era is None:
            await upstream.connected()
        if upstream.server.isolation == "session":
            return upstream
        if upstream.era == "legacy":
            return upstream if upstream.capabilities == capabilities else self._variant(upstream, capabilities)
        if era == "modern" or capabilities == NOTHING or upstream.speaks_modern_only:
            return upstream
        other = self._variant(upstream, capabilities)
        if other.era is None:
            await other.connected()
        upstream.speaks_modern_only = other.era == "modern"
        return upstream if upstream.speaks_modern_only else other

    def _variant(self, upstream: Upstream, capabilities: bytes) -> Upstream:
        server = upstream.server
        key = (server.name, server.revision, capabilities.decode())
        other = self._live.get(key)
        if other is None:
            other = Upstream(
                server,
                self._unseal,
                upstream.authority,
                self._logs,
                self._others,
                capabilities,
                self._bounds,
                prefer="legacy",
                changes=upstream.changes,
            )
            other.era = "legacy" if upstream.era == "legacy" else None  # of the other era, it is not known yet
            self._live[key] = other
        other.authority = upstream.authority
        other.share(upstream.changes)  # a connection that was idle has left others behind
        return other

    def all(self) -> tuple[Upstream, ...]:
        """Return all upstreams that have been asked for, and not been idle for long."""
        return tuple(self._live.values())

    def _hear(self, heard: Heard, message: bytes) -> None:
        upstream = self._live.get((heard.server, heard.revision, ""))
        if upstream is not None:
            upstream.changes.hear(heard.kind, heard.uri, message)

    def has_state(self, server: str, state: str) -> bool:
        """Tell whether a session's state at an isolated server is here."""
        return any(key[0] == server and key[2] == state for key in self._live)

    def end_states(self, concerns: Callable[[str], bool]) -> None:
        """Close the upstreams of certain sessions, whatever they are at."""
        for key in [k for k, up in self._live.items() if up.server.isolation == "session" and concerns(k[2])]:
            self._tasks.start(self._live.pop(key).close())

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
                if not upstream.in_use and upstream.last_used < horizon:
                    self._live.pop(key)
                    await upstream.close()

    async def close(self) -> None:
        await self._tasks.cancel()
        await asyncio.gather(*(upstream.close() for upstream in (*self._live.values(), *self._retired)))
        self._live.clear()
