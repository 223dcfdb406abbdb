"""The routers of sites, as a router of the default group knows them: who is there, and what they say of their servers.

A site's router gives a sign of life each second. A request for a server that is placed there is sent on to one of them,
which decides it by itself; what is about servers of several sites is put together here, and each site asked for its
part in the caller's own name.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from pydantic import ValidationError

from mcpctl.actors.upstream_router.site_client import Exchange, SiteClient
from mcpctl.bus.connection import Bus, Delivery
from mcpctl.bus.contracts.catalog import UpstreamServer
from mcpctl.bus.contracts.router import ReadLog, ServerLog, ServerStates, SiteRouter
from mcpctl.bus.errors import BusError, Unavailable
from mcpctl.bus.frames import ABSENT_AFTER, MOVES, Cancel, Request, encode, present_subject, router_subject
from mcpctl.bus.identity import router_id, service_inbox, site_of

log = structlog.get_logger()

KNOWN = 1000
"""Routers of sites that are remembered; whoever was not heard of for longest is forgotten first."""


READ_LOG = "router/read_log"
"""The method, which no client can use, by which a site's router is asked for a log."""

LOG_MS = 1000


class Known:
    """One router of a site: when it was last heard of, and what it said."""

    def __init__(self, router: str, site: str, inbox: str) -> None:
        self.router, self.site, self.inbox = router, site, inbox
        self.heard, self.heard_at = 0.0, 0
        self.left = False
        self.states = ServerStates(router=router)

    @property
    def present(self) -> bool:
        return not self.left and time.monotonic() - self.heard < ABSENT_AFTER


class Sites:
    """All sites. `own` is that of this router, which is of the default group where it is an empty text.

    A router of a site knows of no other, and may ask none.
    """

    def __init__(self, bus: Bus) -> None:
        self.own = site_of(bus.caller)
        self.on_site: list[Callable[[str], None]] = []
        """Hear of a site of which nothing was known."""

        self._bus, self._inbox = bus, service_inbox(bus.caller)
        self._known: dict[str, Known] = {}
        self._exchanges: dict[str, Exchange] = {}
        self._count = 0

    async def open(self) -> None:
        """Listen to the signs of life."""
        if not self.own:
            await self._bus.receive(f"{self._inbox}.*.*", self._receive)
            await self._bus.receive(present_subject("*", "*"), self._heard)

    async def _heard(self, msg: Delivery) -> None:
        _, _, _, site, caller = msg.subject.split(".")
        if site_of(caller) != site:
            return
        known = self._known.get(router_id(caller)) or self._learn(router_id(caller), site)
        if not msg.data:
            known.left = True
            return
        try:
            known.states = ServerStates.model_validate_json(msg.data)
        except ValidationError:
            return
        known.heard, known.heard_at, known.left = time.monotonic(), time.time_ns() // 1_000_000, False

    def _learn(self, router: str, site: str) -> Known:
        fresh = site not in {each.site for each in self._known.values()}
        for gone in [each for each in self._known.values() if each.site == site and not each.present]:
            del self._known[gone.router]  # a router that is started again has another id
        if len(self._known) >= KNOWN:
            del self._known[min(self._known.values(), key=lambda each: each.heard).router]
        # Inboxes of their own: who knows one could answer what others were asked.
        known = self._known[router] = Known(router, site, f"{self._inbox}.{secrets.token_hex(16)}")
        log.info("router of a site heard of", site=site, router=router)
        if fresh:
            for hear in self.on_site:
                hear(site)
        return known

    async def check(self, site: str) -> str:
        """Return how many routers of a site are there. Raises `Unavailable` where none is."""
        self.pick(site)
        count = sum(each.present for each in self._known.values() if each.site == site)
        return f"{count} router{'' if count == 1 else 's'}"

    def pick(self, site: str, absent: str | None = None) -> Known:
        """Return a router of a site. Raises `Unavailable` where none is there, and says since when.

        One that was `absent` a moment ago is passed over: it has been stopped or killed.
        """
        of_site = [each for each in self._known.values() if each.site == site and each.router != absent]
        present = [each for each in of_site if each.present]
        if present:
            return random.choice(present)
        if not of_site:
            others = "none" if absent is None else f"its router {absent} does not answer, and no other"
            raise Unavailable(f"site {site} is not reached: {others} has been heard of")
        last = max(of_site, key=lambda each: each.heard)
        seconds = time.monotonic() - last.heard
        raise Unavailable(f"site {site} is not reached: its router {last.router} was last heard of {seconds:.0f} s ago")

    def elsewhere(self, server: UpstreamServer, absent: str | None) -> Known | None:
        """Return the router that serves a server, None where this one does. Raises `Unavailable`."""
        if server.placement == self.own:
            return None
        if self.own:
            raise Unavailable(f"server {server.name} is not placed on site {self.own}")
        return self.pick(server.placement, absent)

    def states(self, server: str | None) -> tuple[SiteRouter, ...]:
        """Return what the routers of sites said last: of one server, or of all."""
        return tuple(
            SiteRouter(
                router=each.router,
                site=each.site,
                heard_at=each.heard_at,
                present=each.present,
                servers=tuple(state for state in each.states.servers if server in (None, state.server)),
            )
            for each in sorted(self._known.values(), key=lambda each: each.router)
        )

    async def logs(self, asked: ReadLog) -> tuple[ServerLog, ...]:
        """Return what the routers of sites have of a server's log, for who may see it: their word alone goes there."""
        head = Request(bearer="", project="", method=READ_LOG, budget=LOG_MS, correlation="")
        message = encode(head, asked.model_copy(update={"bearer": ""}).model_dump_json().encode())
        present = [each for each in self._known.values() if each.present]
        with_it = [each for each in present if any(asked.name == state.server for state in each.states.servers)]
        found = await asyncio.gather(*(self._log(each, message) for each in with_it))
        return tuple(log for log in found if log is not None)

    async def _log(self, known: Known, message: bytes) -> ServerLog | None:
        exchange = Exchange(known.site, message, lambda _: None)
        try:
            async with asyncio.timeout(LOG_MS / 1000):
                await self._attempt(exchange, known)
            return ServerLog.model_validate_json(exchange.body)
        except (BusError, TimeoutError, ValidationError) as error:
            log.info("log of a site not read", site=known.site, reason=str(error))
            return None

    # --- requests to them ---

    def client(self, server: UpstreamServer, head: Request) -> SiteClient:
        """Return the way to a server that is placed elsewhere, for the caller of a request."""
        return SiteClient(self.ask, server, head)

    async def ask(self, exchange: Exchange) -> None:
        """Send a request to a router of its site, and wait for its end. Raises `BusError` where there is none."""
        if self.own:
            raise Unavailable(f"a router of site {self.own} asks no other site")
        moved = await self._ask_any(exchange)
        for _ in range(MOVES):
            if moved is None:
                return
            known = self._known.get(moved)
            if known is None or known.site != exchange.site:
                raise Unavailable(f"site {exchange.site}: router {moved} is to have the request, and is not there")
            moved = await self._attempt(exchange, known)
        if moved is not None:
            raise Unavailable(f"site {exchange.site}: the request was sent from router to router")

    async def _ask_any(self, exchange: Exchange) -> str | None:
        """Ask the first router of a site that is there: the farewell of one that stops may still be on its way."""
        while True:
            known = self.pick(exchange.site)
            try:
                return await self._attempt(exchange, known)
            except Unavailable:
                if exchange.taken:
                    raise
                known.left = True

    async def _attempt(self, exchange: Exchange, known: Known) -> str | None:
        """Ask one router; return the one to which the request was moved, if it was. Raises `BusError`."""
        self._count += 1
        key, subject = f"{known.inbox}.{self._count}", router_subject(known.router, self._bus.caller)
        self._exchanges[key] = exchange
        exchange.begin(known.router)
        began = self._bus.client.stats["reconnects"]

        def is_there() -> bool:  # while the bus was away the end may have been lost
            return known.present and self._bus.client.stats["reconnects"] == began

        try:
            await self._bus.send(subject, exchange.message, reply=key)
            return await exchange.frames(is_there)
        except BaseException:
            with suppress(BusError):  # without the bus its beats find nobody, and that ends the request
                await self._bus.send(subject, encode(Cancel(reply=key)))
            raise
        finally:
            del self._exchanges[key]

    async def _receive(self, msg: Delivery) -> None:
        exchange = self._exchanges.get(msg.subject)
        if exchange is not None:
            exchange.put(msg)
