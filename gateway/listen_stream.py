"""`subscriptions/listen` of a stateless client: one stream of changes (2026-07-28, basic/utilities/subscriptions)."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from aiohttp import web

from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError, Cancelled
from mcpctl.bus.mcp_messages import response
from mcpctl.gateway.admission import Exchange
from mcpctl.gateway.conversation import answer_of
from mcpctl.gateway.dataplane import LISTEN
from mcpctl.gateway.listening import Listening, result_with_subscription, with_subscription
from mcpctl.gateway.live_call import Frame
from mcpctl.gateway.relay import Relay
from mcpctl.gateway.streaming import EventStream, cut_off
from mcpctl.gateway.wire import fault_of, json_response


class ListenStreams:
    """All such streams of one gateway."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._open: dict[Listening, Principal] = {}

    async def listen(self, exchange: Exchange, params: bytes) -> web.StreamResponse:
        """Write what is heard until the listen ends, or the client hangs up. Raises `Fault` where it does not begin."""
        ask = partial(self._relay.ask, exchange, LISTEN)
        listening = Listening(ask, params, cut_off=cut_off(exchange.http))
        self._open[listening] = exchange.principal
        try:
            call = await ask(params)
            call.eager = True
            listening.adopt(call)
            frame = await call.next()
            if frame is not None and frame.kind == "end":
                return json_response(*_answer(exchange, frame))
            if frame is not None:
                listening.put_back(frame)
            return await _stream(exchange, listening)
        except BusError as error:
            raise fault_of(error, exchange.request_id) from error
        finally:
            del self._open[listening]
            await listening.close()

    def stop(self) -> None:
        """End all streams in good order: their clients find another gateway."""
        for listening in list(self._open):
            listening.end(Cancelled("the gateway is stopping"))

    def end_where(self, concerns: Callable[[Principal], bool], failure: BusError) -> None:
        for listening, principal in list(self._open.items()):
            if concerns(principal):
                listening.end(failure)


async def _stream(exchange: Exchange, listening: Listening) -> web.StreamResponse:
    stream: EventStream | None = None
    with suppress(ConnectionError):
        stream = await EventStream.open(exchange.http)
        await _write(stream, exchange, listening)
        await stream.close()
    return stream.http if stream is not None else web.Response(status=499)


async def _write(stream: EventStream, exchange: Exchange, listening: Listening) -> None:
    try:
        while True:
            frame = await listening.next()
            if frame is None:
                await stream.keep_alive()
            elif frame.kind == "end":
                await stream.send(_answer(exchange, frame)[0])
                return
            else:
                await stream.send(with_subscription(frame.body, exchange.request_id))
    except Cancelled:  # the gateway is stopping
        await stream.send(_answer(exchange, Frame("end", b'{"resultType":"complete"}'))[0])
    except BusError as error:
        await stream.send(response(exchange.request_id, error=fault_of(error).body))


def _answer(exchange: Exchange, frame: Frame) -> tuple[bytes, int]:
    if not frame.error:
        frame = Frame("end", result_with_subscription(frame.body, exchange.request_id))
    return answer_of(exchange, frame)
