"""From a request to its answer: decide, audit, ask the upstream."""

import asyncio
import hashlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router import lists, routes
from mcpctl.actors.upstream_router.access import Access, AccessCache
from mcpctl.actors.upstream_router.asking import Asking, Carried, Moved
from mcpctl.actors.upstream_router.briefing.briefings import Briefing
from mcpctl.actors.upstream_router.briefing.contents import Asker
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.era import NOTHING, capabilities_for_legacy
from mcpctl.actors.upstream_router.list_cursors import Cursors
from mcpctl.actors.upstream_router.listening import Listening, Seen
from mcpctl.actors.upstream_router.naming import Naming
from mcpctl.actors.upstream_router.own_answers import OwnAnswers
from mcpctl.actors.upstream_router.owners import Owners, state_of
from mcpctl.actors.upstream_router.pins import Pins
from mcpctl.actors.upstream_router.project import Member, Project, discover, info_of
from mcpctl.actors.upstream_router.quotas.quotas import Quotas
from mcpctl.actors.upstream_router.request_state import Seal
from mcpctl.actors.upstream_router.routes import Route
from mcpctl.actors.upstream_router.sites import Sites
from mcpctl.actors.upstream_router.upstreams import Authority, Upstream, Upstreams
from mcpctl.actors.upstream_router.uses import Uses
from mcpctl.bus import measured
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.bearer import digest
from mcpctl.bus.contracts.catalog import UpstreamServer
from mcpctl.bus.errors import BadGateway, BusError, Forbidden, NotFound, Unauthenticated, Unavailable
from mcpctl.bus.feed import LEASE
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    Params,
    canonical,
    decode_params,
    error_body,
    tool_failed,
)

ROUTED = frozenset({"tools/call", "prompts/get", "resources/read", "completion/complete"})
PROJECTS = 10_000
"""Routing tables that are kept at the most."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked: the params as they will be sent on, and what a decision needs of them."""

    body: bytes
    params: Params


class Answering:
    """Answers calls by what their bearer may do; the upstream is not asked before that is known."""

    def __init__(
        self,
        access: AccessCache,
        quotas: Quotas,
        upstreams: Upstreams,
        asking: Asking,
        listening: Listening,
        owners: Owners,
        seal: Seal,
        audit: AuditWriter,
        uses: Uses,
        own: OwnAnswers,
        pins: Pins,
        sites: Sites,
        settings: ActorSettings,
    ) -> None:
        self._access, self._upstreams, self._audit, self._settings = access, upstreams, audit, settings
        self._quotas = quotas
        self._asking, self._listening, self._owners, self._uses = asking, listening, owners, uses
        self._seal, self._own, self._pins, self._sites = seal, own, pins, sites
        self._projects: dict[tuple[str, str | None], Project] = {}

    async def answer(self, call: Call, body: bytes) -> Answer:
        """Return the answer of a call. Raises `BusError`."""
        access = self._access.peek(call.head.bearer, call.head.project) or await self._resolve(call)
        call.principal, call.project = access.principal, access.view.project
        call.end_with_bearer(access.principal)
        if self._audit.silent:
            await self._audit.flowing()
        if (access.view.quota is not None or access.principal.quotas) and not call.is_share:
            await self._quotas.admit(call, access)
        method = call.head.method
        try:
            sent = canonical(body) if method in ROUTED else body
            asked = Asked(sent, decode_params(sent))
        except (ValueError, RecursionError) as error:  # msgspec's errors are among these
            return Answer(result=None, error=error_body(INVALID_PARAMS, f"params of {method}: {error}"))
        call.wants(asked.params)
        project = self._project(access, call.head.server)
        if method in ROUTED:
            return await self._answer_routed(call, access, project, asked)
        if method in lists.LISTS or method == "server/discover":
            return await self._answer_listed(call, access, project, asked)
        if method == "subscriptions/listen":
            return await self._answer_listen(call, access, project, asked)
        return Answer(result=None, error=error_body(METHOD_NOT_FOUND, f"Method not found: {method}"))

    async def refusal(self, call: Call) -> BusError | None:
        """Return why a running call may not go on, decided again. Raises `BusError` where that cannot be asked."""
        try:
            access = await self._access.of(call.head.bearer, call.head.project)
            project = self._project(access, call.head.server)
        except (Unauthenticated, Forbidden) as refusal:
            return refusal
        if call.permitted is None or call.permitted(access, project):
            return None
        return Forbidden("the right to this call was taken away")

    async def _resolve(self, call: Call) -> Access:
        try:
            async with asyncio.timeout(min(LEASE, call.head.budget / 1000)):
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
            project = Project(access.view, server)
        if server is not None and not (project.namings and access.scope.touches_server(server)):
            raise Forbidden(f"no access to server {server} of project {access.view.project}")
        if len(self._projects) >= PROJECTS:
            self._projects.clear()
        self._projects[key] = project
        return project

    def _members(self, call: Call, access: Access, project: Project, asked: Asked) -> list[Member]:
        """Return the servers that the caller sees something of."""
        namings = [n for n in project.namings if access.scope.touches_server(n.server.name)]
        pinned = access.view.pin_tools
        return [self._member(call, naming, asked.params, pinned=pinned) for naming in namings]

    def _member(self, call: Call, naming: Naming, params: Params, *, pinned: bool = False) -> Member:
        authority = (call.head.bearer, call.head.project)
        if naming.server.placement != self._sites.own:
            return Member(self._elsewhere(call, naming.server, authority), naming)
        declared = capabilities_for_legacy(bytes(params.meta.capabilities or NOTHING)) if params.meta else NOTHING
        state = _state(call) if naming.server.isolation == "session" else ""
        upstream = self._upstreams.get(naming.server, state, authority, call.head.era, declared)
        key = (call.head.project, naming.server.name)
        return Member(upstream, naming, partial(self._pins.admitted, key, call.head.bearer) if pinned else None)

    def _elsewhere(self, call: Call, server: UpstreamServer, authority: Authority) -> Upstream:
        """Return the way to a server that is placed on a site: one for each caller, in whose name it is asked."""
        state = f"{_state(call)}:{call.head.project}"
        way = partial(self._sites.client, server, call.head)
        return self._upstreams.get(server, state, authority, "modern", NOTHING, way)

    async def _owned(self, call: Call, naming: Naming) -> None:
        """Make sure that this router serves a server, and owns the caller's state at one that keeps one.

        Raises `Moved` where another does, and `NotFound` where the state of a session was lost with its router.
        """
        if naming.server.placement != self._sites.own:
            known = self._sites.elsewhere(naming.server, call.head.absent)
            if known is not None:
                raise Moved(known.router, site=known.site)
        if naming.server.isolation != "session":
            return
        owner = await self._owners.owner_of(call.head, naming.server.name)
        if owner.router != self._owners.router:
            raise Moved(owner.router)
        gone = owner.lost or not (owner.fresh or self._upstreams.has_state(naming.server.name, _state(call)))
        if gone and call.head.session is not None:
            raise NotFound(f"the state of this session at server {naming.server.name} is lost: initialize again")

    async def _owned_first(self, call: Call, access: Access, project: Project) -> Naming | None:
        """Make sure of the first server that keeps a state of the caller, for what is about all of them; return it.

        Where there are several, another router may own the next one: that is asked beside its owner.
        """
        here = (n for n in project.namings if n.server.placement == self._sites.own)
        isolated = (n for n in here if n.server.isolation == "session")
        first = next((n for n in isolated if access.scope.touches_server(n.server.name)), None)
        if first is not None:
            await self._owned(call, first)
        return first

    def _timeout(self, call: Call) -> float:
        return min(self._settings.upstream_timeout_ms / 1000, call.left)

    async def _answer_listed(self, call: Call, access: Access, project: Project, asked: Asked) -> Answer:
        await self._owned_first(call, access, project)
        if call.is_share:
            access = access.without_own()
        else:
            self._uses.note(call)
        event = self._audit.append(call.event("call", "allow", rule="view"))
        return await _after(event, self._list(call, access, project, asked))

    async def _answer_listen(self, call: Call, access: Access, project: Project, asked: Asked) -> Answer:
        owned = await self._owned_first(call, access, project)
        if owned is not None:
            self._member(call, owned, asked.params)  # before anything is awaited: what is owned is there
        await self._audit.append(call.event("call", "allow", rule="view"))

        async def look() -> Seen:
            now = await self._access.of(call.head.bearer, call.head.project)
            now = now.without_own() if call.is_share else now
            there = self._project(now, call.head.server)
            return now, there, self._members(call, now, there, asked)

        return await self._listening.listen(call, asked.body, look)

    async def _list(self, call: Call, access: Access, project: Project, asked: Asked) -> Answer:
        method, whole, body = call.head.method, self._settings.list_timeout_ms / 1000, asked.body
        members = self._members(call, access, project, asked)
        patience = min(whole, self._timeout(call))
        if method == "server/discover":
            infos = await asyncio.gather(*(info_of(member, patience) for member in members))
            return Answer(result=discover(members, infos, access), error=None)
        own = await self._own.listed(call, access)
        if own.shows is not None and access.view.gate is not None and not access.view.gate.exempt:
            members = []
        if len(members) == 1 and not members[0].naming.prefixed and own == lists.NOTHING_OWN:
            return await lists.list_one(members[0], access, method, body, self._timeout(call), call.notify)
        cursors = Cursors(self._seal, call.head.project, call.head.server or "", method, access.principal.sha)
        return await lists.list_all(members, access, method, body, patience, cursors, own=own, blame=patience >= whole)

    async def _answer_routed(self, call: Call, access: Access, project: Project, asked: Asked) -> Answer:
        method = call.head.method
        if access.view.gate is not None or access.view.prompts:
            own = self._own.answering(self._asker(call, access, asked), asked.params)
            if own is not None:
                name = str(asked.params.name)
                self._uses.note(call, name if method == "tools/call" else method)
                event = self._audit.append(call.event("call", "allow", name=name, rule="the project's own"))
                return await _after(event, own)
        original = await self._uncut(call, access, project, asked.params)
        route = _route(method, project, access, asked, original)
        carried = None
        if route.naming is not None:
            await self._owned(call, route.naming)
            try:
                carried = self._asking.carried(call, route.naming.server.name, route, asked.params)
            except ValueError as error:
                return Answer(result=None, error=error_body(INVALID_PARAMS, str(error)))
        arguments = asked.params.arguments
        facts: dict[str, object] = {
            "name": route.name,
            "rule": route.rule,
            "args": hashlib.sha256(arguments).hexdigest() if arguments else None,
            "size_in": len(asked.body),
        }
        if route.naming is None:
            if route.denied is not None:
                facts["server"], facts["name"] = route.denied
            self._audit.append_later(call.event("call", "deny", **facts))
            return routes.refused(method, route)
        call.permitted = lambda now, there: _route(method, there, now, asked, original).naming is not None
        member = self._member(call, route.naming, asked.params)
        if method != "tools/call" or (access.view.gate is None and self._is_pinned(access, member, route)):
            return await self._carry_out(call, member, route, asked, carried, facts)
        stopped = await self._stop(call, access, member, route, asked, facts)
        if isinstance(stopped, Answer):
            return stopped
        answer = await self._carry_out(call, member, route, asked, carried, facts)
        return answer if stopped is None else await self._own.gate.brief(call, stopped, answer)

    def _is_pinned(self, access: Access, member: Member, route: Route) -> bool:
        """Tell whether a tool is known to be as it is pinned, or need not be. This is the hot path."""
        view = access.view
        return not view.pin_tools or self._pins.peek(view.project, member.server, route.name or "") is True

    async def _stop(
        self, call: Call, access: Access, member: Member, route: Route, asked: Asked, facts: dict[str, object]
    ) -> Answer | Briefing | None:
        """Return the answer to a call of a tool that is in quarantine, or that comes before the briefing.

        Else the briefing that goes with its result, or None. Raises `BusError`.
        """
        tool = route.name or ""
        try:
            as_pinned = self._is_pinned(access, member, route) or await self._is_as_pinned(call, member, tool)
        except BusError as error:
            why = {"rule": error.rule or "its tools cannot be listed", "detail": str(error)}
            self._audit.append_later(call.event("call", "error", server=member.server, **facts | why))
            raise
        if not as_pinned:
            kept = routes.quarantined(member.server, tool, asked.params)
            await self._audit.append(call.event("call", "deny", server=member.server, **facts | {"rule": kept.rule}))
            return routes.refused("tools/call", kept)
        if access.view.gate is None:
            return None
        asker = self._asker(call, access, asked)
        stopped = await self._own.gate.stop(asker, member.server, tool, asked.params)
        if isinstance(stopped, Answer):
            facts["rule"] = f"the gate of project {access.view.project}: begin_session comes first"
            await self._audit.append(call.event("call", "deny", server=member.server, **facts))
        return stopped

    async def _carry_out(
        self,
        call: Call,
        member: Member,
        route: Route,
        asked: Asked,
        carried: Carried | None,
        facts: dict[str, object],
    ) -> Answer:
        method, call.server = call.head.method, member.server
        self._uses.note(call, f"{member.server}/{route.name}" if method == "tools/call" else method)
        event = self._audit.append(call.event("call", "allow", server=member.server, **facts))
        return await _after(event, self._ask(call, member, route, asked, carried))

    async def _is_as_pinned(self, call: Call, member: Member, tool: str) -> bool:
        """Tell whether a tool may be called of which nothing is known here; its server is asked if need be."""
        timeout = self._timeout(call)
        try:
            async with asyncio.timeout(timeout):
                key = (call.head.project, member.server)
                return await self._pins.allows(key, tool, call.head.bearer, lambda: lists.every_tool(member, timeout))
        except TimeoutError as error:
            raise member.upstream.late(timeout) from error
        except lists.MALFORMED as error:
            raise BadGateway(f"server {member.server} answered tools/list with what is no list") from error

    def _asker(self, call: Call, access: Access, asked: Asked) -> Asker:
        def upstream_of(server: str) -> Upstream | None:
            namings = self._project(access, None).namings
            naming = next((each for each in namings if each.server.name == server), None)
            if naming is None or naming.server.isolation == "session":
                return None
            return self._member(call, naming, asked.params).upstream

        return Asker(call, access, upstream_of)

    async def _uncut(self, call: Call, access: Access, project: Project, params: Params) -> str | None:
        """Return the server's own name of a tool whose name was cut; None where it was not."""
        if call.head.method != "tools/call" or not isinstance(params.name, str):
            return None
        naming = project.of_name(params.name)
        if naming is None or not naming.is_cut(params.name) or not access.scope.touches_server(naming.server.name):
            return None
        return await lists.uncut(self._member(call, naming, params), params.name, self._timeout(call))

    async def _ask(self, call: Call, member: Member, route: Route, asked: Asked, carried: Carried | None) -> Answer:
        """Ask the upstream, and leave the event `result`: it is not waited for."""
        method, started = call.head.method, time.perf_counter()
        outcome, size = "error", 0
        detail: str | None = None
        rule: str | None = None
        try:
            self._access.demand_leases()  # a process that was stopped since the decision has not heard what changed
            answer = await self._asking.ask(call, member, route, asked.params, carried, self._timeout(call))
            answer = routes.rename_result(member, method, answer, asked.params)
            failed = answer.result is None or (method == "tools/call" and tool_failed(answer.result))
            outcome, size = "error" if failed else "allow", len(answer.result or answer.error or b"")
        except asyncio.CancelledError:
            taken = call.ending in ("revoked", "expired")
            outcome, detail = ("revoked", f"{call.ending}_in_flight") if taken else ("cancelled", None)
            raise
        except BusError as error:
            detail, rule = str(error), error.rule
            raise
        else:
            return answer
        finally:
            seconds = time.perf_counter() - started
            measured.UPSTREAM_SECONDS.observe((member.server,), seconds)
            result: dict[str, object] = {
                "server": member.server,
                "name": route.name,
                "ms": round(seconds * 1000, 3),
                "detail": detail,
                "rule": rule,
            }
            self._audit.append_later(call.event("result", outcome, size_out=size, **result))


def _state(call: Call) -> str:
    return state_of(digest(call.head.bearer), call.head.session)


async def _after(event: "asyncio.Future[None]", work: Coroutine[Any, Any, Answer]) -> Answer:
    """Do the work beside the audit event; what comes of it, an error too, is told once the event is acknowledged."""
    try:
        answer = await work
    except BusError:
        await event
        raise
    await event
    return answer


def _route(method: str, project: Project, access: Access, asked: Asked, original: str | None) -> Route:
    if method == "tools/call":
        return routes.route_tool(project, access, asked.body, asked.params, original)
    if method == "prompts/get":
        return routes.route_prompt(project, access, asked.body, asked.params)
    if method == "resources/read":
        return routes.route_resource(project, access, asked.body, asked.params)
    return routes.route_completion(project, access, asked.body)
