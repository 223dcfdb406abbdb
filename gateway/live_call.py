"""One request on its way: the numbered frames that came for it, and who reads them."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from mcpctl.bus.connection import Delivery
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError, TooLarge, Unauthenticated, Unavailable
from mcpctl.bus.frames import MOVES, Reply, decode_reply, decode_request, encode

BUFFER = 64 * 1024 * 1024
"""Bytes of frames that one call may hold back for a slow client; past that the call ends with an error."""


REVOKED = (Unauthenticated.code, "revoked")


@dataclass(slots=True)
class Frame:
    """What arrived: a notification (a whole message), or the end (a raw result, or a raw JSON-RPC error)."""

    kind: Literal["msg", "end"]
    body: bytes
    error: bool = False


class Plane(Protocol):
    """What a call needs of the plane on which it runs."""

    async def cancel(self, call: "LiveCall") -> None: ...

    def forget(self, call: "LiveCall") -> None: ...


class LiveCall:
    """One call. Ask `next()` until the frame `end`; `cancel()` when nobody reads on.

    `router` is who has the call, once that is known; of what is asked of another gateway, that gateway.
    """

    __slots__ = (
        "_aborted",
        "_buffer",
        "_buffered",
        "_failure",
        "_frames",
        "_gone",
        "_number",
        "_otherwise",
        "_parts",
        "_plane",
        "_waiter",
        "cancelled",
        "cut_off",
        "deadline",
        "eager",
        "ended",
        "heard",
        "key",
        "late",
        "message",
        "moved",
        "moves",
        "on_way",
        "principal",
        "probed",
        "revoked",
        "router",
        "session",
        "started",
        "waiting_since",
    )

    def __init__(
        self,
        plane: Plane,
        key: str,
        message: bytes,
        principal: Principal,
        *,
        seconds: float = math.inf,
        session: str | None = None,
        buffer: int = BUFFER,
    ) -> None:
        self.key, self.message, self.principal, self.session = key, message, principal, session
        self.started = time.monotonic()
        self.heard: float | None = None
        self.deadline = self.started + seconds
        self.probed = 0.0
        self.router: str | None = None
        self.ended = self.revoked = self.cancelled = self.moved = self._aborted = False
        self.on_way = self.late = False
        """Whether no router has reacted yet; and whether the one that did was late to begin."""
        self.moves = 0
        self.eager = False
        """Lets `next` return None once when the call is accepted, for a reader that shows it to its client."""
        self._plane = plane
        self._frames: deque[Frame] = deque()
        self._parts: list[bytes] = []
        self._buffer, self._buffered, self._number = buffer, 0, 0
        self._failure: BusError | None = None
        self._otherwise = b""
        self._gone: tuple[str, str] | None = None
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
            if self.eager and self.heard is not None:
                self.eager = False
                return None
            self.waiting_since = time.monotonic()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                idle = await self._waiter
            finally:
                self._waiter = None
            if idle:
                self.eager = False
                return None
        frame = self._frames.popleft()
        self._buffered -= len(frame.body)
        return frame

    async def cancel(self) -> None:
        """End the call, upstream included, if it is still running."""
        if self.cancelled:
            return
        self.cancelled = True
        if not self.ended:
            if self.router is None:
                return  # it is not known yet: `accepted` or `end` will tell, and is waited for
            await self._plane.cancel(self)
        self._plane.forget(self)

    def take(self, msg: Delivery) -> None:
        """Take a message from the bus."""
        if msg.headers is not None and msg.headers.get("Status") == "503":
            self._find_nobody()
            return
        self.heard = time.monotonic()
        head, body = decode_reply(msg.data)
        if head.number != self._number + 1:
            self.fail(Unavailable("frames of the call were lost"))
            return
        self._number, self.late = head.number, head.late
        if head.router is not None:
            self.router = head.router
        if head.kind == "moved":
            self._move(body, head.fault)
        elif head.fault is not None:
            self.ended, self.revoked = True, head.number > 1 and head.fault == REVOKED
            failure = BusError.of(*head.fault)
            failure.retry_after = head.retry_ms / 1000 or None
            self.fail(failure)
        elif head.kind in ("msg", "end"):
            self._put(head, body)
        elif head.kind == "part":
            self._parts.append(body)
            self._hold(len(body))
        elif self.eager:
            self._wake(idle=True)

    def _put(self, head: Reply, body: bytes) -> None:
        if self._parts:
            body = b"".join([*self._parts, body])
            self._buffered -= sum(map(len, self._parts))
            self._parts = []
        self.ended = head.kind == "end"
        self._frames.append(Frame("end" if self.ended else "msg", body, head.error))
        self._hold(len(body))
        self._wake()

    def _move(self, otherwise: bytes, gone: tuple[str, str] | None) -> None:
        """Begin anew at the router that the frame names; where it does not answer, the call ends as it says."""
        self.moves += 1
        if self.moves > MOVES:
            self.ended = True
            self.fail(Unavailable("the request was sent from router to router"))
            return
        self.moved, self._otherwise, self._gone = True, otherwise, gone
        self._number, self._parts = 0, []
        self.heard, self.started = None, time.monotonic()

    def _find_nobody(self) -> None:
        """Begin anew where the router of a site was not there, of which there may be another; else end the call."""
        if self._gone is None or self._otherwise or self.moves >= MOVES:
            self.give_up("no router serves requests")
            return
        head, body = decode_request(self.message)
        self.message = encode(msgspec.structs.replace(head, absent=self.router), body)
        self.moved, self.router, self.started = True, None, time.monotonic()

    def give_up(self, text: str) -> None:
        """End a call that nobody took."""
        self.ended = True
        if self._otherwise:
            self._frames.append(Frame("end", self._otherwise, error=True))
            self._wake()
        else:
            self.fail(Unavailable(text) if self._gone is None else BusError.of(*self._gone))

    def lose(self) -> None:
        """End a call whose router is silent."""
        where = "" if self._gone is None else f" ({self._gone[1]})"
        self.fail(Unavailable(f"the router that had the request is gone; it may have been carried out{where}"))

    def _hold(self, size: int) -> None:
        self._buffered += size
        if self._buffered > self._buffer:
            self._frames.clear()
            self.fail(TooLarge("the client does not read as fast as the call answers"))

    def fail(self, failure: BusError) -> None:
        if self._failure is None:
            self._failure = failure
            self._wake()

    def abort(self, failure: BusError) -> None:
        """Fail the call at once: what is held for the client is dropped, and a client that does not read is cut off."""
        if self._aborted:
            return
        self._aborted = True
        self._frames.clear()
        self._parts.clear()
        reading = self._waiter is not None  # it may be awake already, and has not run yet
        self.fail(failure)
        if not reading and self.cut_off is not None:
            self.cut_off()

    def unread(self) -> list[bytes]:
        """Take the notifications that nobody has read yet."""
        bodies = [frame.body for frame in self._frames if frame.kind == "msg"]
        self._frames.clear()
        return bodies

    def poke(self) -> None:
        """Let `next` return None: the reader may want to show a sign of life."""
        self._wake(idle=True)

    def _wake(self, *, idle: bool = False) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(idle)
