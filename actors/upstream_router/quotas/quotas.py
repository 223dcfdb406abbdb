"""May this call be carried out as far as quotas go? Here where this router keeps the counts, else at the one who does.

A call without a quota costs nothing. All that a router wants to know at a time is one message to the keeper, and the
next one leaves when that is answered. A keeper that is gone or silent is done without: each router then allows its
part.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count

from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.call import LISTEN, Call
from mcpctl.actors.upstream_router.quotas.counts import HELD_RETRY, Counts, Refusal
from mcpctl.actors.upstream_router.quotas.keeping import Ask, Ended, Group, Here, Told, decode, encode
from mcpctl.actors.upstream_router.quotas.limits import Limit, limits_of, refusal
from mcpctl.actors.upstream_router.quotas.refused import Refused
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus, Delivery, Tasks
from mcpctl.bus.errors import BadRequest, BusError
from mcpctl.bus.frames import EVERY_ROUTER, PRESENT_EVERY, quota_subject
from mcpctl.bus.identity import site_of

ANSWER_WITHIN = 1.0
"""Seconds that the keeper has for an answer: it is not to be thought gone because its machine is busy."""

WANTS = 1000
"""Calls in one message at the most."""


@dataclass(slots=True, eq=False)
class _Want:
    call: Call
    thing: str
    limits: list[Limit]
    decided: "asyncio.Future[Refusal | None]"


class Quotas:
    """Admits calls, and notes when they are over. Limits hold over all routers of a group: a site's, or the others."""

    def __init__(self, bus: Bus, router: str, audit: AuditWriter) -> None:
        self._bus, self._router = bus, router
        self._subject = partial(quota_subject, site_of(bus.caller))
        self._group = Group(router, time.time())
        self._counts, self._alone = Counts(), Counts()
        self._refused = Refused(audit)
        self._held: dict[str, dict[str, int]] = {}
        self._known: set[str] = set()
        """The routers that have said what they hold, while this one keeps the counts."""
        self._keeper = router
        self._introduced = False
        """Whether the keeper knows what is held here."""
        self._wants: list[_Want] = []
        self._carrier: asyncio.Task[None] | None = None
        self._ids, self._number = count(), 0
        self._told: asyncio.Future[Told | None] | None = None
        """The keeper's answer; None where nobody listens there."""
        self._tasks = Tasks()
        self._reconnects = 0

    async def open(self) -> None:
        """Hear the other routers, and ask who is there."""
        for router in (self._router, EVERY_ROUTER):
            await self._bus.receive(self._subject(router, "*"), self._hear)
        await self._say(EVERY_ROUTER, Here(self._router, self._group.since, new=True))

    async def run(self) -> None:
        """For ever: say that this router is there, and forget those who are not."""
        while True:
            await asyncio.sleep(PRESENT_EVERY)
            await self._say(EVERY_ROUTER, Here(self._router, self._group.since))
            for router in self._group.drop_silent():
                self._forget(router)
            before, self._reconnects = self._reconnects, self._bus.client.stats["reconnects"]
            if before != self._reconnects:  # what was said meanwhile may be lost, on both sides
                self._introduced = False
                await self._say(EVERY_ROUTER, Here(self._router, self._group.since, new=True))
            self._look()
            self._refused.tell()

    async def stop(self) -> None:
        """Say that this router is leaving, and wait for nobody."""
        self._refused.tell()
        await self._say(EVERY_ROUTER, Here(self._router, self._group.since, leaving=True))

    async def close(self) -> None:
        await self._tasks.cancel()

    # --- calls ---

    async def admit(self, call: Call, access: Access) -> None:
        """Return when the call may be carried out. Raises `TooManyRequests`."""
        stream = call.head.method == LISTEN
        limits = limits_of(access, stream=stream)
        if not limits:
            return
        thing = (call.head.session or call.head.correlation) if stream else f"{self._router}.{next(self._ids)}"
        refused = await self._decide(_Want(call, thing, limits, asyncio.get_running_loop().create_future()))
        if refused is not None:
            limit = limits[refused.limit]
            error = refusal(access, limit, refused.seconds)
            self._refused.note(call, access.principal.sha, limit.key, str(error))
            raise error

    async def leave(self, call: Call, *, moved: bool) -> None:
        """Note that a call is over, or is another router's: then it counts there."""
        used, call.uses = call.uses, None
        if used is None:
            return
        thing, limits = used
        keys = [limit.key for limit in limits if moved or not limit.per_second]
        for limit in limits:
            if not limit.per_second:
                self._let_go(limit.key, thing)
        if keys:
            await self._give_back(thing, keys)

    async def _give_back(self, thing: str, keys: list[str]) -> None:
        if self._keeper == self._router:
            self._counts.give_back(self._router, thing, keys)
        else:
            await self._say(self._keeper, Ended(self._router, thing, keys))

    def _hold(self, want: _Want) -> None:
        want.call.uses = (want.thing, want.limits)
        for limit in want.limits:
            if not limit.per_second:
                things = self._held.setdefault(limit.key, {})
                things[want.thing] = things.get(want.thing, 0) + 1

    def _let_go(self, key: str, thing: str) -> None:
        things = self._held[key]
        things[thing] -= 1
        if not things[thing]:
            del things[thing]
        if not things:
            del self._held[key]

    # --- decisions ---

    async def _decide(self, want: _Want) -> Refusal | None:
        if self._keeper == self._router and self._carrier is None:
            refused = self._counts.take(self._router, want.thing, want.limits)
            if refused is None:
                self._hold(want)
            return refused
        self._wants.append(want)
        if self._carrier is None:
            self._carrier = self._tasks.start(self._carry())
        return await want.decided

    async def _carry(self) -> None:
        try:
            while self._wants:
                wants, self._wants = self._wants[:WANTS], self._wants[WANTS:]
                refused = await self._ask(wants)
                for index, want in enumerate(wants):
                    await self._settle(want, self._decide_alone(want) if refused is None else refused.get(index))
        finally:
            self._carrier = None

    async def _settle(self, want: _Want, refused: Refusal | None) -> None:
        if not want.decided.done():
            if refused is None:
                self._hold(want)
            want.decided.set_result(refused)
        elif refused is None:  # nobody waits for it any more
            await self._give_back(want.thing, [limit.key for limit in want.limits])

    async def _ask(self, wants: list[_Want]) -> dict[int, Refusal] | None:
        """Return which calls the keeper refuses; None where it does not answer."""
        asked = [(want.thing, want.limits) for want in wants]
        for _ in range(2):
            keeper = self._keeper
            if keeper == self._router:
                return self._take(self._router, asked)
            self._number += 1
            self._told = asyncio.get_running_loop().create_future()
            held = None if self._introduced else self._held
            try:
                await self._send(keeper, encode(Ask(self._router, self._number, asked, held)), answer_here=True)
                async with asyncio.timeout(ANSWER_WITHIN):
                    told = await self._told
            except (BusError, TimeoutError):
                break
            if told is None:
                break
            if not told.unknown:
                self._introduced = keeper == self._keeper
                return told.refused
            self._introduced = False
        self._group.suspect(keeper)
        self._look()
        return None

    def _take(self, router: str, wants: list[tuple[str, list[Limit]]]) -> dict[int, Refusal]:
        decided = ((index, self._counts.take(router, thing, limits)) for index, (thing, limits) in enumerate(wants))
        return {index: refused for index, refused in decided if refused is not None}

    def _decide_alone(self, want: _Want) -> Refusal | None:
        """Allow this router's part of each limit."""
        parts = self._group.size + 1  # and the one that is silent
        part_of = [
            Limit(each.key, each.most and max(1, each.most // parts), each.per_second / parts) for each in want.limits
        ]
        for index, limit in enumerate(part_of):
            if not limit.per_second and len(self._held.get(limit.key, ())) >= limit.most:
                return Refusal(index, HELD_RETRY)
        for index, limit in enumerate(part_of):
            refused = self._alone.take(self._router, want.thing, [limit]) if limit.per_second else None
            if refused is not None:
                return Refusal(index, refused.seconds)
        return None

    # --- the other routers ---

    async def _hear(self, msg: Delivery) -> None:
        if msg.headers is not None and msg.headers.get("Status") == "503":
            self._hear_answer(None)
            return
        try:
            said = decode(msg.data)
        except BadRequest:
            return
        if isinstance(said, Told):
            self._hear_answer(said)
        elif isinstance(said, Ask):
            await self._answer(said)
        elif isinstance(said, Ended):
            self._counts.give_back(said.router, said.thing, said.keys)
        elif said.router != self._router:
            self._group.heard(said)
            if said.leaving:
                self._forget(said.router)
            elif said.new:
                await self._say(said.router, Here(self._router, self._group.since))
                self._introduced = self._introduced and said.router != self._keeper
            self._look()

    def _hear_answer(self, told: Told | None) -> None:
        if self._told is None or self._told.done():
            return
        if told is None or told.number == self._number:
            self._told.set_result(told)

    async def _answer(self, ask: Ask) -> None:
        if ask.held is not None:
            self._counts.set_held(ask.router, ask.held)
            self._known.add(ask.router)
        known = ask.router in self._known
        refused = self._take(ask.router, ask.wants) if known else {}
        await self._say(ask.router, Told(ask.number, refused, unknown=not known))

    def _forget(self, router: str) -> None:
        self._known.discard(router)
        self._counts.drop(router)

    def _look(self) -> None:
        """See who keeps the counts now, and tell a new one what is held here."""
        if self._keeper != self._group.keeper:
            self._keeper, self._introduced = self._group.keeper, False
            self._known.clear()
            if self._keeper == self._router:
                self._counts.set_held(self._router, self._held)
        if self._keeper != self._router and not self._introduced and self._carrier is None:
            self._carrier = self._tasks.start(self._introduce())

    async def _introduce(self) -> None:
        try:
            await self._ask([])
        finally:
            self._carrier = None
        if self._wants:
            self._carrier = self._tasks.start(self._carry())

    async def _say(self, router: str, message: Here | Told | Ended) -> None:
        with suppress(BusError):  # what is lost is made good when the bus is back
            await self._send(router, encode(message))

    async def _send(self, router: str, data: bytes, *, answer_here: bool = False) -> None:
        """Send; with `answer_here` the server tells `_hear` where nobody is there to receive it."""
        reply = self._subject(self._router, self._bus.caller) if answer_here else ""
        await self._bus.send(self._subject(router, self._bus.caller), data, reply=reply)
