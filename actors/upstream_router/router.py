"""The actor: takes requests from the bus, has them answered, and sends the frames; ends what must end."""

import asyncio
import secrets
import time
from contextlib import suppress

import structlog

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router.access import AccessCache
from mcpctl.actors.upstream_router.answering import Answering
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.server_logs import ServerLogs
from mcpctl.actors.upstream_router.upstreams import Authority, Upstreams
from mcpctl.actors.upstream_router.uses import Uses
from mcpctl.bus.actor import Actor
from mcpctl.bus.connection import Bus, Delivery, Tasks
from mcpctl.bus.contract import PREFIX, Change
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import BadRequest, BusError, Cancelled, Forbidden, Internal, Unauthenticated, Unavailable
from mcpctl.bus.frames import ACCEPT_AFTER, EVERY_ROUTER, Reply, decode_cancel, decode_request, encode
from mcpctl.bus.identity import inbox_of

log = structlog.get_logger()

CALLS = 4096
"""Calls at once at the most; one more is told that the router is busy."""


class UpstreamRouter(Actor):
    """Carries MCP requests to upstream servers, and their notifications and results back."""

    role = "router"

    def __init__(self, bus: Bus, settings: ActorSettings) -> None:
        super().__init__(bus)
        self.id = f"r{secrets.token_hex(6)}"
        self._access = AccessCache(bus, settings)
        self._logs = ServerLogs(self.id, self.audit)
        self._upstreams = Upstreams(settings, self._unseal, self._logs)
        self._calls: dict[str, Call] = {}
        self._work = Tasks(CALLS)
        self._background = Tasks()
        self._answering = Answering(self._access, self._upstreams, self.audit, Uses(bus), settings)
        self._deciding_again: asyncio.Task[None] | None = None
        self._narrowings = 0
        self.parts = (self._logs,)
        self._endpoint = self.service.endpoint("mcp", f"{PREFIX}.mcp.*.*", self.role)
        self._pulse = f"{inbox_of(bus.caller)}.pulse{secrets.token_hex(8)}"

    async def open(self) -> None:
        """Follow the feeds and take requests."""
        self._access.tokens.on_change.append(self._end_revoked)
        for follower in self._access.followers:
            follower.on_lapse.append(self._end_all)
            await follower.start()
        for narrowed in (self._access.definitions, self._access.catalog):
            narrowed.on_change.append(self._rights_changed)
        await self.bus.receive(f"{self._pulse}.*", self._gateway_gone)
        await self.bus.receive(f"{PREFIX}.router.*.*", self._control)
        await self.bus.receive(f"{PREFIX}.mcp.*.*", self._take, queue=self.role)
        await self.bus.ready()
        for follower in self._access.followers:
            self._background.start(follower.run())
        self._background.start(self._upstreams.sweep())

    async def stop(self) -> None:
        """Take nothing new, finish the calls at hand, end the upstreams."""
        await self.bus.unsubscribe()
        await self._work.finish(5.0)
        await super().stop()

    async def close(self) -> None:
        await self._background.cancel()
        await self._upstreams.close()

    # --- what comes from the bus ---

    async def _take(self, msg: Delivery) -> None:
        caller = msg.subject.rpartition(".")[2]
        if not msg.reply.startswith(inbox_of(caller) + "."):
            log.warning("request dropped: its reply subject is not its caller's", subject=msg.subject)
            return
        try:
            head, body = decode_request(msg.data)
            if self._work.full:
                raise Unavailable("the router is at its limit of running calls")
        except BusError as error:
            with suppress(BusError):
                await self.bus.send(msg.reply, encode(Reply("end", 1, fault=(error.code, str(error)))))
            return
        call = Call(self.bus, self.id, caller, msg.reply, head, f"{self._pulse}.{secrets.token_hex(8)}")
        self._calls[msg.reply] = call
        call.task = self._work.start(self._run(call, body))

    async def _control(self, msg: Delivery) -> None:
        _, _, _, router, caller = msg.subject.split(".")
        if router not in (self.id, EVERY_ROUTER):
            return  # another router's, or a call that every router answers
        try:
            cancel = decode_cancel(msg.data)
        except BadRequest:
            return
        if router == self.id and cancel.reply is not None and cancel.reply.startswith(inbox_of(caller) + "."):
            call = self._calls.get(cancel.reply)
            if call is not None:
                call.end("cancelled")
        elif router == EVERY_ROUTER and cancel.session is not None and cancel.request_id is not None:
            for call in self._calls.values():
                if (call.head.session, call.head.request_id) == (cancel.session, cancel.request_id):
                    call.end("cancelled")

    async def _gateway_gone(self, msg: Delivery) -> None:
        if (msg.headers or {}).get("Status") == "503":
            for call in self._calls.values():
                if call.pulse == msg.subject:
                    call.end("cancelled")

    def _end_revoked(self, change: Change) -> None:
        if change.action in ("revoked", "removed"):
            for call in self._calls.values():
                if call.principal is not None and call.principal.depends_on(change.kind, change.key):
                    call.end("revoked")
        elif change.action == "changed":
            self._rights_changed(change)  # a user's groups, say

    def _rights_changed(self, _change: Change) -> None:
        self._narrowings += 1
        if self._calls and (self._deciding_again is None or self._deciding_again.done()):
            self._deciding_again = self._background.start(self._decide_again())

    async def _decide_again(self) -> None:
        """End the running calls that would not be let in any more; once more if rights change meanwhile."""
        decided = None
        while decided != self._narrowings:
            decided = self._narrowings
            await asyncio.sleep(0)  # the caches drop what the change concerns first
            for call in list(self._calls.values()):
                if call.principal is not None and not await self._answering.still_allowed(call):
                    call.end("revoked")

    def _end_all(self) -> None:
        for call in self._calls.values():
            call.end("lapsed")

    # --- one call ---

    async def _run(self, call: Call, body: bytes) -> None:
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        accepting = loop.call_later(ACCEPT_AFTER, lambda: accepted.append(self._work_beside(call)))
        accepted: list[asyncio.Task[None]] = []
        fault: BusError | None = None
        try:
            answer = await self._answering.answer(call, body)
        except BusError as error:
            fault = error
        except asyncio.CancelledError:
            fault = _FAULT_OF[call.ending or "stopping"]
        except Exception:
            log.exception("call failed", method=call.head.method, project=call.head.project)
            fault = Internal("internal error; the router's log has the details")
        if fault is None and call.ending is not None:
            fault = _FAULT_OF[call.ending]  # the cancellation met the answer: the answer came too late
        accepting.cancel()
        for task in accepted:
            task.cancel()
        self._calls.pop(call.reply, None)
        self._endpoint.count(time.perf_counter() - started, fault.code if fault is not None else "")
        if isinstance(fault, Forbidden):
            self.audit.append_later(call.event("call", "deny", rule=str(fault)))
        if fault is not None:
            await call.fail(fault)
        else:
            await call.finish(answer.result or answer.error or b"{}", error=answer.result is None)

    def _work_beside(self, call: Call) -> asyncio.Task[None]:
        return self._background.start(call.accept())

    async def _unseal(self, server: str, authority: Authority) -> catalog.Connection:
        bearer, project = authority
        return await self.bus.call(catalog.unseal, catalog.Unseal(bearer=bearer, project=project, server=server))


_FAULT_OF: dict[str, BusError] = {
    "stopping": Unavailable("the router is stopping"),
    "cancelled": Cancelled("the call was cancelled"),
    "revoked": Unauthenticated("revoked"),
    "lapsed": Unavailable("what the caller may do can no longer be confirmed"),
    "stuck": Unavailable("the reader of this call did not keep up"),
}
