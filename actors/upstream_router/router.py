"""The actor: takes requests from the bus, decides, audits, asks the upstream, answers in frames."""

import asyncio
import hashlib
import secrets
import time
from contextlib import suppress

import msgspec
import structlog

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router import project as projects
from mcpctl.actors.upstream_router.access import Access, AccessCache
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.naming import Naming
from mcpctl.actors.upstream_router.project import LISTS, Member, Project, Route
from mcpctl.actors.upstream_router.upstreams import Authority, Upstreams
from mcpctl.bus.actor import Actor
from mcpctl.bus.connection import Bus, Delivery, Tasks
from mcpctl.bus.contract import PREFIX, Change
from mcpctl.bus.contracts import catalog
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import (
    BadRequest,
    BusError,
    Cancelled,
    Forbidden,
    Internal,
    Unauthenticated,
    Unavailable,
)
from mcpctl.bus.frames import ACCEPT_AFTER, EVERY_ROUTER, Reply, decode_cancel, decode_request, encode
from mcpctl.bus.identity import inbox_of
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Params,
    decode_params,
    error_body,
    tool_failed,
)

log = structlog.get_logger()

ROUTED = frozenset({"tools/call", "prompts/get", "resources/read", "completion/complete"})
CALLS = 4096
"""Calls at once at the most; one more is told that the router is busy."""


class UpstreamRouter(Actor):
    """Carries MCP requests to upstream servers, and their notifications and results back."""

    role = "router"

    def __init__(self, bus: Bus, settings: ActorSettings) -> None:
        super().__init__(bus)
        self.id = f"r{secrets.token_hex(6)}"
        self._settings = settings
        self._access = AccessCache(bus, settings)
        self._upstreams = Upstreams(settings, self._unseal)
        self._calls: dict[str, Call] = {}
        self._count = 0
        self._work = Tasks(CALLS)
        self._background = Tasks()
        self._projects: dict[tuple[str, str | None], Project] = {}
        self._endpoint = self.service.endpoint("mcp", f"{PREFIX}.mcp.*.*", self.role)
        self._pulse = f"{inbox_of(bus.caller)}.pulse{secrets.token_hex(8)}"

    async def open(self) -> None:
        """Follow the feeds and take requests."""
        self._access.tokens.on_change.append(self._end_revoked)
        for follower in self._access.followers:
            follower.on_lapse.append(self._end_all)
            await follower.start()
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
        self._count += 1
        call = Call(self.bus, self.id, msg.reply, head, f"{self._pulse}.{self._count}")
        self._calls[msg.reply] = call
        call.task = self._work.start(self._run(call, body))

    async def _control(self, msg: Delivery) -> None:
        _, _, _, router, caller = msg.subject.split(".")
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
            answer = await self._answer(call, body)
        except BusError as error:
            fault = error
        except asyncio.CancelledError:
            fault = _FAULT_OF[call.ending or "stopping"]
        except Exception:
            log.exception("call failed", method=call.head.method, project=call.head.project)
            fault = Internal("internal error; the router's log has the details")
        accepting.cancel()
        for task in accepted:
            task.cancel()
        self._calls.pop(call.reply, None)
        self._endpoint.count(time.perf_counter() - started, fault.code if fault is not None else "")
        if isinstance(fault, Forbidden):
            self.audit.append_later(self._event(call, "call", "deny", rule=str(fault)))
        if fault is not None:
            await call.fail(fault)
        else:
            await call.finish(answer.result or answer.error or b"{}", error=answer.result is None)

    def _work_beside(self, call: Call) -> asyncio.Task[None]:
        return self._background.start(call.accept())

    async def _answer(self, call: Call, body: bytes) -> Answer:
        head = call.head
        access = self._access.peek(head.bearer, head.project) or await self._resolve(call)
        call.principal = access.principal
        if not self.audit.healthy:
            raise Unavailable("the audit stream does not acknowledge events")
        try:
            asked = decode_params(body)
        except (msgspec.DecodeError, RecursionError) as error:
            log.debug("params refused", error=str(error))
            return Answer(result=None, error=error_body(INVALID_PARAMS, f"params of {head.method}: {error}"))
        project = self._project(access, head.server)
        if head.method in ROUTED:
            return await self._answer_routed(call, access, project, body, asked)
        if head.method in LISTS or head.method == "server/discover":
            event = self.audit.append(self._event(call, "call", "allow", rule="view"))
            answer = await self._answer_listed(call, access, project, body)
            await event
            return answer
        return Answer(result=None, error=error_body(METHOD_NOT_FOUND, f"Method not found: {head.method}"))

    async def _resolve(self, call: Call) -> Access:
        try:
            async with asyncio.timeout(call.head.budget / 1000):
                for follower in self._access.followers:
                    await follower.first_lease()
        except TimeoutError as error:
            raise Unavailable("the actors that know what the caller may do cannot be reached") from error
        call.principal = await self._access.principal(call.head.bearer)
        return await self._access.of(call.head.bearer, call.head.project)

    def _project(self, access: Access, server: str | None) -> Project:
        key = (access.view.project, server)
        project = self._projects.get(key)
        if project is None or project.view is not access.view:
            project = self._projects[key] = Project(access.view, server)
        if server is not None and not (project.namings and access.scope.touches_server(server)):
            raise Forbidden(f"no access to server {server} of project {access.view.project}")
        return project

    def _member_of(self, call: Call, naming: Naming) -> Member:
        session = call.head.session or (call.principal.sha if call.principal is not None else "")
        authority = (call.head.bearer, call.head.project)
        return Member(self._upstreams.get(naming.server, session, authority), naming)

    def _timeout(self, call: Call) -> float:
        return min(self._settings.upstream_timeout_ms, call.head.budget) / 1000

    async def _answer_listed(self, call: Call, access: Access, project: Project, body: bytes) -> Answer:
        scope, method = access.scope, call.head.method
        members = [self._member_of(call, n) for n in project.namings if scope.touches_server(n.server.name)]
        patience = min(self._settings.list_timeout_ms / 1000, self._timeout(call))
        if method == "server/discover":
            infos = await asyncio.gather(*(projects.info_of(member, patience) for member in members))
            return Answer(result=projects.discover(members, infos), error=None)
        if len(members) == 1 and not members[0].naming.prefixed:
            return await projects.list_one(members[0], access, method, body, self._timeout(call), call.notify)
        return await projects.list_all(members, access, method, body, patience)

    async def _answer_routed(self, call: Call, access: Access, project: Project, body: bytes, asked: Params) -> Answer:
        method = call.head.method
        route = await self._route(call, access, project, body, asked)
        digest = hashlib.sha256(asked.arguments).hexdigest() if asked.arguments else None
        if route.naming is None:
            self.audit.append_later(
                self._event(call, "call", "deny", name=route.name, rule=route.rule, args=digest, size_in=len(body))
            )
            return projects.unknown(method, route.name)
        member = self._member_of(call, route.naming)
        facts: dict[str, object] = {"server": member.server, "name": route.name}
        event = self.audit.append(
            self._event(call, "call", "allow", rule=route.rule, args=digest, size_in=len(body), **facts)
        )
        started = time.perf_counter()
        outcome, size = "error", 0
        detail: str | None = None
        try:
            answer = await member.upstream.request(
                method, route.params, name=route.name, notify=call.notify, timeout=self._timeout(call)
            )
            await event
            answer = projects.rename_result(member, method, answer, asked)
            failed = answer.result is None or (method == "tools/call" and tool_failed(answer.result))
            outcome, size = "error" if failed else "allow", len(answer.result or answer.error or b"")
        except asyncio.CancelledError:
            outcome = "revoked" if call.ending == "revoked" else "cancelled"
            detail = "revoked_in_flight" if call.ending == "revoked" else None
            raise
        except BusError as error:
            detail = str(error)
            raise
        else:
            return answer
        finally:
            ms = round((time.perf_counter() - started) * 1000, 3)
            self.audit.append_later(self._event(call, "result", outcome, size_out=size, ms=ms, detail=detail, **facts))

    async def _route(self, call: Call, access: Access, project: Project, body: bytes, asked: Params) -> Route:
        method = call.head.method
        if method == "tools/call":
            original = None
            name = asked.name if isinstance(asked.name, str) else ""
            naming = project.of_name(name)
            if naming is not None and naming.is_cut(name):
                original = await projects.uncut(self._member_of(call, naming), name, self._timeout(call))
            return projects.route_tool(project, access, body, asked, original)
        if method == "prompts/get":
            return projects.route_prompt(project, access, body, asked)
        if method == "resources/read":
            return projects.route_resource(project, access, body, asked)
        return projects.route_completion(project, access, body)

    async def _unseal(self, server: str, authority: Authority) -> catalog.Connection:
        bearer, project = authority
        return await self.bus.call(catalog.unseal, catalog.Unseal(bearer=bearer, project=project, server=server))

    def _event(self, call: Call, kind: str, outcome: str, **facts: object) -> dict[str, object]:
        head = call.head
        event: dict[str, object] = {
            "kind": kind,
            "outcome": outcome,
            "project": head.project,
            "method": head.method,
            "gateway": head.gateway,
            "router": self.id,
            "session": head.session,
            "correlation": head.correlation,
            "trace": head.trace,
            **facts,
        }
        if call.principal is not None:
            event |= _who(call.principal)
        return event


def _who(principal: Principal) -> dict[str, object]:
    token = principal.kind == "McpToken"
    return {
        "principal": principal.label,
        "user": principal.owner.name,
        "token_name": principal.name if token else None,
        "token_sha": principal.sha if token else None,
    }


_FAULT_OF: dict[str, BusError] = {
    "stopping": Unavailable("the router is stopping"),
    "cancelled": Cancelled("the call was cancelled"),
    "revoked": Unauthenticated("revoked"),
    "lapsed": Unavailable("what the caller may do can no longer be confirmed"),
    "stuck": Unavailable("the reader of this call did not keep up"),
}
