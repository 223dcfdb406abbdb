"""`/api/v1/…`: one HTTP request is one call on the bus."""

import time
from collections.abc import Iterable

import structlog
from aiohttp import web

from mcpctl.bus import measured
from mcpctl.bus.bearer import kind_of
from mcpctl.bus.connection import Bus
from mcpctl.bus.context import request_context, trace_of
from mcpctl.bus.contract import Message
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError, Forbidden, Unavailable
from mcpctl.bus.metrics import OTHER
from mcpctl.bus.service import Endpoint
from mcpctl.gateway.admission import Admission
from mcpctl.gateway.authorization import Refused, bearer_of
from mcpctl.gateway.rest import openapi, reading
from mcpctl.gateway.rest.access import Visit, demand_own, demand_reach
from mcpctl.gateway.rest.answers import Problem, answer, empty_answer, problem_of, render
from mcpctl.gateway.rest.routes import BASE, Route, routes
from mcpctl.gateway.wire import Fault

log = structlog.get_logger()

PATIENCE = 2.0
"""Seconds to wait for the first of all replicas that are asked."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RestApi:
    """Serves every route that the contracts declare, and the document that describes them."""

    def __init__(self, bus: Bus, admission: Admission, counts: Endpoint) -> None:
        self._bus, self._admission, self._counts = bus, admission, counts
        self._routes = routes()
        self._document = openapi.document(self._routes)

    def register(self, router: web.UrlDispatcher) -> None:
        """Add the routes; all methods of a path are one resource, so that none is shadowed by another path's."""
        paths: dict[str, dict[str, Route]] = {}
        for route in self._routes:
            paths.setdefault(route.path, {})[route.method] = route
        for path in sorted(paths, key=lambda path: "{" in path):  # literal ones first
            router.add_route("*", BASE + path, _Resource(self, paths[path]).answer)
        router.add_route("*", f"{BASE}/openapi.json", self._describe)
        router.add_route("*", BASE, self._unknown)
        router.add_route("*", f"{BASE}/{{rest:.*}}", self._unknown)

    async def serve(self, request: web.Request, served: dict[str, Route]) -> web.Response:
        """Answer a request to a path with these routes, by method."""
        started = time.perf_counter()
        answered = await self._rendered(request, served)
        error = f"HTTP {answered.status}" if answered.status >= 500 else ""
        seconds = time.perf_counter() - started
        self._counts.count(seconds, error)
        measured.HTTP_SECONDS.observe(("rest",), seconds)
        measured.HTTP_REQUESTS.add(
            ("rest", request.method if request.method in METHODS else OTHER, str(answered.status))
        )
        return answered

    async def _rendered(self, request: web.Request, served: dict[str, Route]) -> web.Response:
        try:
            self._admission.check_host(request)
            if request.method == "OPTIONS":
                return empty_answer({"Allow": _allowed(served)})
            route = served.get("GET" if request.method == "HEAD" else request.method)
            if route is None:
                raise _not_allowed(request, served)
            return await self._answer(request, route)
        except Problem as problem:
            return render(problem)
        except Fault as fault:
            return render(problem_of(fault))
        except Exception:
            log.exception("request failed", method=request.method)
            return render(Problem(500, "internal error; the gateway's log has the details"))

    async def _answer(self, request: web.Request, route: Route) -> web.Response:
        try:
            bearer = await self._admit(request, route)
            if bearer is not None and route.asks_about_own_bearer and kind_of(bearer) is None:
                return _reply(route, token.Introspection(active=False))
            message = await reading.read(request, route, bearer)
            if bearer is not None:
                demand_own(bearer, message)
            return _reply(route, *await self._call(request, route, message))
        except (BusError, Refused) as error:
            raise problem_of(error, bearer_given=route.needs_bearer) from error

    async def _admit(self, request: web.Request, route: Route) -> str | None:
        """Return the bearer of who may come to a route, None where none is needed."""
        if not route.needs_bearer:
            return None
        if route.asks_about_own_bearer:
            return bearer_of(request)
        path = dict(request.match_info)
        project = route.project_in(path)
        bearer, principal = await self._admission.identify(request, project)
        try:
            demand_reach(bearer, Visit(principal, route, path))
        except Forbidden as refusal:
            self._admission.note_denial(principal, project, str(refusal))
            raise
        return bearer

    async def _call(self, request: web.Request, route: Route, message: Message) -> list[Message]:
        """Return the answer, or those of all replicas where everyone is asked."""
        if not self._bus.client.is_connected:  # nats-py would wait for the connection until the time is over
            raise Unavailable("the bus is away")
        with request_context(route.call.timeout, trace_of(request.headers.get("traceparent"))):
            if route.call.everyone:
                return await self._bus.ask_everyone(route.call, message, patience=PATIENCE)
            return [await self._bus.call(route.call, message)]

    async def _describe(self, request: web.Request) -> web.Response:
        try:
            self._admission.check_host(request)
        except Fault as fault:
            return render(problem_of(fault))
        if request.method == "OPTIONS":
            return empty_answer({"Allow": _allowed(["GET"])})
        return answer(self._document) if request.method in ("GET", "HEAD") else render(_not_allowed(request, ["GET"]))

    async def _unknown(self, _request: web.Request) -> web.Response:
        return render(Problem(404, f"there is nothing at this path: {BASE}/openapi.json describes what there is"))


class _Resource:
    """All that is served at one path, by method."""

    def __init__(self, api: RestApi, served: dict[str, Route]) -> None:
        self._api, self._served = api, served

    async def answer(self, request: web.Request) -> web.Response:
        return await self._api.serve(request, self._served)


def _allowed(methods: Iterable[str]) -> str:
    served = list(methods)
    return ", ".join((*served, *(("HEAD",) if "GET" in served else ()), "OPTIONS"))


def _not_allowed(request: web.Request, methods: Iterable[str]) -> Problem:
    return Problem(405, f"{request.method} is not served here", {"Allow": _allowed(methods)})


def _reply(route: Route, *replies: Message) -> web.Response:
    if route.status == 204:
        return empty_answer()
    said = [reply.model_dump_json(exclude_none=route.omits_nulls).encode() for reply in replies]
    return answer(b'{"items":[%b]}' % b",".join(said) if route.call.everyone else said[0], route.status)
