"""One request of a client from its first notification to its response, with what its server asks meanwhile."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
import structlog

from mcpctl.bus.errors import BadGateway, BusError, Cancelled, NotFound
from mcpctl.bus.mcp_messages import INTERNAL_ERROR, Fields, decode_fields, error_body, response, same_id
from mcpctl.gateway import legacy
from mcpctl.gateway.admission import Exchange
from mcpctl.gateway.dataplane import DataPlane
from mcpctl.gateway.live_call import Frame, LiveCall
from mcpctl.gateway.server_requests import Round, ServerRequests
from mcpctl.gateway.wire import fault_of, status_of

log = structlog.get_logger()

ROUNDS = 10
"""Times that a server may ask during one request of a legacy client."""


class Sink(Protocol):
    """Where the messages go: a client's stream, or the log of one."""

    async def send(self, message: bytes) -> None: ...

    async def keep_alive(self) -> None: ...


def is_over(exchange: Exchange, frame: Frame | None) -> bool:
    """Tell whether a frame is the answer for this client, and not a notification or a question to it."""
    if frame is None or frame.kind != "end":
        return False
    return frame.error or exchange.session is None or not legacy.asks_for_input(frame.body)


def answer_of(exchange: Exchange, frame: Frame) -> tuple[bytes, int]:
    """Return the JSON-RPC response of an `end` frame, and its HTTP status."""
    if frame.error:
        status = 200 if exchange.is_legacy else status_of(frame.body)
        return response(exchange.request_id, error=frame.body), status
    result = legacy.legacy_result(frame.body) if exchange.is_legacy else frame.body
    return response(exchange.request_id, result=result), 200


class Conversation:
    """Goes on after the first frame of `call`; `ask` sends the params of a further request of the same method."""

    def __init__(
        self,
        exchange: Exchange,
        params: bytes,
        call: LiveCall,
        *,
        ask: Callable[[bytes], Awaitable[LiveCall]],
        plane: DataPlane,
        requests: ServerRequests,
        state_lost: Callable[[Exchange], Awaitable[None]],
    ) -> None:
        self._exchange, self._params, self._call = exchange, params, call
        self._ask, self._plane, self._requests = ask, plane, requests
        self._state_lost = state_lost
        self._round: Round | None = None
        self._asking = False

    async def run(self, sink: Sink, frame: Frame | None) -> None:
        """Send everything from the first frame on. The last message is the response, unless the call was cancelled."""
        exchange = self._exchange
        try:
            end = await self._until_end(sink, frame)
            rounds = 0
            while not is_over(exchange, end):
                rounds += 1
                if rounds > ROUNDS:
                    raise BadGateway(f"the server asked its client more than {ROUNDS} times")
                end = await self._until_end(sink, await self._ask_client(sink, end))
            await sink.send(answer_of(exchange, end)[0])
        except Cancelled:
            return
        except BusError as error:
            await sink.send(response(exchange.request_id, error=fault_of(error).body))
            if isinstance(error, NotFound):
                await self._state_lost(exchange)  # which ends what may be sent
        except ConnectionError:
            raise
        except Exception:  # the stream is open: whatever it is, the client is owed an answer on it
            log.exception("request failed")
            await sink.send(response(exchange.request_id, error=error_body(INTERNAL_ERROR, "internal error")))
        finally:
            await self._leave()

    async def _until_end(self, sink: Sink, frame: Frame | None) -> Frame:
        while frame is None or frame.kind == "msg":
            if frame is None:
                await sink.keep_alive()
            else:
                await sink.send(frame.body)
            frame = await self._call.next()
        return frame

    async def _ask_client(self, sink: Sink, frame: Frame) -> Frame | None:
        """Have the client asked, and ask the server again with what it answered."""
        exchange, result = self._exchange, decode_fields(frame.body)
        if exchange.session is None:
            raise AssertionError("a stateless client answers by itself")
        self._asking = True
        request_id = same_id(exchange.request_id)
        try:
            asked = decode_fields(result.get("inputRequests", msgspec.Raw(b"{}")))
            begun = self._round = self._requests.begin(exchange.session, exchange.principal, request_id, asked)
        except msgspec.DecodeError as error:
            raise BadGateway("the server asks for what is no request") from error
        for message in begun.messages:
            await sink.send(message)
        answers: Fields | None = None
        while answers is None:
            answers = await begun.answers()
            if answers is None:
                await sink.keep_alive()
        for message in begun.withdrawn:
            await sink.send(message)
        begun.close()
        cut_off = self._call.cut_off
        self._call = await self._ask(legacy.with_answers(self._params, answers, result))
        self._call.cut_off = cut_off
        self._asking = False
        return await self._call.next()

    async def _leave(self) -> None:
        await self._call.cancel()
        if self._round is not None:
            self._round.close()
        session = self._exchange.session
        if session is not None and self._asking:  # no call is running: whichever router keeps the upstream's is meant
            await self._plane.cancel_request(session.key, same_id(self._exchange.request_id))
