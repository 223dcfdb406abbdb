"""What a client of a handshake revision may ask: within the session that it opened with `initialize`."""

import re

import orjson
from aiohttp import web
from msgspec import UNSET

from mcpctl.bus.contracts.session import OpenSession, Session
from mcpctl.bus.errors import BadRequest, BusError, Conflict, NotFound
from mcpctl.bus.mcp_messages import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Envelope,
    Params,
    decode_fields,
    error_body,
    response,
    same_id,
)
from mcpctl.gateway import legacy, modern
from mcpctl.gateway.admission import Exchange
from mcpctl.gateway.dataplane import LISTEN
from mcpctl.gateway.peers import Peers
from mcpctl.gateway.relay import Relay, result_of
from mcpctl.gateway.sessions import Sessions
from mcpctl.gateway.wire import (
    EVENT_STREAM,
    JSON,
    NO_ID,
    Fault,
    accepted,
    accepts,
    fault_of,
    json_response,
    no_session,
    params_of,
)

SESSION_ID = "Mcp-Session-Id"
_SESSION_ID = re.compile(r"[\x21-\x7e]{1,256}\Z")
METHODS = modern.METHODS - {"server/discover", LISTEN}
SUBSCRIBING = {"resources/subscribe": True, "resources/unsubscribe": False}


def session_id_of(request: web.BaseRequest, request_id: bytes = NO_ID) -> str:
    """Return the session that a request names. Raises `Fault`."""
    session_id = request.headers.get(SESSION_ID)
    if session_id is not None and not _SESSION_ID.match(session_id):
        raise no_session(request_id)
    if session_id is None:
        text = "no Mcp-Session-Id: send the one from initialize, or the _meta and headers of a stateless request"
        raise Fault(400, INVALID_REQUEST, text, request_id=request_id)
    return session_id


class LegacyRequests:
    """Serves what is posted in the older eras."""

    def __init__(self, sessions: Sessions, relay: Relay, peers: Peers) -> None:
        self._sessions, self._relay, self._peers = sessions, relay, peers

    async def post(
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
        session = await self.enter(exchange)
        if message.method is UNSET:
            await self._peers.hand_over(session, exchange.bearer, message, await request.read())
            return accepted()
        if request_id is None:
            await self._take_notification(session, message)
            return accepted()
        return await self._answer(exchange, session, message, params)

    async def enter(self, exchange: Exchange) -> Session:
        """Find the session of a request. Raises `Fault`: 400 without one, 404 for one that is not its bearer's."""
        exchange.session_id = session_id_of(exchange.http, exchange.request_id)
        try:
            exchange.session = await self._sessions.find(
                exchange.session_id, exchange.bearer, exchange.project, exchange.server
            )
        except NotFound as error:
            raise no_session(exchange.request_id) from error
        except BusError as error:
            raise fault_of(error, exchange.request_id) from error
        return exchange.session

    async def _answer(
        self, exchange: Exchange, session: Session, message: Envelope, params: Params
    ) -> web.StreamResponse:
        method = str(message.method)
        if method in METHODS:
            return await self._relay.relay(exchange, method, legacy.modern_params(params_of(message), params, session))
        try:
            if method == "logging/setLevel":
                return await self._set_log_level(exchange, message)
            if method in SUBSCRIBING:
                return await self._subscribe(exchange, params, subscribed=SUBSCRIBING[method])
        except BadRequest as error:
            return _error(exchange, INVALID_PARAMS, str(error))
        except BusError as error:
            raise fault_of(error, exchange.request_id) from error
        if method == "ping":
            return _done(exchange)
        return _error(exchange, METHOD_NOT_FOUND, f"Method not found: {method}")

    async def _set_log_level(self, exchange: Exchange, message: Envelope) -> web.StreamResponse:
        level = orjson.loads(params_of(message)).get("level")
        try:
            await self._sessions.set_log_level(exchange.session_id, exchange.bearer, level)
        except ValueError:
            return _error(exchange, INVALID_PARAMS, "level is none of the eight levels of RFC 5424")
        return _done(exchange)

    async def _subscribe(self, exchange: Exchange, params: Params, *, subscribed: bool) -> web.StreamResponse:
        if params.uri is UNSET:
            return _error(exchange, INVALID_PARAMS, "params.uri is missing")
        try:
            session = await self._sessions.set_subscription(
                exchange.session_id, exchange.bearer, params.uri, subscribed=subscribed
            )
        except ValueError:
            return _error(exchange, INVALID_PARAMS, "params.uri is too long")
        except Conflict as error:
            return _error(exchange, INVALID_PARAMS, str(error))
        await self._peers.renew(session, exchange.principal)
        return _done(exchange)

    async def _take_notification(self, session: Session, message: Envelope) -> None:
        if message.method != "notifications/cancelled":
            return
        params = decode_fields(params_of(message))
        if "requestId" in params:
            await self._peers.withdraw(session.key, same_id(bytes(params["requestId"])))

    async def _initialize(self, exchange: Exchange, message: Envelope) -> web.StreamResponse:
        asked = orjson.loads(params_of(message))
        version = legacy.negotiated(asked.get("protocolVersion"))
        params = b'{"_meta":{' + legacy.meta_members(None) + b"}}"
        try:
            call = await self._relay.ask(exchange, "server/discover", params)
            found = await result_of(call)
            session_id = await self._sessions.open(
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
            text = "clientInfo or capabilities is too large"
            raise Fault(400, INVALID_PARAMS, text, request_id=exchange.request_id) from error
        answer = json_response(response(exchange.request_id, result=legacy.initialize_result(found, version)))
        answer.headers[SESSION_ID] = session_id
        return answer


def _done(exchange: Exchange) -> web.Response:
    return json_response(response(exchange.request_id, result=b"{}"))


def _error(exchange: Exchange, code: int, text: str) -> web.Response:
    return json_response(response(exchange.request_id, error=error_body(code, text)))
