"""A listen on the bus, kept up: when its router goes another one is asked, and the client told what it may have missed.

What it may have missed is everything to which it listens.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from mcpctl.bus.errors import BadGateway, BusError, Cancelled, Unavailable
from mcpctl.bus.mcp_messages import decode_envelope, decode_fields, encode, with_meta
from mcpctl.gateway.live_call import Frame, LiveCall

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

ACK_WITHIN = 10.0
LONGEST_PAUSE = 5.0
"""Seconds between two tries to listen again, at the most."""

LASTING = 5.0
"""Seconds after which a listen that ends counts as one that worked."""


class _Filter(msgspec.Struct):
    """What of a filter is honoured."""

    tools: bool = msgspec.field(name="toolsListChanged", default=False)
    prompts: bool = msgspec.field(name="promptsListChanged", default=False)
    resources: bool = msgspec.field(name="resourcesListChanged", default=False)
    uris: tuple[str, ...] = msgspec.field(name="resourceSubscriptions", default=())


_decode_filter = msgspec.json.Decoder(_Filter).decode


def hints_of(honoured: bytes) -> list[bytes]:
    """Return notifications that everything of a filter may have changed: a hint costs little."""
    try:
        wanted = _decode_filter(honoured)
    except msgspec.DecodeError:
        return []
    changed = [("tools", wanted.tools), ("prompts", wanted.prompts), ("resources", wanted.resources)]
    messages: list[dict[str, object]] = [
        {"method": f"notifications/{noun}/list_changed"} for noun, listened in changed if listened
    ]
    messages += [{"method": "notifications/resources/updated", "params": {"uri": uri}} for uri in wanted.uris]
    return [encode({"jsonrpc": "2.0", **message}) for message in messages]


def honoured_by(message: bytes) -> bytes | None:
    """Return the filter of an acknowledgement; None for any other message."""
    envelope = decode_envelope(message)
    if envelope.method != ACKNOWLEDGED:
        return None
    params = decode_fields(envelope.params) if envelope.params else {}
    return bytes(params.get("notifications", b"{}"))


def with_subscription(message: bytes, request_id: bytes) -> bytes:
    """Return a notification with the id of the listen on which it comes."""
    fields = decode_fields(message)
    fields["params"] = msgspec.Raw(_with_id(bytes(fields.get("params", b"{}")), request_id))
    return encode(fields)


def result_with_subscription(result: bytes, request_id: bytes) -> bytes:
    """Return the result of a listen with its id, which is that of the request."""
    return _with_id(result, request_id)


def _with_id(body: bytes, request_id: bytes) -> bytes:
    member = f'"{SUBSCRIPTION_ID}":'.encode() + request_id
    return with_meta(body, member, has_meta="_meta" in decode_fields(body))


class Listening:
    """What one client listens to. `ask` sends a listen with certain params to the routers."""

    def __init__(
        self,
        ask: Callable[[bytes], Awaitable[LiveCall]],
        params: bytes,
        *,
        cut_off: Callable[[], None] | None,
    ) -> None:
        self._ask, self._params, self._cut_off = ask, params, cut_off
        self._honoured: bytes | None = None
        self._call: LiveCall | None = None
        self._ready: deque[bytes] = deque()
        self._over: BusError | None = None
        self._ending = asyncio.Event()
        self._changing = asyncio.Lock()
        self._failures = 0
        self._began = 0.0

    def adopt(self, call: LiveCall) -> None:
        """Go on with a call whose acknowledgement nobody has read yet."""
        self._call = call
        call.cut_off = self._cut_off

    def put_back(self, frame: Frame) -> None:
        """Let `next` return a notification that was read already."""
        self._ready.append(self._noted(frame.body))

    def hint(self) -> None:
        """Say with the next acknowledgement that everything may have changed: the client has been away."""
        self._honoured = b"{}" if self._honoured is None else self._honoured

    async def next(self) -> Frame | None:
        """Return the next frame, `end` included, or None now and then. Raises the `BusError` that ends it for good."""
        if self._over is not None:
            raise self._over
        if self._ready:
            return Frame("msg", self._ready.popleft())
        call = self._call
        if call is None:
            await self._again()
            return None
        try:
            frame = await call.next()
        except BusError as error:
            if self._over is not None:
                raise self._over from error
            if self._call is call:
                await self._lose(call, error)
            return None
        if frame is not None and frame.kind == "msg":
            self._noted(frame.body)
        return frame

    def _noted(self, message: bytes) -> bytes:
        if self._honoured is None:
            self._honoured, self._began = honoured_by(message), time.monotonic()
        return message

    async def _lose(self, call: LiveCall, error: BusError) -> None:
        """Leave a call that has failed: another router may have what this one had."""
        if not isinstance(error, Unavailable | Cancelled | BadGateway):
            raise error
        self._call = None
        await call.cancel()
        await self._pause()  # a router has many listens: they do not all come back in the same moment

    async def begin(self) -> None:
        """Try once to listen. Raises the `BusError` that ends it for good."""
        await self._again()

    async def begin_again(self) -> None:
        """Ask another router: this one has ended it."""
        self._call = None
        self._failures = 1 if time.monotonic() - self._began > LASTING else self._failures + 1
        await self._pause()

    async def _again(self) -> None:
        """Try once to listen, after a pause if the last try failed."""
        async with self._changing:
            if self._call is not None or self._over is not None:
                return
            was = self._honoured
            try:
                self._call, acknowledgement = await self._opened(self._params)
            except (Unavailable, BadGateway):
                self._failures += 1
        if self._call is None:
            await self._pause()
        elif was is None:
            self._ready.append(acknowledgement)
        else:
            self._ready.extend(hints_of(self._honoured or b"{}"))

    async def _pause(self) -> None:
        seconds = min(LONGEST_PAUSE, 0.1 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1)
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            pass

    async def change(self, params: bytes) -> None:
        """Listen to something else, and miss nothing; return when that is acknowledged. Raises `BusError`."""
        async with self._changing:
            if params == self._params or self._over is not None:
                return
            self._params, older = params, self._call
            try:
                self._call, _ = await self._opened(params)
            except BusError:
                self._call = None  # whoever reads tries again
                raise
            finally:
                if older is not None:
                    self._ready.extend(older.unread())
                    older.fail(Cancelled("another listen took its place"))
                    await older.cancel()

    async def _opened(self, params: bytes) -> tuple[LiveCall, bytes]:
        """Return a new listen, and the acknowledgement that has come for it. Raises `BusError`."""
        call = await self._ask(params)
        call.cut_off = self._cut_off
        try:
            async with asyncio.timeout(ACK_WITHIN):
                frame = await call.next()
                while frame is None:
                    frame = await call.next()
        except TimeoutError as error:
            await call.cancel()
            raise Unavailable("the listen was not acknowledged") from error
        except BaseException:
            await call.cancel()
            raise
        if frame.kind == "end":
            raise BadGateway(f"the listen was refused: {frame.body[:200].decode(errors='replace')}")
        self._honoured = honoured_by(frame.body) or b"{}"
        self._began = time.monotonic()
        return call, frame.body

    def end(self, why: BusError) -> None:
        """End it for good; a client that does not read is cut off."""
        if self._over is None:
            self._over = why
            self._ending.set()
            if self._call is not None:
                self._call.abort(why)

    async def close(self) -> None:
        """Leave the bus."""
        if self._call is not None:
            await self._call.cancel()
