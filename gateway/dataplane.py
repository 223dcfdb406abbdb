"""Requests to the routers: one publish out, a numbered row of frames back, no lookup in between."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from mcpctl.bus.connection import Bus, Delivery
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError, DeadlineExceeded, TooLarge, Unavailable
from mcpctl.bus.frames import (
    EVERY_ROUTER,
    FIRST_FRAME_WITHIN,
    SILENCE_LIMIT,
    Cancel,
    Request,
    decode_reply,
    encode,
    mcp_subject,
    router_subject,
)
from mcpctl.bus.identity import inbox_of

BUFFER = 64 * 1024 * 1024
"""Bytes of frames that one call may hold back for a slow client; past that the call ends with an error."""

SWEEP = 0.25
SIGN_OF_LIFE = 15.0
"""Seconds without a frame after which the reader is woken all the same."""

OVERTIME = 5.0
"""Seconds past a call's budget after which the gateway itself gives it up."""


@dataclass(slots=True)
class Frame:
    """What arrived: a notification (a whole message), or the end (a raw result, or a raw JSON-RPC error)."""

    kind: Literal["msg", "end"]
    body: bytes
    error: bool = False


class LiveCall:
    """One call on its way. Ask `next()` until the frame `end`; `cancel()` when nobody reads on."""

    __slots__ = (
        "_buffered",
        "_failure",
        "_frames",
        "_number",
        "_parts",
        "_plane",
        "_waiter",
        "cancelled",
        "cut_off",
        "deadline",
        "ended",
        "head",
        "heard",
        "key",
        "principal",
        "router",
        "started",
        "waiting_since",
    )

    def __init__(self, plane: "DataPlane", key: str, head: Request, principal: Principal) -> None:
        self.key, self.head, self.principal = key, head, principal
        self.started = time.monotonic()
        self.heard: float | None = None
        self.deadline = self.started + head.budget / 1000 + OVERTIME
        self.router: str | None = None
        self.ended = self.cancelled = False
        self._plane = plane
        self._frames: deque[Frame] = deque()
        self._parts: list[bytes] = []
        self._buffered = self._number = 0
        self._failure: BusError | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self.waiting_since = self.started
        self.cut_off: Callable[[], None] | None = None
        """Closes the client's connection; set once something is being written to it."""

    async def next(self) -> Frame | None:
        """Return the next frame, or None every 15 seconds in which there is none.

        Raises the `BusError` that ended the call instead of a result.
        """
        while not self._frames:
            if self._failure is not None:
                raise self._failure
            self.waiting_since = time.monotonic()
            self._waiter = asyncio.get_running_loop().create_future()
            if await self._waiter:
                return None
        frame = self._frames.popleft()
        self._buffered -= len(frame.body)
        return frame

    async def cancel(self) -> None:
        """End the call, upstream included, if it is still running."""
        if not self.ended and not self.cancelled:
            self.cancelled = True
            if self.router is not None:
                await self._plane.send_cancel(self.router, self.key)
            else:
                return  # the router is not known yet: `accepted` or `end` will tell, and is waited for
        self._plane.forget(self)

    def take(self, msg: Delivery) -> None:
        """Take a message from the bus."""
        if msg.headers is not None and msg.headers.get("Status") == "503":
            self.ended = True
            self.fail(Unavailable("no router serves requests"))
            return
        self.heard = time.monotonic()
        head, body = decode_reply(msg.data)
        if head.number != self._number + 1:
            self.fail(Unavailable("frames of the call were lost"))
            return
        self._number = head.number
        if head.router is not None:
            self.router = head.router
        if head.fault is not None:
            self.ended = True
            self.fail(BusError.of(*head.fault))
        elif head.kind == "part":
            self._parts.append(body)
            self._hold(len(body))
        elif head.kind in ("msg", "end"):
            if self._parts:
                body = b"".join([*self._parts, body])
                self._parts = []
            self.ended = head.kind == "end"
            self._frames.append(Frame("end" if self.ended else "msg", body, head.error))
            self._hold(len(body))
            self._wake()

    def _hold(self, size: int) -> None:
        self._buffered += size
        if self._buffered > BUFFER:
            self._frames.clear()
            self.fail(TooLarge("the client does not read as fast as the call answers"))

    def fail(self, failure: BusError) -> None:
        if self._failure is None:
            self._failure = failure
            self._wake()

    def abort(self, failure: BusError) -> None:
        """Fail the call at once: what is held for the client is dropped, and a client that does not read is cut off."""
        self._frames.clear()
        self._parts.clear()
        reading = self._waiter is not None and not self._waiter.done()
        self.fail(failure)
        if not reading and self.cut_off is not None:
            self.cut_off()

    def poke(self) -> None:
        """Let `next` return None: the reader may want to show a sign of life."""
        self._wake(idle=True)

    def _wake(self, *, idle: bool = False) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(idle)


class DataPlane:
    """All calls of one gateway. Replies arrive on one subscription whose subject holds 128 random bits."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._inbox = f"{inbox_of(bus.caller)}.mcp{secrets.token_hex(16)}"
        self._calls: dict[str, LiveCall] = {}
        self._count = 0

    async def start(self) -> None:
        await self._bus.receive(f"{self._inbox}.*", self._receive)

    @property
    def running(self) -> int:
        return len(self._calls)

    async def call(self, head: Request, params: bytes, principal: Principal) -> LiveCall:
        """Send a request. Raises `TooLarge`, and `Unavailable` where the bus is away."""
        self._count += 1
        key = f"{self._inbox}.{self._count}"
        call = LiveCall(self, key, head, principal)
        self._calls[key] = call
        try:
            await self._bus.send(mcp_subject(head.project, self._bus.caller), encode(head, params), reply=key)
        except BaseException:
            self.forget(call)
            raise
        return call

    async def _receive(self, msg: Delivery) -> None:
        call = self._calls.get(msg.subject)
        if call is None:
            return
        call.take(msg)
        if call.cancelled and call.router is not None and not call.ended:
            await self.send_cancel(call.router, call.key)
            self.forget(call)
        elif call.ended:
            self.forget(call)

    def forget(self, call: LiveCall) -> None:
        self._calls.pop(call.key, None)

    def end_where(self, concerns: Callable[[Principal], bool], failure: BusError) -> None:
        """Fail the running calls of certain principals, whatever their router does."""
        for call in list(self._calls.values()):
            if concerns(call.principal):
                call.abort(failure)
                self.forget(call)

    async def send_cancel(self, router: str, key: str) -> None:
        await self._publish_cancel(router, Cancel(reply=key))

    async def cancel_request(self, session: str, request_id: str) -> None:
        """Cancel a legacy client's request, whichever gateway carries it and whichever router has it."""
        await self._publish_cancel(EVERY_ROUTER, Cancel(session=session, request_id=request_id))

    async def _publish_cancel(self, router: str, cancel: Cancel) -> None:
        with suppress(BusError):  # without the bus the router's beats find nobody, and that ends the call
            await self._bus.send(router_subject(router, self._bus.caller), encode(cancel))

    async def sweep(self) -> None:
        """For ever: fail the calls whose router is silent."""
        while True:
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            for call in list(self._calls.values()):
                if call.heard is None and now - call.started > FIRST_FRAME_WITHIN:
                    call.fail(Unavailable("no router took the request"))
                elif call.heard is not None and now - call.heard > SILENCE_LIMIT:
                    call.fail(Unavailable("the router that had the request is gone; it may have been carried out"))
                elif now > call.deadline:
                    call.fail(DeadlineExceeded("the request took too long"))
                else:
                    if now - call.waiting_since > SIGN_OF_LIFE:
                        call.poke()
                    continue
                self.forget(call)
