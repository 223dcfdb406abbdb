"""The actor: takes requests from the bus, has them answered, and sends the frames; ends what must end."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial

import structlog

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router.access import AccessCache
from mcpctl.actors.upstream_router.answering import Answering
from mcpctl.actors.upstream_router.asking import Asking, Moved
from mcpctl.actors.upstream_router.beats import Beats
from mcpctl.actors.upstream_router.call import LISTEN, Call
from mcpctl.actors.upstream_router.gate import Gate
from mcpctl.actors.upstream_router.listening import Listening
from mcpctl.actors.upstream_router.other_routers import OtherRouters
from mcpctl.actors.upstream_router.own_answers import OwnAnswers
from mcpctl.actors.upstream_router.owners import Owners
from mcpctl.actors.upstream_router.passages import Passages
from mcpctl.actors.upstream_router.pins import Pins
from mcpctl.actors.upstream_router.presence import Presence
from mcpctl.actors.upstream_router.quotas.quotas import Quotas
from mcpctl.actors.upstream_router.request_state import Seal
from mcpctl.actors.upstream_router.server_logs import ServerLogs
from mcpctl.actors.upstream_router.server_states import ServerStates
from mcpctl.actors.upstream_router.sites import READ_LOG, Sites
from mcpctl.actors.upstream_router.upstreams import Authority, Upstreams
from mcpctl.actors.upstream_router.uses import Uses
from mcpctl.bus import measured, metrics
from mcpctl.bus.actor import Actor
from mcpctl.bus.connection import Bus, Delivery, Tasks
from mcpctl.bus.contract import PREFIX, Change
from mcpctl.bus.contracts import catalog, gate, pins
from mcpctl.bus.contracts.router import ReadLog
from mcpctl.bus.errors import BadRequest, BusError, Cancelled, Forbidden, Internal, Unauthenticated, Unavailable
from mcpctl.bus.frames import (
    ACCEPT_AFTER,
    EVERY_ROUTER,
    Cancel,
    Reply,
    Request,
    decode_cancel,
    decode_request,
    encode,
    router_subject,
)
from mcpctl.bus.identity import AdmittedIdentity, inbox_of, router_id, site_of
from mcpctl.bus.misuse import is_callers_own
from mcpctl.bus.networks import Networks
from mcpctl.bus.places import Places

log = structlog.get_logger()

DECIDE_AFTER = 0.2
"""Seconds until running calls are decided again that could not be."""

CALLS = 8192
"""Calls at once at the most, of one project half as many; one more is told that the router is busy."""

LISTENS = 100_000
"""Streams of notifications at once at the most: they cost memory, and nothing while nothing happens."""


UNSEALS = 8
"""Connections that the Catalog is asked for at once: the first list of hundreds of servers is not to hold up leases."""


class UpstreamRouter(Actor):
    """Carries MCP requests to upstream servers, and their notifications and results back."""

    role = "router"

    def __init__(self, bus: Bus, settings: ActorSettings) -> None:
        super().__init__(bus)
        self.site = site_of(bus.caller)
        self.id = router_id(bus.caller) if self.site else f"r{secrets.token_hex(6)}"
        self._access = AccessCache(bus, settings)
        self._sites = Sites(bus)
        self._logs = ServerLogs(self.id, self.audit, self._sites)
        self._others = OtherRouters(bus, self.id)
        self._upstreams = Upstreams(settings, self._unseal, self._logs, self._others)
        own = bus.identity
        seal = Seal.of_site(own.bearer) if isinstance(own, AdmittedIdentity) else Seal.of_routers(settings.keys)
        networks = Networks.parse(settings.upstream_networks)
        self._asking = Asking(self.id, self._upstreams, seal)
        self._listening = Listening()
        self._owners = Owners(bus, self.id)
        self._beats = Beats(bus, self.id, self._gateway_gone)
        self._calls: dict[str, Call] = {}
        self._answered: set[str] = set()
        """The reply subjects of calls that are over, and whose `end` has not been sent yet."""
        self._work, self._listens = Tasks(), Tasks()
        self._rooms = ((self._work, Places(CALLS)), (self._listens, Places(LISTENS)))
        self._background = Tasks()
        self._addressed: list[Callable[[], Awaitable[None]]] = []
        """End what comes to this router by its name."""
        self._unsealing = asyncio.Semaphore(UNSEALS)
        self._quotas = Quotas(bus, self.id, self.audit)
        self._answering = Answering(
            self._access,
            self._quotas,
            self._upstreams,
            self._asking,
            self._listening,
            self._owners,
            seal,
            self.audit,
            Uses(bus),
            OwnAnswers(bus, Gate(bus, Passages(bus, self._owners.sessions), self.audit, networks)),
            Pins(bus, self._access.catalog),
            self._sites,
            settings,
        )
        self._deciding_again: asyncio.Task[int] | None = None
        self._narrowings = 0
        states = ServerStates(self.id, self._upstreams, self._sites, self.audit)
        self._presence = Presence(bus, states)
        if self.site:
            self.service.metadata["site"] = self.site
        else:  # which operator asks with which bearer is not for a site to hear
            self.parts = (self._logs, states)
        self._sites.on_site.append(self._check_site)
        self._endpoint = self.service.endpoint("mcp", f"{PREFIX}.mcp.*.*", self.role)
        self.needs["leases"] = self._demand_leases
        metrics.watch(self)

    async def _demand_leases(self) -> None:
        self._access.demand_leases()

    def measures(self) -> Iterator[metrics.Measured]:
        """Yield what metrics tell of this router."""
        yield measured.AT_WORK, self._work.count, ()
        yield measured.LISTENS, self._listens.count, ()
        yield measured.PARKED, self._asking.parked.count, ()
        yield from self._upstreams.measures()

    async def open(self) -> None:
        """Follow the feeds and take requests."""
        self._access.tokens.on_change.append(self._end_revoked)
        for follower in self._access.followers:
            follower.on_lapse.append(self._end_all)
            await follower.start()
        for narrowed in (self._access.definitions, self._access.catalog):
            narrowed.on_change.append(self._rights_changed)
        self._owners.sessions.on_change.append(self._gate_changed)
        self._owners.on_lost.append(self._upstreams.end_states)
        self._owners.in_use.append(self._upstreams.has_state)
        await self._owners.open()
        await self._others.open()
        await self._beats.open()
        await self._quotas.open()
        await self._sites.open()
        if self.site:
            by_name = [router_subject(router, "*") for router in (self.id, EVERY_ROUTER)]
        else:
            by_name = [f"{PREFIX}.router.*.*"]
        self._addressed = [await self.bus.receive(subject, self._control) for subject in by_name]
        if not self.site:
            await self.bus.receive(f"{PREFIX}.mcp.*.*", self._take, queue=self.role, inline=True)
        await self.bus.ready()
        for follower in self._access.followers:
            self._background.start(follower.run())
        for work in (self._upstreams.sweep(), self._asking.parked.sweep(), self._owners.run(), self._beats.run()):
            self._background.start(work)
        self._background.start(self._presence.run())
        self._background.start(self._quotas.run())

    async def stop(self, grace: float = 10.0) -> None:
        """Take nothing new, finish the calls at hand within `grace` seconds, end the upstreams."""
        await self._presence.leave()
        await self.bus.leave()
        for call in self._calls.values():
            if call.head.method == LISTEN:
                call.end("stopping")
        await self._listens.finish(1.0)
        await self._work.finish(grace)
        for leave in self._addressed:
            await leave()
        await self._work.finish(grace)  # what was sent to this router by its name until now
        await self._owners.stop()
        await self._quotas.stop()
        await super().stop(grace)

    async def close(self) -> None:
        await self._background.cancel()
        await self._listening.close()
        await self._quotas.close()
        await self._others.close()
        self._asking.parked.close()
        await self._upstreams.close()

    # --- what comes from the bus ---

    async def _take(self, msg: Delivery) -> None:
        caller = msg.subject.rpartition(".")[2]
        if not is_callers_own(msg.subject, msg.reply):
            self.bus.misuse.note(msg.subject)
            return
        try:
            head, body = decode_request(msg.data)
            tasks, places = self._rooms[head.method == LISTEN]
            if not places.has_room(head.project):
                raise Unavailable("the router is at its limit of running calls")
        except BusError as error:
            with suppress(BusError):
                await self.bus.send(msg.reply, encode(Reply("end", 1, fault=(error.code, str(error)))))
            return
        if head.method == READ_LOG and self.site and caller == self.role:
            await self._tell_log(msg.reply, body)
            return
        call = Call(self.bus, self.id, caller, msg.reply, head)
        self._calls[msg.reply] = call
        places.take(head.project)
        call.task = tasks.start(self._run(call, body))
        call.task.add_done_callback(lambda _: places.leave(head.project))

    async def _tell_log(self, reply: str, body: bytes) -> None:
        """Tell a router of the default group what a server here has written: it has decided who may see that."""
        with suppress(BusError, ValueError):
            said = self._logs.newest(ReadLog.model_validate_json(body)).model_dump_json().encode()
            await self.bus.send(reply, encode(Reply("end", 1), said))

    async def _control(self, msg: Delivery) -> None:
        _, _, _, router, caller = msg.subject.split(".")
        if router not in (self.id, EVERY_ROUTER):
            return  # another router's, or a call that every router answers
        if msg.reply:
            await self._take(msg)
            return
        try:
            cancel = decode_cancel(msg.data)
        except BadRequest:
            return
        if router == self.id and cancel.reply is not None and cancel.reply.startswith(inbox_of(caller) + "."):
            call = self._calls.get(cancel.reply)
            if call is not None and not cancel.probe:
                call.end("cancelled")
            elif cancel.probe and call is None and cancel.reply not in self._answered:
                lost = Unavailable("the answer to this request was lost; it may have been carried out")
                with suppress(BusError):
                    await self.bus.send(cancel.reply, encode(Reply("end", 1, fault=(lost.code, str(lost)))))
        elif router == EVERY_ROUTER and cancel.session is not None and cancel.request_id is not None:
            for call in self._calls.values():
                if _is_request(call.head, cancel):
                    call.end("cancelled")
            self._asking.parked.end_where(lambda parked: _is_request(parked.head, cancel))

    def _check_site(self, site: str) -> None:
        self.service.checks[f"site {site}"] = partial(self._sites.check, site)

    def _gateway_gone(self, prefix: str) -> None:
        for call in self._calls.values():
            if call.prefix == prefix:
                call.end("cancelled")

    def _end_revoked(self, change: Change) -> "asyncio.Task[int] | int":
        if change.action == "changed":
            return self._rights_changed(change)  # a user's groups, say
        if change.action not in ("revoked", "removed"):
            return 0
        self._asking.parked.end_where(
            lambda parked: parked.principal is not None and parked.principal.depends_on(change.kind, change.key)
        )
        concerned = [
            c
            for c in self._calls.values()
            if c.principal is not None and c.principal.depends_on(change.kind, change.key)
        ]
        return sum(call.end("revoked") for call in concerned)

    def _rights_changed(self, change: Change) -> "asyncio.Task[int] | int":
        if change.kind == pins.KIND:
            self._listening.pins_changed(change.key)
            return 0
        self._narrowings += 1
        self._listening.look_again()
        if not self._calls:
            return 0
        if self._deciding_again is None or self._deciding_again.done():
            self._deciding_again = self._background.start(self._decide_again())
        return self._deciding_again

    def _gate_changed(self, change: Change) -> None:
        if change.kind == gate.KIND and change.action != "changed":
            self._listening.gate_changed(change.key)

    async def _decide_again(self) -> int:
        """End the running calls that would not be let in any more; once more if rights change meanwhile.

        Returns how many those were.
        """
        decided, ended = None, 0
        while decided != self._narrowings:
            decided = self._narrowings
            await asyncio.sleep(0)  # the caches drop what the change concerns first
            for call in [c for c in self._calls.values() if c.principal is not None and c.ending is None]:
                try:
                    call.refusal = await self._answering.refusal(call)
                except BusError:
                    decided = None  # nothing is confirmed until that is known, or the lease ends the call
                    continue
                if call.refusal is not None:
                    ended += call.end("revoked")
            if decided is None:
                await asyncio.sleep(DECIDE_AFTER)
        return ended

    def _end_all(self) -> None:
        for call in self._calls.values():
            call.end("lapsed")

    # --- one call ---

    async def _run(self, call: Call, body: bytes) -> None:
        call.begin()
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        accepting = loop.call_later(ACCEPT_AFTER, lambda: accepted.append(self._work_beside(call)))
        accepted: list[asyncio.Task[None]] = []
        fault: BusError | None = None
        moved: Moved | None = None
        self._beats.add(call.prefix)
        try:
            answer = await self._answering.answer(call, body)
        except BusError as error:
            fault = error
        except Moved as move:
            moved = move
        except asyncio.CancelledError:
            fault = _fault_of(call)
        except Exception:
            log.exception("call failed", method=call.head.method, project=call.head.project)
            fault = Internal("internal error; the router's log has the details")
        if fault is None and moved is None and call.ending is not None:
            fault = _fault_of(call)  # the cancellation met the answer: the answer came too late
        accepting.cancel()
        call.leave()
        for task in accepted:
            task.cancel()
        self._answered.add(call.reply)
        self._calls.pop(call.reply, None)
        self._beats.remove(call.prefix)
        seconds = time.perf_counter() - started
        self._endpoint.count(seconds, fault.code if fault is not None else "")
        if isinstance(fault, Forbidden):
            self.audit.append_later(call.event("call", "deny", rule=str(fault)))
        try:
            await self._quotas.leave(call, moved=moved is not None)
            if fault is not None:
                await call.fail(fault)
            elif moved is not None:
                await call.move(moved.router, moved.otherwise, moved.site)
            else:
                await call.finish(answer.result or answer.error or b"{}", error=answer.result is None)
        finally:
            self._answered.discard(call.reply)
        call.measure(seconds)

    def _work_beside(self, call: Call) -> asyncio.Task[None]:
        return self._background.start(call.accept())

    async def _unseal(self, server: str, authority: Authority) -> catalog.Connection:
        bearer, project = authority
        async with self._unsealing:
            return await self.bus.call(catalog.unseal, catalog.Unseal(bearer=bearer, project=project, server=server))


def _is_request(head: Request, cancel: Cancel) -> bool:
    return (head.session, head.request_id) == (cancel.session, cancel.request_id)


def _fault_of(call: Call) -> BusError:
    return call.refusal if call.refusal is not None else _FAULT_OF[call.ending or "stopping"]


_FAULT_OF: dict[str, BusError] = {
    "stopping": Unavailable("the router is stopping"),
    "cancelled": Cancelled("the call was cancelled"),
    "revoked": Unauthenticated("revoked"),
    "expired": Unauthenticated("expired"),
    "lapsed": Unavailable("what the caller may do can no longer be confirmed"),
    "stuck": Unavailable("the reader of this call did not keep up"),
}
