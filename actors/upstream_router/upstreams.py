"""The live connections to upstream servers: opened when first asked for, kept, restarted, closed when idle."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import structlog

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router.breaker import Breaker, Rules, cause_of, is_late
from mcpctl.actors.upstream_router.era import NOTHING, answer_for_bus, params_for_legacy, result_for_bus
from mcpctl.actors.upstream_router.other_routers import OtherRouters
from mcpctl.actors.upstream_router.redaction import Redaction
from mcpctl.actors.upstream_router.server_logs import ServerLog, ServerLogs
from mcpctl.actors.upstream_router.site_client import SiteClient
from mcpctl.actors.upstream_router.stdio import StdioClient
from mcpctl.actors.upstream_router.stdio_rules import StdioRules
from mcpctl.actors.upstream_router.upstream_changes import UpstreamChanges
from mcpctl.bus import measured, metrics
from mcpctl.bus.connection import Tasks, cancel, own_cancellation_only
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
Client = McpHttpClient | StdioClient | SiteClient
Ask = Callable[[Client, str, bytes], bool]
"""Takes a request of a server: on which connection, its method, and the whole message. False refuses it."""

ParamHeaders = dict[str, dict[str, tuple[str, ...]]]
"""By tool: the headers that repeat its arguments, and where in the arguments each of them is."""

Authority = tuple[str, str]
"""The bearer and the project of the latest caller: for whom a connection is opened."""

Unseal = Callable[[str, Authority], Awaitable[Connection]]

BREAKER_STATES = ("closed", "half-open", "open")
"""As metrics number them."""

LEVEL_SECONDS = 10.0
GREETING_SECONDS = 5.0
LASTING = 10.0
"""Seconds that a stdio server has to live until its answers make up for failures: some end after each."""

LONGEST_REASON = 500
"""Characters that are told of why a server is away: some of it may be the server's own words."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an operator lets servers be and do: where they are, what is started, how long that takes, what they say."""

    networks: Networks
    stdio: StdioRules
    longest: int
    starting: float

    @classmethod
    def of(cls, settings: ActorSettings) -> "Bounds":
        rules = StdioRules(
            settings.stdio_commands, settings.stdio_memory_limit, settings.stdio_files_limit, settings.result_limit
        )
        networks = Networks.parse(settings.upstream_networks)
        return cls(networks, rules, settings.result_limit, settings.upstream_start_ms / 1000)


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the latest request or connection failed, and since when none has succeeded (milliseconds since 1970)."""

    reason: str
    since: int


class Upstream:
    """One server of the Catalog, at one revision, as this router reaches it.

    `fault` says why the server is away; while it is set, lists go on without the server and its breaker, which is that
    of all connections to the server, tries to reach it again.
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
        breaker: Breaker,
        *,
        prefer: Era,
        changes: UpstreamChanges | None = None,
        elsewhere: Callable[[], SiteClient] | None = None,
    ) -> None:
        self.server = server
        self._elsewhere = elsewhere
        self._bounds = bounds
        self.breaker = breaker
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
        self._starting: asyncio.Task[Client] | None = None
        self._started_at = 0.0
        self._closed = False

    async def connected(self, timeout: float | None = None) -> ServerInfo:
        """Return what the server said of itself.

        Raises `BadGateway` where it is away, `DeadlineExceeded` where `timeout` seconds pass first, `Unavailable` where
        its breaker is open, and what the Catalog answers to a caller who may not connect to it: that is no fault of
        the server.
        """
        with self.busy():
            server = (self._ready or await self._open_within(timeout)).server
        assert server is not None  # noqa: S101 - `_ready` and `_open` return connected clients only
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
        project: str = "",
        timeout: float,
    ) -> Answer:
        """Ask the server, in its own era; answer in the modern one.

        `ask` takes the requests of a server of a handshake revision, `log_level` is what the client wants to hear of,
        `headers` are `Mcp-Param-*` for a stateless server; `owner` tells clients apart that share a stdio process,
        and `project` those who share the server's places.

        Raises `BadGateway` where the server is away, `DeadlineExceeded` where there is no answer within `timeout`
        seconds, its start included, and `Unavailable` where its breaker is open or its places are taken. A request is
        repeated only where the server certainly has not seen it.
        """
        with self.breaker.place(project), self.busy():
            began = time.monotonic()
            until = began + timeout
            for attempt in (1, 2):
                client = self._ready or await self._open_within(until - time.monotonic())
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
                            timeout=until - time.monotonic(),
                        )
                        self._answered(client)
                        return answer_for_bus(answer, method, params)
                    answer = await client.request(
                        method,
                        params,
                        name=name,
                        on_notification=notify,
                        extra_headers=headers,
                        timeout=until - time.monotonic(),
                    )
                    self._answered(client)
                    if answer.result is None:
                        return answer
                    return Answer(result=result_for_bus(answer.result, method), error=None)
                except McpSessionLost as error:
                    await self._drop(client)
                    if attempt == 2:
                        raise self._away(error, began=began) from error
                except (McpTransportError, McpWireError) as error:
                    if isinstance(client, StdioClient) and not client.alive:
                        await self._drop(client)
                    raise self._away(error, began=began) from error
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

    def _answered(self, client: Client) -> None:
        self.trouble = None
        if not isinstance(client, StdioClient) or time.monotonic() - self._started_at > LASTING:
            self.breaker.succeeded()

    @property
    def _ready(self) -> Client | None:
        client = self._client
        return client if isinstance(client, McpHttpClient) or (client is not None and client.alive) else None

    async def _open_within(self, timeout: float | None) -> Client:
        try:
            async with asyncio.timeout(timeout):
                return await self._open()
        except TimeoutError as error:
            raise self.late(timeout or 0.0) from error

    async def _open(self) -> Client:
        ended = self._client
        if isinstance(ended, StdioClient) and not ended.alive:
            await self._drop(ended)
            self.breaker.failed(self, "away", f"server {self.server.name}: the process ended")
        if self._ready is None:
            self.breaker.demand()
        return await self._started()

    async def _started(self) -> Client:
        """Return the connected client: one start for all who ask meanwhile, which goes on without those who leave."""
        if self._ready is not None:
            return self._ready
        starting, mine = self._starting, self._starting is None
        if starting is None:
            starting = self._starting = asyncio.create_task(self._start())
            starting.add_done_callback(self._start_ended)
        try:
            with own_cancellation_only():
                return await asyncio.shield(starting)
        except (BadGateway, DeadlineExceeded, Unavailable):
            raise
        except BusError:
            if mine:
                raise
            return await self._started()  # that was about the rights of another caller
        raise BadGateway(f"server {self.server.name} was changed meanwhile: ask again")

    async def _start(self) -> Client:
        try:
            client = self._client = await self._connect()
        except (BadGateway, DeadlineExceeded, Unavailable) as error:
            self._note_trouble(str(error))
            raise
        self._started_at = time.monotonic()
        self._set_fault(None)
        return client

    def _start_ended(self, task: "asyncio.Task[Client]") -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # it is looked at here, whether or not anybody still waits

    async def _connect(self) -> Client:
        if self._elsewhere is not None:
            return await self._greeted(self._elsewhere())
        connection = await self._unseal(self.server.name, self.authority)
        redaction = Redaction(connection)
        self._redact = redaction.of_text
        try:
            client = _client_for(
                connection, self._logs.of(self.server.name), self.capabilities, self._bounds, redaction
            )
        except ValueError as error:
            raise BadGateway(f"server {self.server.name}: its url or a header cannot be sent: {error}") from error
        return await self._greeted(client)

    async def _greeted(self, client: Client) -> Client:
        """Return a connection once server and client have told each other what they are. Raises `BusError`."""
        try:
            await self._begin(client)
        except (McpTransportError, McpWireError, McpSessionLost) as error:
            await client.close()
            raise self._away(error, starting=True) from error
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
        until = time.monotonic() + self._bounds.starting
        if self._prefer == "legacy":
            try:
                await client.connect(timeout=self._bounds.starting, era="legacy")
            except (McpTransportError, McpWireError) as error:
                if isinstance(error, McpTransportError) and not 400 <= error.status < 500:
                    raise
            else:
                return
        await client.connect(timeout=until - time.monotonic())

    async def _drop(self, client: Client) -> None:
        if self._client is client:
            self._client = None
        await client.close()

    def _away(
        self, error: Exception, *, starting: bool = False, counted: bool = True, began: float = math.inf
    ) -> BusError:
        """Return the error that is told, and note it in the breaker."""
        text = f"server {self.server.name}: {self._redact(str(error))[:LONGEST_REASON]}"
        self._note_trouble(text)
        cause = cause_of(error) or ("away" if starting else None)
        if cause is not None and counted:
            # Nobody gets further without a connection: what it costs to find that out is enough once.
            self.breaker.failed(self, cause, text, at_once=starting and cause != "away", began=began)
        return DeadlineExceeded(text) if is_late(error) else BadGateway(text)

    def late(self, timeout: float) -> BusError:
        """Return the error of a request that was given up after `timeout` seconds; a start has its own time."""
        if self._starting is not None:
            text = f"server {self.server.name} is still starting: no connection within {timeout:.1f} s"
            return DeadlineExceeded(text)
        return self._away(McpTransportError(f"no answer within {timeout:g} s", sent=True))

    def mark_faulty(self, reason: str) -> None:
        """Leave the server out of lists from now on, until the breaker's probe reaches it again."""
        if self.fault is None:
            log.warning("upstream away", server=self.server.name, reason=reason)
        self._set_fault(reason)
        self.breaker.watch(self)

    async def try_again(self) -> bool:
        """Tell whether the server is reached: by a new connection, or by a greeting on one that is in use."""
        if self._client is not None and not self.running:
            await self._drop(self._client)
        try:
            if self._client is not None:
                await self._greet(self._client)
            await self._started()
            self._set_fault(None)
        except (BadGateway, DeadlineExceeded) as error:
            self._set_fault(str(error))
        except BusError:
            self._set_fault(None)  # the last caller may not connect any more: let the next one try
        return self.fault is None

    async def _greet(self, client: Client) -> None:
        """Return when a server answers on a connection that is in use. Raises `BadGateway`, `DeadlineExceeded`."""
        legacy = client.server is not None and client.server.era == "legacy"
        method, params = ("ping", None) if legacy else ("server/discover", b'{"_meta":{' + MODERN_MEMBERS + b"}}")
        try:
            await client.request(method, params, timeout=GREETING_SECONDS)
        except McpSessionLost:
            await self._drop(client)
        except (McpTransportError, McpWireError) as error:
            raise self._away(error, counted=not is_late(error)) from error  # it may be busy with what runs

    def _set_fault(self, reason: str | None) -> None:
        turned = (reason is None) != (self.fault is None)
        self.fault = reason
        if reason is None:
            self.trouble = None
            self.breaker.mended(self)
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
        client = self._ready
        return None if client is None else client.server

    async def rest(self) -> None:
        """Close the connection; the next request opens another."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def close(self) -> None:
        self._closed = True
        self.breaker.forget(self)
        if self._starting is not None:
            await cancel(self._starting)
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
        self.on_turned: list[Callable[[Breaker], None]] = []
        """Hear of each breaker that opens or closes."""

        self._rules = Rules.of(settings)
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._live: dict[tuple[str, str, str], Upstream] = {}
        self._retired: set[Upstream] = set()
        self._tasks = Tasks()

    def get(
        self,
        server: UpstreamServer,
        state: str,
        authority: Authority,
        era: Era,
        capabilities: bytes,
        elsewhere: Callable[[], SiteClient] | None = None,
    ) -> Upstream:
        """Return the upstream of a server; a newer revision replaces the older one, which ends when it is idle.

        `state` names whose state it is, where the server is isolated (else ""). `era` and `capabilities` are those of
        whoever comes first. `elsewhere` makes the way to a server that is placed on a site, for one caller: who that
        is stands in `state` then.
        """
        key = (server.name, server.revision, state)
        upstream = self._live.get(key)
        if upstream is not None:
            upstream.authority = authority
        else:
            prefer = era if server.isolation == "session" else "modern"
            upstream = Upstream(
                server,
                self._unseal,
                authority,
                self._logs,
                self._others,
                capabilities,
                self._bounds,
                self._breaker(server),
                prefer=prefer,
                elsewhere=elsewhere,
            )
            self._live[key] = upstream
            for old in [k for k in self._live if k[0] == server.name and k[1] != server.revision]:
                self._tasks.start(self._retire(self._live.pop(old)))
        return upstream

    def _breaker(self, server: UpstreamServer) -> Breaker:
        key = (server.name, server.revision)
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = Breaker(server.name, self._rules, self._tell_turned)
        return breaker

    def _tell_turned(self, breaker: Breaker) -> None:
        for heard in self.on_turned:
            heard(breaker)

    def breakers(self) -> Iterator[tuple[str, Breaker]]:
        """Yield the breakers of all servers that are in use, by the servers' names."""
        for (server, _), breaker in self._breakers.items():
            yield server, breaker

    async def fitting(self, upstream: Upstream, era: Era, capabilities: bytes, timeout: float) -> Upstream:
        """Return the upstream for a client of this era and with these capabilities.

        A server that speaks both eras is spoken to in its client's: what it may ask of a client can depend on that. A
        server of a handshake revision is told the capabilities once, so it needs a connection for each set of them.
        Raises `BusError` where the server is away, or does not start within `timeout` seconds.
        """
        if upstream.era is None:
            await upstream.connected(timeout)
        if upstream.server.isolation == "session":
            return upstream
        if upstream.era == "legacy":
            return upstream if upstream.capabilities == capabilities else self._variant(upstream, capabilities)
        if era == "modern" or capabilities == NOTHING or upstream.speaks_modern_only:
            return upstream
        other = self._variant(upstream, capabilities)
        if other.era is None:
            await other.connected(timeout)
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
                upstream.breaker,
                prefer="legacy",
                changes=upstream.changes,
            )
            other.era = "legacy" if upstream.era == "legacy" else None  # of the other era, it is not known yet
            self._live[key] = other
        other.authority = upstream.authority
        other.share(upstream.changes)  # a connection that was idle has left others behind
        return other

    def measures(self) -> Iterator[metrics.Measured]:
        """Yield what metrics tell of the servers."""
        for upstream in self._live.values():
            name, stdio = upstream.server.name, upstream.server.transport == "stdio"
            yield measured.UPSTREAMS, 1, (name, "up" if upstream.trouble is None else "away")
            yield measured.STDIO, int(stdio and upstream.reached is not None), ()
        for name, breaker in self.breakers():
            yield measured.BREAKERS, BREAKER_STATES.index(breaker.state), (name,)

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
            used = {upstream.breaker for upstream in (*self._live.values(), *self._retired)}
            self._breakers = {key: breaker for key, breaker in self._breakers.items() if breaker in used}

    async def close(self) -> None:
        await self._tasks.cancel()
        await asyncio.gather(*(upstream.close() for upstream in (*self._live.values(), *self._retired)))
        await asyncio.gather(*(breaker.close() for breaker in self._breakers.values()))
        self._live.clear()
