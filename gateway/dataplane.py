"""Requests to the routers and to other gateways: one publish out, a numbered row of frames back."""

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from mcpctl.bus import peer_frames
from mcpctl.bus.connection import Bus, Delivery
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BadRequest, BusError, DeadlineExceeded, Unavailable
from mcpctl.bus.frames import (
    BEAT_EVERY,
    EVERY_ROUTER,
    FIRST_FRAME_WITHIN,
    SILENCE_LIMIT,
    Cancel,
    Request,
    decode_reply,
    decode_request,
    encode,
    gateway_subject,
    mcp_subject,
    router_subject,
)
from mcpctl.bus.identity import service_inbox
from mcpctl.gateway.live_call import BUFFER, LiveCall
from mcpctl.gateway.turns import Turns

SWEEP = 0.25
SIGN_OF_LIFE = 15.0
"""Seconds without a frame after which the reader is woken all the same."""

PROBE_AFTER = 3.0
"""Seconds without a frame of a call after which its router is asked whether it is running still."""

OVERTIME = 5.0
"""Seconds past a call's budget after which the gateway itself gives it up."""

LISTEN = "subscriptions/listen"
"""The method without a deadline."""

GATEWAY = "gateway-"
"""How names of gateways begin; a router's never does."""

MOVED_TO = 1000
"""Routers to which calls were moved, each with an inbox of its own, that are remembered."""

LEFT = 4096
"""Ended calls that are remembered, for a router that has not heard of it."""


class DataPlane:
    """All calls of one gateway. Replies arrive on one subscription whose subject holds 128 random bits.

    `buffer` is how many bytes a call may hold for a client that is slow to read, `waiting` how many requests may wait
    for routers that do not keep up.
    """

    def __init__(self, bus: Bus, *, buffer: int = BUFFER, waiting: int = 2048) -> None:
        self._bus, self._buffer = bus, buffer
        self.turns = Turns(waiting)
        self._inbox = service_inbox(bus.caller)  # below it other gateways may publish too
        self._moved = service_inbox(bus.caller)
        self._moved_inboxes: dict[str, str] = {}
        self._calls: dict[str, LiveCall] = {}
        self._left: dict[str, str] = {}
        self._ended_first: deque[Principal] = deque(maxlen=LEFT)
        """Whose calls a router has ended because of a change of which this gateway had not heard."""
        self._beats: dict[str, float] = {}
        self._count = 0
        self._reconnects = 0

    async def start(self) -> None:
        await self._bus.receive(f"{self._inbox}.*", self._receive, inline=True)
        await self._bus.receive(f"{self._moved}.*.*", self._receive, inline=True)

    @property
    def running(self) -> int:
        return len(self._calls)

    async def call(self, head: Request, params: bytes, principal: Principal) -> LiveCall:
        """Send a request to the routers, in its turn. Raises `TooLarge`, `Unavailable`."""
        await self.turns.take(head.project)
        seconds = math.inf if head.method == LISTEN else head.budget / 1000 + OVERTIME
        call = self._begin(encode(head, params), principal, seconds, head.session)
        call.on_way = True
        await self._send(mcp_subject(head.project, self._bus.caller), call)
        return call

    async def ask_gateway(
        self, gateway: str, head: peer_frames.PeerFrame, principal: Principal, *, seconds: float = math.inf
    ) -> LiveCall:
        """Ask another gateway. Raises `Unavailable` where the bus is away."""
        call = self._begin(peer_frames.encode(head), principal, seconds, None)
        call.router = gateway
        await self._send(gateway_subject(gateway, self._bus.caller), call)
        return call

    def _begin(self, message: bytes, principal: Principal, seconds: float, session: str | None) -> LiveCall:
        self._count += 1
        key, room = f"{self._inbox}.{self._count}", self._buffer
        call = LiveCall(self, key, message, principal, seconds=seconds, session=session, buffer=room)
        self._calls[call.key] = call
        return call

    async def _send(self, subject: str, call: LiveCall) -> None:
        try:
            await self._bus.send(subject, call.message, reply=call.key)
        except BaseException:
            self.forget(call)
            raise

    async def _receive(self, msg: Delivery) -> None:
        call = self._calls.get(msg.subject)
        if call is None:
            await self._take_other(msg)
            return
        call.take(msg)
        if call.on_way:
            call.on_way = False
            self.turns.leave(late=call.late)
        if call.ended:
            self.forget(call)
            if call.revoked:
                self._ended_first.append(call.principal)
        elif call.cancelled and call.router is not None:
            await self.cancel(call)
            self.forget(call)
        elif call.moved:
            call.moved = False
            await self._send_on(call)

    async def _send_on(self, call: LiveCall) -> None:
        """Send a call to the router that is to have it, in an inbox for the two: it may be in foreign hands.

        Who knows a reply subject could answer the other calls of that inbox. Where that router was not there, ask all
        others again.
        """
        del self._calls[call.key]
        inbox = self._inbox if call.router is None else self._moved_inbox(call.router)
        call.key = f"{inbox}.{call.key.rpartition('.')[2]}"
        self._calls[call.key] = call
        if call.router is None:
            subject = mcp_subject(decode_request(call.message)[0].project, self._bus.caller)
        else:
            subject = router_subject(call.router, self._bus.caller)
        try:
            await self._bus.send(subject, call.message, reply=call.key)
        except BusError as error:
            call.fail(error)
            self.forget(call)

    def _moved_inbox(self, router: str) -> str:
        if len(self._moved_inboxes) >= MOVED_TO:
            del self._moved_inboxes[next(iter(self._moved_inboxes))]
        return self._moved_inboxes.setdefault(router, f"{self._moved}.{secrets.token_hex(16)}")

    def _may_beat(self, router: str, subject: str) -> bool:
        return subject.rpartition(".")[0] in (self._inbox, self._moved_inboxes.get(router))

    async def _take_other(self, msg: Delivery) -> None:
        """Take a beat; or a frame of a call that is over, of which its router has not heard."""
        try:
            head, _ = decode_reply(msg.data)
        except BadRequest:
            return
        if head.kind == "beat" and head.router is not None:
            if not self._may_beat(head.router, msg.subject):
                return
            self._beats[head.router] = time.monotonic()
        elif head.kind == "end":
            self._left.pop(msg.subject, None)
        else:
            router = head.router or self._left.get(msg.subject)
            if router is not None and head.kind in ("accepted", "msg", "part"):
                await self._send_cancel(router, msg.subject)

    def forget(self, call: LiveCall) -> None:
        known = self._calls.pop(call.key, None) is not None
        if call.on_way:
            call.on_way = False
            self.turns.leave()
        if known and not call.ended and call.router is not None:
            if len(self._left) >= LEFT:
                del self._left[next(iter(self._left))]
            self._left[call.key] = call.router

    def count(self, concerns: Callable[[Principal], bool]) -> int:
        """Count the running calls of certain principals, and, once, those that their router was faster to end."""
        ended_first, self._ended_first = self._ended_first, deque(maxlen=LEFT)
        self._ended_first.extend(principal for principal in ended_first if not concerns(principal))
        running = sum(concerns(call.principal) for call in self._calls.values())
        return running + len(ended_first) - len(self._ended_first)

    def end_where(self, concerns: Callable[[LiveCall], bool], failure: BusError) -> None:
        """Fail certain running calls, whatever their router does."""
        for call in list(self._calls.values()):
            if concerns(call):
                call.abort(failure)
                self.forget(call)

    async def cancel(self, call: LiveCall) -> None:
        """Tell the one who has the call that nobody waits for it."""
        if call.router is not None:
            await self._send_cancel(call.router, call.key)

    async def cancel_request(self, session: str, request_id: str) -> None:
        """Cancel a legacy client's request, whichever gateway carries it and whichever router has it."""
        cancel = Cancel(session=session, request_id=request_id)
        await self._tell(router_subject(EVERY_ROUTER, self._bus.caller), encode(cancel))

    async def _probe(self, call: LiveCall, now: float) -> None:
        """Ask from time to time whether a call that has been silent is running still: its `end` may have been lost."""
        router = call.router
        if router is None or router.startswith(GATEWAY) or call.deadline == math.inf or call.ended:
            return
        if now - max(call.heard or now, call.probed) > PROBE_AFTER:
            call.probed = now
            await self._tell(router_subject(router, self._bus.caller), encode(Cancel(reply=call.key, probe=True)))

    async def _send_cancel(self, router: str, key: str) -> None:
        if router.startswith(GATEWAY):
            await self.tell_gateway(router, peer_frames.Leave(key))
        else:
            await self._tell(router_subject(router, self._bus.caller), encode(Cancel(reply=key)))

    async def tell_gateway(self, gateway: str, head: peer_frames.PeerFrame, body: bytes = b"") -> None:
        """Tell one gateway (or all) something, without an answer."""
        await self._tell(gateway_subject(gateway, self._bus.caller), peer_frames.encode(head, body))

    async def _tell(self, subject: str, message: bytes) -> None:
        with suppress(BusError):  # without the bus the router's beats find nobody, and that ends the call
            await self._bus.send(subject, message)

    async def sweep(self) -> None:
        """For ever: fail the calls whose router is silent."""
        late = False
        while True:
            due = time.monotonic() + SWEEP
            await asyncio.sleep(SWEEP)
            now = time.monotonic()
            # A process that stood still has not read what came meanwhile: it judges nobody's silence before it has.
            late = now - due > SWEEP and not late
            if late:
                continue
            self.turns.drop_late()
            back = self._was_away()
            for router in [router for router, heard in self._beats.items() if now - heard > SILENCE_LIMIT]:
                del self._beats[router]
            for call in list(self._calls.values()):
                if self._is_lost(call, now, back=back):
                    await self.cancel(call)
                    self.forget(call)
                    continue
                await self._probe(call, now)
                if now - call.waiting_since > SIGN_OF_LIFE:
                    call.poke()

    def _was_away(self) -> bool:
        """Tell whether the bus was away since the last time this was asked."""
        before, self._reconnects = self._reconnects, self._bus.client.stats["reconnects"]
        return before != self._reconnects

    def _is_lost(self, call: LiveCall, now: float, *, back: bool) -> bool:
        """Fail a call of which nothing is to be expected any more.

        While the bus was away, an `end` may have been lost, or a router may have found this gateway gone: so a listen
        begins anew, and a call of whose router a beat was missed has failed.
        """
        if call.heard is None:
            if now - call.started <= FIRST_FRAME_WITHIN:
                return False
            call.give_up("no router took the request")
            return True
        silence = now - max(call.heard, self._beats.get(call.router or "", 0.0))
        if silence > (1.5 * BEAT_EVERY if back else SILENCE_LIMIT):
            call.lose()
        elif back and call.deadline == math.inf:
            call.fail(Unavailable("the bus was away"))
        elif now > call.deadline:
            call.fail(DeadlineExceeded("the request took too long"))
        else:
            return False
        return True
