"""From the bus to HTTP: a request goes out, and what comes back is JSON or a stream of events."""

import random
from contextlib import suppress
from functools import partial

from aiohttp import web

from mcpctl.bus.context import trace_of
from mcpctl.bus.errors import BadGateway, BusError, Cancelled, NotFound
from mcpctl.bus.frames import Request
from mcpctl.bus.mcp_messages import same_id
from mcpctl.gateway import legacy
from mcpctl.gateway.admission import Exchange
from mcpctl.gateway.conversation import Conversation, answer_of, is_over
from mcpctl.gateway.dataplane import LISTEN, DataPlane
from mcpctl.gateway.event_log import EventLog, EventLogs
from mcpctl.gateway.live_call import Frame, LiveCall
from mcpctl.gateway.server_requests import ServerRequests
from mcpctl.gateway.sessions import Sessions
from mcpctl.gateway.streaming import EventStream, cut_off
from mcpctl.gateway.wire import fault_of, json_response, no_session


class Relay:
    """Carries requests to the routers in the name of one gateway, `budget` milliseconds for each."""

    def __init__(
        self, plane: DataPlane, sessions: Sessions, requests: ServerRequests, logs: EventLogs, budget: int
    ) -> None:
        self._plane, self._sessions, self._requests, self._logs = plane, sessions, requests, logs
        self._gateway, self._budget = logs.gateway, budget

    async def ask(self, exchange: Exchange, method: str, params: bytes) -> LiveCall:
        """Send a request to the routers. Raises `BusError`."""
        session, correlation = exchange.session, f"{random.getrandbits(96):024x}"
        if method == LISTEN:
            correlation = exchange.stream = exchange.stream or correlation
        head = Request(
            bearer=exchange.bearer,
            project=exchange.project,
            method=method,
            budget=self._budget,
            correlation=correlation,
            server=exchange.server,
            era="legacy" if session is not None else "modern",
            session=session.key if session is not None else None,
            request_id=same_id(exchange.request_id) if session is not None and exchange.request_id else None,
            trace=trace_of(exchange.http.headers.get("traceparent")),
            gateway=self._gateway,
            headers=exchange.param_headers,
        )
        return await self._plane.call(head, params, exchange.principal)

    async def relay(self, exchange: Exchange, method: str, params: bytes) -> web.StreamResponse:
        """Send a request and render what comes back: JSON, or a stream once something comes before the result."""
        try:
            call = await self.ask(exchange, method, params)
        except BusError as error:
            raise fault_of(error, exchange.request_id) from error
        session = exchange.session
        call.eager = session is not None and session.version == legacy.RESUMABLE
        try:
            frame = await call.next()
            if frame is not None and is_over(exchange, frame):
                return json_response(*answer_of(exchange, frame))
        except Cancelled:
            stream = await EventStream.open(exchange.http)
            await stream.close()
            return stream.http
        except BusError as error:
            await call.cancel()
            if isinstance(error, NotFound) and session is not None:
                await self._state_lost(exchange)
                raise no_session(exchange.request_id) from error
            raise fault_of(error, exchange.request_id) from error
        except BaseException:
            await call.cancel()
            raise
        return await self._stream(exchange, method, params, call, frame)

    async def _stream(
        self, exchange: Exchange, method: str, params: bytes, call: LiveCall, frame: Frame | None
    ) -> web.StreamResponse:
        conversation = Conversation(
            exchange,
            params,
            call,
            ask=partial(self.ask, exchange, method),
            plane=self._plane,
            requests=self._requests,
            state_lost=self._state_lost,
        )
        session = exchange.session
        if session is not None and session.version == legacy.RESUMABLE:
            log = self._logs.open(session, exchange.principal, exchange.request_id)
            self._logs.fill(log, conversation.run(log, frame))
            return await write_log(exchange.http, log, 0)
        call.cut_off = cut_off(exchange.http)
        stream: EventStream | None = None
        try:
            stream = await EventStream.open(exchange.http)
            await conversation.run(stream, frame)
            await stream.close()
        except ConnectionError:
            pass
        finally:
            await call.cancel()
        return stream.http if stream is not None else web.Response(status=499)

    async def _state_lost(self, exchange: Exchange) -> None:
        """Close a session whose state has ended with its router: its client is to initialize again."""
        with suppress(BusError):
            await self._sessions.close(exchange.session_id, exchange.bearer)


async def write_log(request: web.Request, log: EventLog, after: int) -> web.StreamResponse:
    """Write the events of a log after a number, and those to come, until the last one or the client's hang-up."""
    reader = log.read(after, cut_off(request))
    http: web.StreamResponse | None = None
    try:
        stream = await EventStream.open(request)
        http = stream.http
        await stream.prime(log.event_id(after))
        while True:
            event = await reader.next()
            if event is None:
                await stream.keep_alive()
            else:
                await stream.send(event[1], log.event_id(event[0]))
    except EOFError:
        with suppress(ConnectionError):
            await stream.close()
    except ConnectionError:
        pass
    finally:
        reader.leave()
    return http if http is not None else web.Response(status=499)


async def result_of(call: LiveCall) -> bytes:
    """Return the result of a call whose notifications nobody waits for. Raises `BusError`."""
    try:
        frame = await call.next()
        while frame is None or frame.kind != "end":
            frame = await call.next()
    finally:
        await call.cancel()
    if frame.error:
        raise BadGateway(
            f"the servers of this project answer with an error: {frame.body[:200].decode(errors='replace')}"
        )
    return frame.body
