"""One routed request to its upstream, with the requests that the upstream makes meanwhile (2026-07-28, patterns/mrtr).

A `requestState` that leaves here is sealed: to what was asked, by whom, of which server. Every router can open it.
"""

import hashlib
import time
from dataclasses import dataclass
from functools import partial

import msgspec
from msgspec import UNSET

from mcpctl.actors.upstream_router import lists, param_headers
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.era import NOTHING, capabilities_for_legacy
from mcpctl.actors.upstream_router.parked import ParkedCall, ParkedCalls
from mcpctl.actors.upstream_router.project import Member
from mcpctl.actors.upstream_router.request_state import Seal
from mcpctl.actors.upstream_router.routes import Route
from mcpctl.actors.upstream_router.upstreams import Client, Upstream, Upstreams
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import (
    CLIENT_ERROR,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    Params,
    decode_fields,
    decode_value,
    encode,
    error_body,
    raw,
)

MAY_ASK = frozenset({"tools/call", "prompts/get", "resources/read"})
"""Methods whose result may be `input_required`."""

STATE_SECONDS = 600.0
"""How long a `requestState` is good for."""

PURPOSE = "request state"
PARKED, UPSTREAM, AGAIN = b"p", b"u", b"a"
"""What a state holds: a parked call and its router, the upstream's own state, or nothing but the wish to ask again."""

URL_ELICITATION_REQUIRED = -32042
"""A handshake server's error that names URLs which its user must visit first (2025-11-25, client/elicitation)."""

EXPIRED = error_body(INVALID_PARAMS, "requestState is no longer known: begin the request again")


class Moved(Exception):  # a fact that the actor acts on, not a failure
    """Another router is to be asked; where it is gone, `otherwise` is the JSON-RPC error for the client.

    Without one it is told that no router took the request, and of `site` that it is not reached.
    """

    def __init__(self, router: str, otherwise: bytes = b"", *, site: str = "") -> None:
        super().__init__(router)
        self.router, self.otherwise, self.site = router, otherwise, site


@dataclass(frozen=True, slots=True)
class Carried:
    """What the client's `requestState` says."""

    kind: bytes
    text: bytes


class Asking:
    """Asks upstreams for this router."""

    def __init__(self, router: str, upstreams: Upstreams, seal: Seal) -> None:
        self._router, self._upstreams, self._seal = router, upstreams, seal
        self.parked = ParkedCalls()

    def carried(self, call: Call, server: str, route: Route, params: Params) -> Carried | None:
        """Open the state that a request carries.

        Raises `Moved` where its call is parked elsewhere, and `ValueError` where it is no state of this request.
        """
        if params.state is UNSET:
            return None
        bound = _bound(call, server, route, params)
        try:
            opened = self._seal.unseal(PURPOSE, params.state, bound, max_age=STATE_SECONDS)
        except ValueError as error:
            raise ValueError(f"requestState: {error}") from error
        kind, text = opened[:1], opened[1:]
        if kind == PARKED:
            router, _, text = text.partition(b":")
            if router.decode() != self._router:
                raise Moved(router.decode(), EXPIRED)
        return Carried(kind, text)

    async def ask(
        self, call: Call, member: Member, route: Route, params: Params, carried: Carried | None, timeout: float
    ) -> Answer:
        """Return the upstream's answer, in the modern era. Raises `BusError`."""
        if carried is not None and carried.kind == PARKED:
            return await self._go_on(call, member, route, params, carried.text.decode(), timeout)
        method, upstream = call.head.method, member.upstream
        declared = bytes(params.meta.capabilities or NOTHING) if params.meta else NOTHING
        capabilities = NOTHING
        if upstream.era != "modern" or call.head.era == "legacy":
            capabilities = capabilities_for_legacy(declared)
            until = time.monotonic() + timeout
            upstream = await self._upstreams.fitting(upstream, call.head.era, capabilities, timeout)
            timeout = max(0.0, until - time.monotonic())
        if upstream.era == "legacy":
            if capabilities != NOTHING and method in MAY_ASK:
                return await self._ask_parked(call, member, upstream, route, params, timeout)
            return await upstream.request(
                method,
                route.params,
                name=route.name,
                notify=call.notify,
                log_level=call.log_level,
                project=call.head.project,
                timeout=timeout,
            )
        if carried is not None or params.responses is not UNSET:
            refused = _error_of_client(params)
            if refused is not None:
                return refused
            route = _with_state(route, carried)
        return await self._ask_modern(call, member, route, params, timeout)

    # --- stateless upstreams ---

    async def _ask_modern(self, call: Call, member: Member, route: Route, params: Params, timeout: float) -> Answer:
        method, headers = call.head.method, call.head.headers
        declared = member.upstream.param_headers.get(route.name or "") if method == "tools/call" else None
        if declared:
            arguments = bytes(params.arguments or b"{}")
            if headers is None:
                headers = param_headers.make(declared, arguments)
            elif wrong := param_headers.why_not(declared, arguments, headers):
                return Answer(result=None, error=error_body(HEADER_MISMATCH, wrong))
        ask = partial(
            member.upstream.request,
            method,
            route.params,
            name=route.name,
            notify=call.notify,
            project=call.head.project,
            timeout=timeout,
        )
        answer = await ask(headers=headers)
        if headers is None and method == "tools/call" and b"-32020" in (answer.error or b""):
            # A handshake client cannot know of the headers that this tool wants; nothing was carried out.
            await lists.uncut(member, member.naming.tool_name(route.name or ""), timeout)
            if declared := member.upstream.param_headers.get(route.name or ""):
                answer = await ask(headers=param_headers.make(declared, bytes(params.arguments or b"{}")))
        if answer.result is None or b"input_required" not in answer.result or method not in MAY_ASK:
            return answer
        fields = decode_fields(answer.result)
        if "requestState" not in fields or bytes(fields.get("resultType", b"")) != b'"input_required"':
            return answer
        inner = str(decode_value(fields["requestState"])).encode()
        fields["requestState"] = raw(self._sealed(UPSTREAM + inner, call, member, route, params))
        return Answer(result=encode(fields), error=None)

    # --- upstreams of the handshake revisions ---

    async def _ask_parked(
        self, call: Call, member: Member, upstream: Upstream, route: Route, params: Params, timeout: float
    ) -> Answer:
        parked = self.parked.new(call)
        work = upstream.request(
            call.head.method,
            route.params,
            name=route.name,
            notify=parked.notify,
            ask=partial(_take, parked),
            log_level=call.log_level,
            owner=call.head.session or parked.id,
            project=call.head.project,
            timeout=FOR_LONG,
        )
        parked.start(work)
        return await self._leg(call, member, route, params, parked, timeout)

    async def _go_on(
        self, call: Call, member: Member, route: Route, params: Params, parked_id: str, timeout: float
    ) -> Answer:
        parked = self.parked.find(parked_id, call.principal)
        if parked is None:
            return Answer(result=None, error=EXPIRED)
        try:
            responses = decode_fields(bytes(params.responses or b"{}"))
        except msgspec.DecodeError:
            return Answer(result=None, error=error_body(INVALID_PARAMS, "inputResponses is not an object"))
        await parked.answer(responses)
        return await self._leg(call, member, route, params, parked, timeout)

    async def _leg(
        self, call: Call, member: Member, route: Route, params: Params, parked: ParkedCall, timeout: float
    ) -> Answer:
        try:
            answer = await parked.leg(call, timeout)
        except TimeoutError as error:
            raise member.upstream.late(timeout) from error
        if answer is None:
            text = PARKED + f"{self._router}:{parked.id}".encode()
            return parked.input_required(self._sealed(text, call, member, route, params))
        if answer.error is not None and b"-32042" in answer.error:
            urls = _urls_to_visit(answer.error)
            if urls:
                state = self._sealed(AGAIN, call, member, route, params)
                asked = {"resultType": "input_required", "inputRequests": urls, "requestState": state}
                return Answer(result=encode(asked), error=None)
        return answer

    def _sealed(self, text: bytes, call: Call, member: Member, route: Route, params: Params) -> str:
        return self._seal.seal(PURPOSE, text, _bound(call, member.server, route, params))


FOR_LONG = 3600.0
"""Seconds: an upstream call that may be parked has its limits in `ParkedCall`, not in the connection."""


def _take(parked: ParkedCall, client: Client, method: str, message: bytes) -> bool:
    return parked.ask(client, method, message)


def _bound(call: Call, server: str, route: Route, params: Params) -> bytes:
    """Return a digest of who asks what of whom."""
    arguments = decode_value(bytes(params.arguments)) if params.arguments is not UNSET else None
    who = call.principal.sha if call.principal is not None else ""
    what = [who, call.head.project, server, call.head.method, route.name, arguments]
    return hashlib.sha256(msgspec.json.encode(what, order="deterministic")).digest()


def _with_state(route: Route, carried: Carried | None) -> Route:
    """Put the upstream's own state where the sealed one was."""
    if carried is None or carried.kind != UPSTREAM:
        return route
    fields = decode_fields(route.params)
    fields["requestState"] = raw(carried.text.decode())
    return Route(route.naming, route.name, encode(fields), route.rule)


def _error_of_client(params: Params) -> Answer | None:
    """Return the error with which a handshake client answered the server: no stateless server could be told."""
    responses = bytes(params.responses or b"{}")
    if CLIENT_ERROR.encode() not in responses:
        return None
    for answer in decode_value(responses).values():
        meta = answer.get("_meta") if isinstance(answer, dict) else None
        if isinstance(meta, dict) and CLIENT_ERROR in meta:
            return Answer(result=None, error=encode(meta[CLIENT_ERROR]))
    return None


def _urls_to_visit(error: bytes) -> dict[str, object]:
    """Return a handshake server's `URLElicitationRequired` as requests to the client; none for another error."""
    fault = decode_value(error)
    data = fault.get("data") if isinstance(fault, dict) and fault.get("code") == URL_ELICITATION_REQUIRED else None
    wanted = data.get("elicitations") if isinstance(data, dict) else None
    if not isinstance(wanted, list):
        return {}
    return {f"elicitation-{n}": {"method": "elicitation/create", "params": item} for n, item in enumerate(wanted, 1)}
