"""`GET` with `Last-Event-ID`: the rest of a stream, from whichever gateway holds it (2025-11-25, basic/transports)."""

from contextlib import suppress

from aiohttp import web

from mcpctl.bus import peer_frames
from mcpctl.bus.errors import BusError, Forbidden, NotFound, Unavailable
from mcpctl.bus.mcp_messages import INTERNAL_ERROR, INVALID_REQUEST, error_body, response
from mcpctl.gateway.admission import Exchange
from mcpctl.gateway.dataplane import DataPlane
from mcpctl.gateway.event_log import EventId, EventLogs
from mcpctl.gateway.live_call import LiveCall
from mcpctl.gateway.relay import write_log
from mcpctl.gateway.streaming import EventStream, cut_off
from mcpctl.gateway.wire import UNKNOWN_ID, Fault, fault_of

GONE = "the rest of this stream is lost; the request may have been carried out"


class Resuming:
    """Resumes the streams of calls: from the logs of this gateway, or from another gateway's."""

    def __init__(self, logs: EventLogs, plane: DataPlane) -> None:
        self._logs, self._plane = logs, plane

    async def resume(self, exchange: Exchange, last: EventId) -> web.StreamResponse:
        """Write the events after an id. Raises `Fault` for another session's."""
        if last.gateway == self._logs.gateway:
            return await self._resume_here(exchange, last)
        session = exchange.session
        if session is None:
            raise AssertionError("only a session's stream has ids")
        ask = peer_frames.Resume(session.key, last.stream, last.number, exchange.bearer)
        try:
            call = await self._plane.ask_gateway(last.gateway, ask, exchange.principal)
        except BusError as error:
            raise fault_of(error) from error
        call.session, call.eager = session.key, True
        call.cut_off = cut_off(exchange.http)
        try:
            return await self._relay(exchange, last, call)
        finally:
            await call.cancel()

    async def _resume_here(self, exchange: Exchange, last: EventId) -> web.StreamResponse:
        log = self._logs.find(last.stream)
        if log is None:
            return await self._say_lost(exchange, last)
        if exchange.session is None or (log.session, log.owner) != (exchange.session.key, exchange.session.owner):
            raise _foreign()
        return await write_log(exchange.http, log, last.number)

    async def _relay(self, exchange: Exchange, last: EventId, call: LiveCall) -> web.StreamResponse:
        stream: EventStream | None = None
        try:
            frame = await call.next()
            while frame is None or frame.kind == "msg":
                if stream is None:
                    stream = await EventStream.open(exchange.http)
                    await stream.prime(_id(last, last.number))
                if frame is None:
                    await stream.keep_alive()
                else:
                    number, _, message = frame.body.partition(b"\n")
                    await stream.send(message, _id(last, int(number)))
                frame = await call.next()
        except ConnectionError:
            return stream.http if stream is not None else web.Response(status=499)
        except (NotFound, Unavailable):
            return await self._say_lost(exchange, last, stream)
        except BusError as error:
            if stream is None:
                raise _foreign() if isinstance(error, Forbidden) else fault_of(error) from error
            with suppress(ConnectionError):
                await stream.send(response(last.request_id or UNKNOWN_ID, error=fault_of(error).body))
        stream = stream or await EventStream.open(exchange.http)
        with suppress(ConnectionError):
            await stream.close()
        return stream.http

    async def _say_lost(
        self, exchange: Exchange, last: EventId, stream: EventStream | None = None
    ) -> web.StreamResponse:
        """Answer the request itself with an error: its client would wait for ever."""
        error = error_body(INTERNAL_ERROR, GONE)
        stream = stream or await EventStream.open(exchange.http)
        with suppress(ConnectionError):
            await stream.send(response(last.request_id or UNKNOWN_ID, error=error))
            await stream.close()
        return stream.http


def _id(last: EventId, number: int) -> str:
    return EventId.prefix(last.gateway, last.stream) + str(number) + EventId.suffix(last.request_id or b"")


def _foreign() -> Fault:
    return Fault(400, INVALID_REQUEST, "Last-Event-ID names no stream of this session")
