"""From the bus to HTTP: a request goes out, and what comes back is JSON or a stream of events."""

import random
from contextlib import suppress

from aiohttp import web

from mcpctl.bus.context import trace_of
from mcpctl.bus.errors import BadGateway, BusError, Cancelled
from mcpctl.bus.frames import Request
from mcpctl.bus.mcp_messages import INTERNAL_ERROR, error_body, response, same_id
from mcpctl.gateway import legacy
from mcpctl.gateway.admission import Exchange
from mcpctl.gateway.dataplane import DataPlane, Frame, LiveCall
from mcpctl.gateway.streaming import EventStream
from mcpctl.gateway.wire import fault_of, json_response, status_of


class Relay:
    """Carries requests to the routers in the name of one gateway, `budget` milliseconds for each."""

    def __init__(self, plane: DataPlane, gateway: str, budget: int) -> None:
        self._plane, self._gateway, self._budget = plane, gateway, budget

    async def ask(self, exchange: Exchange, method: str, params: bytes) -> LiveCall:
        """Send a request to the routers. Raises `BusError`."""
        session = exchange.session
        head = Request(
            bearer=exchange.bearer,
            project=exchange.project,
            method=method,
            budget=self._budget,
            correlation=f"{random.getrandbits(96):024x}",
            server=exchange.server,
            era="legacy" if session is not None else "modern",
            session=session.key if session is not None else None,
            request_id=same_id(exchange.request_id) if session is not None else None,
            trace=trace_of(exchange.http.headers.get("traceparent")),
            gateway=self._gateway,
        )
        return await self._plane.call(head, params, exchange.principal)

    async def relay(self, exchange: Exchange, method: str, params: bytes) -> web.StreamResponse:
        """Send a request and render what comes back: JSON, or a stream once something comes before the result."""
        try:
            call = await self.ask(exchange, method, params)
        except BusError as error:
            raise fault_of(error, exchange.request_id) from error
        stream: EventStream | None = None
        try:
            frame = await call.next()
            if frame is not None and frame.kind == "end":
                return json_response(*_answer(exchange, frame))
            transport = exchange.http.transport
            call.cut_off = transport.abort if transport is not None else None
            stream = await EventStream.open(exchange.http)
            while frame is None or frame.kind == "msg":
                if frame is None:
                    await stream.keep_alive()
                else:
                    await stream.send(frame.body)
                frame = await call.next()
            await stream.send(_answer(exchange, frame)[0])
        except Cancelled:
            stream = stream or await EventStream.open(exchange.http)
        except BusError as error:
            fault = fault_of(error, exchange.request_id)
            if stream is None:
                raise fault from error
            await stream.send(response(exchange.request_id, error=fault.body))
        except ConnectionError:
            return stream.http if stream is not None else web.Response(status=499)
        finally:
            await call.cancel()
        with suppress(ConnectionError):
            await stream.close()
        return stream.http


def _answer(exchange: Exchange, frame: Frame) -> tuple[bytes, int]:
    """Return the JSON-RPC response of an `end` frame, and its HTTP status."""
    if frame.error:
        status = 200 if exchange.is_legacy else status_of(frame.body)
        return response(exchange.request_id, error=frame.body), status
    if not exchange.is_legacy:
        return response(exchange.request_id, result=frame.body), 200
    if legacy.asks_for_input(frame.body):
        text = "the server asks the client for input, which a session of this revision does not carry"
        return response(exchange.request_id, error=error_body(INTERNAL_ERROR, text)), 200
    return response(exchange.request_id, result=legacy.legacy_result(frame.body)), 200


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
