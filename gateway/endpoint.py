"""The MCP endpoint: `/projects/<project>/mcp`, and `…/servers/<server>/mcp` for a single server of it."""

import time
from collections.abc import Awaitable, Callable, Iterator

import structlog
from aiohttp import web
from msgspec import UNSET

from mcpctl.bus import measured, metrics
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus
from mcpctl.bus.errors import BusError, NotFound, TooLarge, Unavailable
from mcpctl.bus.mcp_messages import INTERNAL_ERROR, INVALID_REQUEST, LEGACY, Envelope, Params
from mcpctl.bus.metrics import OTHER
from mcpctl.bus.principals import Principals
from mcpctl.bus.service import Endpoint
from mcpctl.gateway import legacy, modern
from mcpctl.gateway.addresses import Addresses
from mcpctl.gateway.admission import Admission, Exchange
from mcpctl.gateway.dataplane import LISTEN, DataPlane
from mcpctl.gateway.endings import Endings
from mcpctl.gateway.event_log import EventId, EventLogs
from mcpctl.gateway.get_stream import GetStreams
from mcpctl.gateway.hosts import Hosts
from mcpctl.gateway.json_limits import JsonLimits
from mcpctl.gateway.legacy_requests import SESSION_ID, LegacyRequests
from mcpctl.gateway.listen_stream import ListenStreams
from mcpctl.gateway.peers import Peers
from mcpctl.gateway.refusals import Refusals
from mcpctl.gateway.relay import Relay
from mcpctl.gateway.resuming import Resuming
from mcpctl.gateway.server_requests import ServerRequests
from mcpctl.gateway.sessions import Sessions
from mcpctl.gateway.settings import GatewaySettings
from mcpctl.gateway.stream_limit import StreamLimit
from mcpctl.gateway.turns import too_busy
from mcpctl.gateway.wire import (
    EVENT_STREAM,
    JSON,
    NO_ID,
    Fault,
    accepted,
    accepts,
    fault_of,
    no_session,
    params_of,
    read_message,
    read_params,
    render,
)

log = structlog.get_logger()

METHODS = frozenset({"GET", "POST", "DELETE"})
MCP = ("mcp",)
REASONS = {401: "bearer", 403: "access", 404: "access", 421: "host", 429: "limit", 503: "unavailable"}
"""What requests are turned away for, by the status of the answer; other statuses are about the request itself."""

Serve = Callable[[web.Request], Awaitable[web.StreamResponse]]


class McpEndpoint:
    """Parses HTTP, asks the bus, renders the answer; what may be done is decided behind the bus."""

    def __init__(self, bus: Bus, settings: GatewaySettings, counts: Endpoint) -> None:
        self._counts = counts
        self.principals = Principals(
            bus, positive_ttl_ms=settings.token_positive_ttl_ms, negative_ttl_ms=settings.token_negative_ttl_ms
        )
        self.sessions = Sessions(bus)
        self.plane = DataPlane(bus, buffer=settings.call_buffer, waiting=settings.waiting_requests)
        self.audit = AuditWriter(bus)
        self.addresses = Addresses(settings.trusted_proxies)
        refusals = Refusals(settings.address_refusals)
        self.admission = Admission(Hosts(settings), self.addresses, refusals, self.principals, self.audit, bus.caller)
        self._body_limit = settings.body_limit
        self._json = JsonLimits(depth=settings.json_depth, digits=settings.number_digits)
        self._open = StreamLimit(settings.token_streams)
        self.logs = EventLogs(bus.caller)
        requests = ServerRequests(bus.caller)
        self._relay = Relay(self.plane, self.sessions, requests, self.logs, settings.call_timeout_ms)
        self._listens = ListenStreams(self._relay)
        self._streams = GetStreams(bus.caller, self.sessions, self._relay.ask)
        self.peers = Peers(bus, self.plane, self.principals, requests, self.logs, self._streams)
        self._resuming = Resuming(self.logs, self.plane)
        self._legacy = LegacyRequests(self.sessions, self._relay, self.peers)
        self._endings = Endings(self.plane, requests, self.logs, self._streams, self._listens)
        self._endings.follow(self.principals.follower, self.sessions.follower)
        metrics.watch(self)

    def measures(self) -> Iterator[metrics.Measured]:
        """Yield what metrics tell of this gateway."""
        yield measured.STREAMS, self._open.count, ()
        yield measured.SESSIONS, self.sessions.count, ()
        yield measured.RUNNING, self.plane.running, ()
        yield measured.WAITING, self.plane.turns.waiting, ()

    # --- HTTP methods ---

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Carry one JSON-RPC message to the bus, and its answer back."""
        started = time.perf_counter()
        answer = await self._guarded(self._post, request)
        if isinstance(answer, web.Response):  # a stream lasts as long as it likes
            measured.HTTP_SECONDS.observe(MCP, time.perf_counter() - started)
        error = f"HTTP {answer.status}" if answer.status >= 500 else ""
        self._counts.count(time.perf_counter() - started, error)
        return answer

    async def _guarded(self, serve: Serve, request: web.Request) -> web.StreamResponse:
        answer = await self._caught(serve, request)
        measured.HTTP_REQUESTS.add(("mcp", request.method if request.method in METHODS else OTHER, str(answer.status)))
        return answer

    async def _caught(self, serve: Serve, request: web.Request) -> web.StreamResponse:
        try:
            answer = await serve(request)
        except Fault as fault:
            measured.REFUSALS.add((REASONS.get(fault.status, "request"),))
            return render(fault)
        except ConnectionError:  # gone, or cut off
            return web.Response(status=499)
        except Exception:
            log.exception("request failed", method=request.method)  # a path may hold anything, a bearer too
            return render(Fault(500, INTERNAL_ERROR, "internal error; the gateway's log has the details"))
        if not answer.prepared and not self.vouches():
            return render(fault_of(Unavailable("what the caller may do can no longer be confirmed")))
        return answer

    def vouches(self) -> bool:
        """Tell whether what is known of bearers may be believed: it is asked before anything is written to a client."""
        return self.principals.follower.trusted

    async def _post(self, request: web.Request) -> web.StreamResponse:
        exchange = await self.admission.admit(request)
        message, request_id = await self._read(request)
        asks = request_id is not None and message.method is not UNSET
        if asks and not self.plane.turns.has_room(exchange.project):
            raise fault_of(too_busy(), request_id or NO_ID)
        params = read_params(message, request_id)
        if _is_modern(request, params):
            return await self._post_modern(exchange, message, request_id, params)
        return await self._legacy.post(exchange, message, request_id, params)

    async def _post_modern(
        self, exchange: Exchange, message: Envelope, request_id: bytes | None, params: Params
    ) -> web.StreamResponse:
        if message.method is UNSET:
            raise Fault(400, INVALID_REQUEST, "a response is not expected here")
        if request_id is None:
            return accepted()
        exchange.request_id = request_id
        method = message.method
        modern.check(exchange.http, method, request_id, params)
        sent = modern.without_tasks(params_of(message))
        if method == LISTEN:
            with self._open.one_more(exchange, object()):
                return await self._listens.listen(exchange, sent)
        if method == "tools/call":
            exchange.param_headers = modern.param_headers(exchange.http, request_id)
        return await self._relay.relay(exchange, method, sent)

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Open a session's stream of changes, or go on with one that broke off."""
        return await self._guarded(self._get, request)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if SESSION_ID not in request.headers or request.headers.get("MCP-Protocol-Version") not in (None, *LEGACY):
            return await self._refuse_method(request, "POST")
        exchange = await self.admission.admit(request)
        if not accepts(request, EVENT_STREAM):
            raise Fault(406, INVALID_REQUEST, "Accept must admit text/event-stream")
        session = await self._legacy.enter(exchange)
        last = request.headers.get("Last-Event-ID") if session.version == legacy.RESUMABLE else None
        event = EventId.parse(last) if last is not None else None
        if event is not None and event.request_id is not None:
            return await self._resuming.resume(exchange, event)
        try:
            with self._open.one_more(exchange, session.key):
                return await self._streams.open(exchange, resumed=last is not None)
        except NotFound as error:
            raise no_session() from error
        except BusError as error:
            raise fault_of(error) from error

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """End a legacy session: every replica answers 404 to its id from then on."""
        return await self._guarded(self._delete, request)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("MCP-Protocol-Version") not in (None, *LEGACY):
            return await self._refuse_method(request, "POST")
        exchange = await self.admission.admit(request)
        await self._legacy.enter(exchange)
        try:
            await self.sessions.close(exchange.session_id, exchange.bearer)
        except NotFound as error:
            raise no_session() from error
        except BusError as error:
            raise fault_of(error) from error
        return web.Response(status=204)

    async def stop_streams(self, _app: web.Application) -> None:
        """End what would last for ever, so that the server can stop."""
        self._streams.stop()
        self._listens.stop()

    async def close(self) -> None:
        """End what runs without a client's connection."""
        await self._endings.close()
        await self._streams.close()
        await self.peers.close()
        await self.logs.close()

    async def other(self, request: web.Request) -> web.StreamResponse:
        return await self._guarded(self._refuse, request)

    async def _refuse(self, request: web.Request) -> web.StreamResponse:
        return await self._refuse_method(request, "POST, GET, DELETE")

    async def _refuse_method(self, request: web.Request, allow: str) -> web.StreamResponse:
        await self.admission.admit(request)
        text = f"{request.method} is not served here"
        raise Fault(405, INVALID_REQUEST, text, headers={"Allow": allow})

    async def _read(self, request: web.Request) -> tuple[Envelope, bytes | None]:
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Fault(
                415,
                INVALID_REQUEST,
                "Content-Encoding is not accepted",
                headers={"Accept-Encoding": "identity"},
            )
        if request.content_type != JSON:
            raise Fault(415, INVALID_REQUEST, "Content-Type must be application/json", headers={"Accept-Post": JSON})
        try:
            if (request.content_length or 0) > self._body_limit:
                raise web.HTTPRequestEntityTooLarge(self._body_limit)
            body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise fault_of(TooLarge("the request body is longer than this gateway takes")) from error
        message = read_message(body)
        self._json.check(body)
        return message


def _is_modern(request: web.Request, params: Params) -> bool:
    if params.meta and params.meta.version is not UNSET:
        return True
    return request.headers.get("MCP-Protocol-Version") not in (None, *LEGACY)
