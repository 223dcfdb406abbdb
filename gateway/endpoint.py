"""The MCP endpoint: `/projects/<project>/mcp`, and `…/servers/<server>/mcp` for a single server of it."""

import re
import time

import orjson
import structlog
from aiohttp import web
from msgspec import UNSET

from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts.session import OpenSession, Session
from mcpctl.bus.errors import BusError, NotFound, TooLarge, Unauthenticated, Unavailable
from mcpctl.bus.mcp_messages import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY,
    METHOD_NOT_FOUND,
    Envelope,
    Params,
    decode_fields,
    error_body,
    response,
    same_id,
)
from mcpctl.bus.principals import Principals
from mcpctl.bus.service import Endpoint
from mcpctl.gateway import legacy, modern
from mcpctl.gateway.admission import Admission, Exchange
from mcpctl.gateway.dataplane import DataPlane
from mcpctl.gateway.hosts import Hosts
from mcpctl.gateway.relay import Relay, result_of
from mcpctl.gateway.sessions import Sessions
from mcpctl.gateway.settings import GatewaySettings
from mcpctl.gateway.wire import (
    EVENT_STREAM,
    JSON,
    NO_ID,
    Fault,
    accepted,
    accepts,
    fault_of,
    json_response,
    params_of,
    read_message,
    read_params,
    render,
)

log = structlog.get_logger()

SESSION_ID = "Mcp-Session-Id"
_SESSION_ID = re.compile(r"[\x21-\x7e]{1,256}\Z")
LEGACY_METHODS = modern.METHODS - {"server/discover"}


class McpEndpoint:
    """Parses HTTP, asks the bus, renders the answer; what may be done is decided behind the bus."""

    def __init__(self, bus: Bus, settings: GatewaySettings, counts: Endpoint) -> None:
        self._counts = counts
        self.principals = Principals(
            bus, positive_ttl_ms=settings.token_positive_ttl_ms, negative_ttl_ms=settings.token_negative_ttl_ms
        )
        self.sessions = Sessions(bus)
        self.plane = DataPlane(bus)
        self.audit = AuditWriter(bus.client, bus.caller)
        self.admission = Admission(Hosts(settings), self.principals, self.audit, bus.caller)
        self._relay = Relay(self.plane, bus.caller, settings.call_timeout_ms)
        tokens = self.principals.follower
        tokens.on_change.append(self._end_revoked)
        tokens.on_lapse.append(self._end_all)

    def _end_revoked(self, change: Change) -> None:
        if change.action in ("revoked", "removed"):
            self.plane.end_where(lambda p: p.depends_on(change.kind, change.key), Unauthenticated("revoked"))

    def _end_all(self) -> None:
        self.plane.end_where(lambda _: True, Unavailable("what the caller may do can no longer be confirmed"))

    # --- HTTP methods ---

    async def post(self, request: web.Request) -> web.StreamResponse:
        """Carry one JSON-RPC message to the bus, and its answer back."""
        started = time.perf_counter()
        answer = await self._post(request)
        error = f"HTTP {answer.status}" if answer.status >= 500 else ""
        self._counts.count(time.perf_counter() - started, error)
        return answer

    async def _post(self, request: web.Request) -> web.StreamResponse:
        try:
            exchange = await self.admission.admit(request)
            message, request_id = await self._read(request)
            params = read_params(message, request_id)
            if _is_modern(request, params):
                return await self._post_modern(exchange, message, request_id, params)
            return await self._post_legacy(exchange, message, request_id, params)
        except Fault as fault:
            return render(fault)
        except Exception:
            log.exception("request failed", path=request.path)
            return render(Fault(500, INTERNAL_ERROR, "internal error; the gateway's log has the details"))

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Refuse: neither era is owed a stream here."""
        return await self._refuse_method(request, "POST, DELETE")

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """End a legacy session: every replica answers 404 to its id from then on."""
        if request.headers.get("MCP-Protocol-Version") not in (None, *LEGACY):
            return await self._refuse_method(request, "POST")
        try:
            exchange = await self.admission.admit(request)
            session_id = _session_id(request)
            await self._find_session(exchange, session_id)
            await self.sessions.close(session_id, exchange.bearer)
        except Fault as fault:
            return render(fault)
        except NotFound:
            return render(_no_session(NO_ID))
        except BusError as error:
            return render(fault_of(error))
        return web.Response(status=204)

    async def other(self, request: web.Request) -> web.StreamResponse:
        return await self._refuse_method(request, "POST, DELETE")

    async def _refuse_method(self, request: web.Request, allow: str) -> web.StreamResponse:
        try:
            await self.admission.admit(request)
        except Fault as fault:
            return render(fault)
        text = f"{request.method} is not served here"
        return render(Fault(405, INVALID_REQUEST, text, headers={"Allow": allow}))

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
            body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise fault_of(TooLarge("the request body is longer than this gateway takes")) from error
        return read_message(body)

    # --- the modern era ---

    async def _post_modern(
        self, exchange: Exchange, message: Envelope, request_id: bytes | None, params: Params
    ) -> web.StreamResponse:
        if message.method is UNSET:
            raise Fault(400, INVALID_REQUEST, "a response is not expected here")
        if request_id is None:
            return accepted()
        exchange.request_id = request_id
        modern.check(exchange.http, message.method, request_id, params)
        return await self._relay.relay(exchange, message.method, params_of(message))

    # --- the legacy era ---

    async def _post_legacy(
        self, exchange: Exchange, message: Envelope, request_id: bytes | None, params: Params
    ) -> web.StreamResponse:
        request = exchange.http
        exchange.request_id = request_id or NO_ID
        if not accepts(request, JSON, EVENT_STREAM):
            raise Fault(406, INVALID_REQUEST, "Accept must admit application/json and text/event-stream")
        if message.method == "initialize" and request_id is not None:
            if SESSION_ID in request.headers:
                raise Fault(400, INVALID_REQUEST, "this session is initialized already", request_id=request_id)
            return await self._initialize(exchange, message)
        session_id = _session_id(request, exchange.request_id)
        try:
            exchange.session = await self._find_session(exchange, session_id)
        except BusError as error:
            raise fault_of(error, exchange.request_id) from error
        if message.method is UNSET or request_id is None:
            await self._take_notification(exchange, message)
            return accepted()
        return await self._legacy_request(exchange, session_id, message, params)

    async def _find_session(self, exchange: Exchange, session_id: str) -> Session:
        try:
            return await self.sessions.find(session_id, exchange.bearer, exchange.project, exchange.server)
        except NotFound as error:
            raise _no_session(exchange.request_id) from error

    async def _legacy_request(
        self, exchange: Exchange, session_id: str, message: Envelope, params: Params
    ) -> web.StreamResponse:
        method, session = message.method, exchange.session
        if method == "ping":
            return json_response(response(exchange.request_id, result=b"{}"))
        if method == "logging/setLevel":
            return await self._set_log_level(exchange, session_id, message)
        if method not in LEGACY_METHODS or session is None:
            return json_response(
                response(exchange.request_id, error=error_body(METHOD_NOT_FOUND, f"Method not found: {method}"))
            )
        return await self._relay.relay(exchange, str(method), legacy.modern_params(params_of(message), params, session))

    async def _set_log_level(self, exchange: Exchange, session_id: str, message: Envelope) -> web.StreamResponse:
        level = orjson.loads(params_of(message)).get("level")
        try:
            await self.sessions.set_log_level(session_id, exchange.bearer, level)
        except ValueError:
            error = error_body(INVALID_PARAMS, "level is none of the eight levels of RFC 5424")
            return json_response(response(exchange.request_id, error=error))
        except BusError as error:
            raise fault_of(error, exchange.request_id) from error
        return json_response(response(exchange.request_id, result=b"{}"))

    async def _take_notification(self, exchange: Exchange, message: Envelope) -> None:
        if message.method != "notifications/cancelled" or exchange.session is None:
            return
        params = decode_fields(params_of(message))
        if "requestId" in params:
            await self.plane.cancel_request(exchange.session.key, same_id(bytes(params["requestId"])))

    async def _initialize(self, exchange: Exchange, message: Envelope) -> web.StreamResponse:
        asked = orjson.loads(params_of(message))
        version = legacy.negotiated(asked.get("protocolVersion"))
        params = b'{"_meta":{' + legacy.meta_members(None) + b"}}"
        try:
            call = await self._relay.ask(exchange, "server/discover", params)
            found = await result_of(call)
            session_id = await self.sessions.open(
                OpenSession(
                    bearer=exchange.bearer,
                    project=exchange.project,
                    server=exchange.server,
                    version=version,
                    client_info=orjson.dumps(asked.get("clientInfo") or {}).decode(),
                    capabilities=orjson.dumps(asked.get("capabilities") or {}).decode(),
                )
            )
        except BusError as error:
            raise fault_of(error, exchange.request_id) from error
        except ValueError as error:
            raise Fault(
                400, INVALID_PARAMS, "clientInfo or capabilities is too large", request_id=exchange.request_id
            ) from error
        answer = json_response(response(exchange.request_id, result=legacy.initialize_result(found, version)))
        answer.headers[SESSION_ID] = session_id
        return answer


def _is_modern(request: web.Request, params: Params) -> bool:
    if params.meta and params.meta.version is not UNSET:
        return True
    return request.headers.get("MCP-Protocol-Version") not in (None, *LEGACY)


def _session_id(request: web.Request, request_id: bytes = NO_ID) -> str:
    session_id = request.headers.get(SESSION_ID)
    if session_id is not None and not _SESSION_ID.match(session_id):
        raise _no_session(request_id)
    if session_id is None:
        text = "neither a session (initialize first) nor the _meta and headers of a stateless request"
        raise Fault(400, INVALID_REQUEST, text, request_id=request_id)
    return session_id


def _no_session(request_id: bytes) -> Fault:
    return Fault(404, INVALID_REQUEST, "no such session: initialize again", request_id=request_id)
