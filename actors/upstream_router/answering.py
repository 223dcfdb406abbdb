"""From a request to its answer: decide, audit, ask the upstream."""

import asyncio
import hashlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router import lists, routes
from mcpctl.actors.upstream_router.access import Access, AccessCache
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.naming import Naming
from mcpctl.actors.upstream_router.project import Member, Project, discover, info_of
from mcpctl.actors.upstream_router.routes import Route
from mcpctl.actors.upstream_router.upstreams import Upstreams
from mcpctl.actors.upstream_router.uses import Uses
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.errors import BusError, Forbidden, Unauthenticated, Unavailable
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
        self, access: AccessCache, upstreams: Upstreams, audit: AuditWriter, uses: Uses, settings: ActorSettings
    ) -> None:
        self._access, self._upstreams, self._audit, self._settings = access, upstreams, audit, settings
        self._uses = uses
        self._projects: dict[tuple[str, str | None], Project] = {}

    async def answer(self, call: Call, body: bytes) -> Answer:
        """Return the answer of a call. Raises `BusError`."""
        access = self._access.peek(call.head.bearer, call.head.project) or await self._resolve(call)
        call.principal = access.principal
        if not self._audit.healthy:
            raise Unavailable("the audit stream does not acknowledge events")
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
            return await self._answer_listed(call, access, project, body)
        return Answer(result=None, error=error_body(METHOD_NOT_FOUND, f"Method not found: {method}"))

    async def still_allowed(self, call: Call) -> bool:
        """Decide a running call again. What cannot be asked now is left to the lease."""
        try:
            access = await self._access.of(call.head.bearer, call.head.project)
            project = self._project(access, call.head.server)
        except (Unauthenticated, Forbidden):
            return False
        except BusError:
            return True
        return call.permitted is None or call.permitted(access, project)

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

    def _member(self, call: Call, naming: Naming) -> Member:
        # By the bearer too: a session's key alone is only the gateway's word.
        session = f"{call.principal.sha if call.principal else ''}:{call.head.session or ''}"
        authority = (call.head.bearer, call.head.project)
        return Member(self._upstreams.get(naming.server, session, authority), naming)

    def _timeout(self, call: Call) -> float:
        return min(self._settings.upstream_timeout_ms, call.head.budget) / 1000

    async def _answer_listed(self, call: Call, access: Access, project: Project, body: bytes) -> Answer:
        self._uses.note(call)
        event = self._audit.append(call.event("call", "allow", rule="view"))
        return await _after(event, self._list(call, access, project, body))

    async def _list(self, call: Call, access: Access, project: Project, body: bytes) -> Answer:
        method, whole = call.head.method, self._settings.list_timeout_ms / 1000
        namings = [n for n in project.namings if access.scope.touches_server(n.server.name)]
        members = [self._member(call, naming) for naming in namings]
        patience = min(whole, self._timeout(call))
        if method == "server/discover":
            infos = await asyncio.gather(*(info_of(member, patience) for member in members))
            return Answer(result=discover(members, infos), error=None)
        if len(members) == 1 and not members[0].naming.prefixed:
            return await lists.list_one(members[0], access, method, body, self._timeout(call), call.notify)
        return await lists.list_all(members, access, method, body, patience, blame=patience >= whole)

    async def _answer_routed(self, call: Call, access: Access, project: Project, asked: Asked) -> Answer:
        method = call.head.method
        original = await self._uncut(call, access, project, asked.params)
        route = _route(method, project, access, asked, original)
        arguments = asked.params.arguments
        facts: dict[str, object] = {
            "name": route.name,
            "rule": route.rule,
            "args": hashlib.sha256(arguments).hexdigest() if arguments else None,
            "size_in": len(asked.body),
        }
        if route.naming is None:
            self._audit.append_later(call.event("call", "deny", **facts))
            return routes.refused(method, route)
        call.permitted = lambda now, there: _route(method, there, now, asked, original).naming is not None
        member = self._member(call, route.naming)
        self._uses.note(call, f"{member.server}/{route.name}" if method == "tools/call" else method)
        event = self._audit.append(call.event("call", "allow", server=member.server, **facts))
        return await _after(event, self._ask(call, member, route, asked))

    async def _uncut(self, call: Call, access: Access, project: Project, params: Params) -> str | None:
        """Return the server's own name of a tool whose name was cut; None where it was not."""
        if call.head.method != "tools/call" or not isinstance(params.name, str):
            return None
        naming = project.of_name(params.name)
        if naming is None or not naming.is_cut(params.name) or not access.scope.touches_server(naming.server.name):
            return None
        return await lists.uncut(self._member(call, naming), params.name, self._timeout(call))

    async def _ask(self, call: Call, member: Member, route: Route, asked: Asked) -> Answer:
        """Ask the upstream, and leave the event `result`: it is not waited for."""
        method, started = call.head.method, time.perf_counter()
        outcome, size = "error", 0
        detail: str | None = None
        try:
            answer = await member.upstream.request(
                method, route.params, name=route.name, notify=call.notify, timeout=self._timeout(call)
            )
            answer = routes.rename_result(member, method, answer, asked.params)
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
            result: dict[str, object] = {"server": member.server, "name": route.name, "ms": ms, "detail": detail}
            self._audit.append_later(call.event("result", outcome, size_out=size, **result))


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
