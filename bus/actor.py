"""An actor: what it answers, and how it is started and stopped.

An actor's body is its handlers. Each is bound to a contract by `handles`, so that mypy refuses a handler that
does not fit; where the contract names a right, the RbacEvaluator has granted it before the handler runs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import structlog

from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus
from mcpctl.bus.context import traceparent
from mcpctl.bus.contract import Authorized, Call, Message, Need, Role
from mcpctl.bus.contracts import rbac
from mcpctl.bus.errors import BusError, Forbidden, Internal, Unavailable
from mcpctl.bus.identity import ActorIdentity
from mcpctl.bus.service import Endpoint, Service

log = structlog.get_logger()

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
A = TypeVar("A")

CHECK_SECONDS = 1.0
"""How long each thing that it needs may take to answer."""


@dataclass(frozen=True)
class Caller:
    """Who asks: the connection's name, and (where the contract names a right) for whom, as the RbacEvaluator says."""

    name: str
    verdict: rbac.Verdict | None = None

    @property
    def authority(self) -> rbac.Verdict:
        """The verdict that let this call in. Raises `Internal` for a contract that names no right."""
        if self.verdict is None:
            raise Internal("this call carries no verdict")
        return self.verdict


def handles(
    call: Call[Q, R],
) -> Callable[[Callable[[A, Q, Caller], Awaitable[R]]], Callable[[A, Q, Caller], Awaitable[R]]]:
    """Bind a method to the contract that it answers."""

    def bind(method: Callable[[A, Q, Caller], Awaitable[R]]) -> Callable[[A, Q, Caller], Awaitable[R]]:
        method.__dict__["answers"] = call
        return method

    return bind


class Actor:
    """The base of all actors. `audited` verbs leave an event, acknowledged before the answer leaves."""

    role: ClassVar[Role]
    audited: ClassVar[frozenset[str]] = frozenset()
    urgent: ClassVar[frozenset[str]] = frozenset()
    """Audited verbs that only take away, as those do that need `delete`: done even while they cannot be recorded."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.audit = AuditWriter(bus)
        bus.misuse.tell = lambda event: self.audit.append_later({"kind": "bus"} | event)
        self.service = Service(self.role, (type(self).__doc__ or "").partition("\n")[0])
        self.parts: tuple[object, ...] = ()
        """What else holds handlers, one noun each; set by `open`."""

        self.needs: dict[str, Callable[[], Awaitable[object]]] = {}
        """What this replica cannot do without, by name: each returns while it is there, and raises `BusError` else."""

    @property
    def identity(self) -> ActorIdentity:
        """The static identity, which also opens the actor's connections to EVENTS and STREAMS."""
        if not isinstance(self.bus.identity, ActorIdentity):
            raise TypeError("an actor connects with a key of its own")
        return self.bus.identity

    async def open(self) -> None:
        """Open what the actor owns; called before it answers anything."""

    async def close(self) -> None:
        """Close what `open` opened; called when nothing is asked any more."""

    async def start(self) -> None:
        """Open, then answer every call that a method handles."""
        await self.open()
        for part in (self, *self.parts):
            for name in dir(type(part)):
                call = getattr(getattr(type(part), name), "answers", None)
                if isinstance(call, Call):
                    await self._serve(call, getattr(part, name))
        await self.service.serve(self.bus)
        await self.bus.ready()
        log.info("actor ready", actor=self.role)

    async def stop(self, grace: float = 10.0) -> None:
        """Take nothing new, finish what is at hand within `grace` seconds, then close."""
        await self.bus.leave()
        await self.bus.tasks.finish(grace)
        await self.bus.unsubscribe()
        await self.audit.close()
        await self.close()
        await self.bus.close()

    async def missing(self) -> list[str]:
        """Return what it would need to be of use now."""
        if not self.bus.client.is_connected:
            return [f"bus ({self.role})"]
        missing = [] if self.audit.healthy else [f"audit stream ({self.role})"]
        for name, ask in self.needs.items():
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await ask()
            except (BusError, TimeoutError):
                missing.append(f"{name} ({self.role})")
        return missing

    async def decide(self, bearer: str, need: Need, name: str | None, project: str | None) -> rbac.Verdict:
        """Ask the RbacEvaluator for its verdict, granted or not. Raises `Unauthenticated` for a bad bearer."""
        asked = {"verb": need.verb, "resource": need.resource, "action": need.operation, "name": name}
        check = rbac.Check.model_validate({"bearer": bearer, "project": project, **asked})
        return await self.bus.call(rbac.check, check)

    async def authorize(self, bearer: str, need: Need, name: str | None, project: str | None) -> rbac.Verdict:
        """Return the verdict that grants a right. Raises `Forbidden`, or `Unauthenticated` for a bad bearer."""
        return _granted(await self.decide(bearer, need, name, project))

    async def who(self, request: Message, verdict: rbac.Verdict | None) -> dict[str, object]:
        """Return the audit fields that say who asked; an actor whose calls carry no verdict knows better."""
        del request
        return event_of(verdict)

    async def note(self, kind: str, verdict: rbac.Verdict, *, name: str, project: str | None = None) -> None:
        """Leave the audit event of one change among several that a call made. Raises `Unavailable`."""
        event = {"kind": kind, "outcome": "allow", "project": project, "name": name, "rule": verdict.reason}
        await self.audit.append(event_of(verdict) | event | {"trace": traceparent()})

    async def _serve(self, call: Call[Any, Any], handler: Callable[[Any, Caller], Awaitable[Any]]) -> None:
        endpoint = self.service.endpoint(call.verb, call.subject("*"), call.actor)

        async def guarded(request: Message, caller: str) -> Message:
            started = time.perf_counter()
            verdict: rbac.Verdict | None = None
            try:
                if call.needs is not None and isinstance(request, Authorized):
                    verdict = await self.decide(request.bearer, call.needs, *_target(request, call.needs))
                    _granted(verdict)
                    if call.needs.beside is not None:
                        await self.authorize(request.bearer, call.needs.beside, None, None)
                    await self._check_audit(call, call.needs)
                answer: Message = await handler(request, Caller(caller, verdict))
            except BusError as error:
                await self._note(call, request, verdict, error)
                endpoint.count(time.perf_counter() - started, error.code)
                raise
            except Exception as error:
                endpoint.count(time.perf_counter() - started, type(error).__name__)
                raise
            await self._note(call, request, verdict, None)
            endpoint.count(time.perf_counter() - started)
            return answer

        await self.bus.serve(call, guarded)

    async def _check_audit(self, call: Call[Any, Any], needs: Need) -> None:
        """Refuse to begin what could not be recorded now. What only takes away is done all the same, recorded late."""
        gives = call.verb in self.audited - self.urgent and needs.verb != "delete"
        try:
            if gives and self.audit.silent:
                await self.audit.flowing()
        except Unavailable as error:
            raise Unavailable(f"{error}: nothing was changed") from error

    async def _note(
        self, call: Call[Any, Any], request: Message, verdict: rbac.Verdict | None, error: BusError | None
    ) -> None:
        """Leave the audit event of a verb that is audited: acknowledged, or the caller is told that it is not."""
        if call.verb not in self.audited:
            return
        name, project = _target(request, call.needs)
        refused = error is not None and error.http_status in (401, 403)
        event = await self.who(request, verdict) | {
            "kind": call.name,
            "outcome": "allow" if error is None else "deny" if refused else "error",
            "project": project,
            "name": name,
            "rule": verdict.reason if verdict is not None else None,
            "trace": traceparent(),
            "detail": None if error is None else str(error),
        }
        if error is None:
            await self.audit.append(event)
        elif self.audit.healthy:
            with suppress(BusError):
                await self.audit.append(event)
        else:
            self.audit.append_later(event)  # the refusal need not wait for what it is about


def _granted(verdict: rbac.Verdict) -> rbac.Verdict:
    if not verdict.allowed:
        raise Forbidden(verdict.reason)
    return verdict


def event_of(verdict: rbac.Verdict | None) -> dict[str, object]:
    """Return the audit fields that say who."""
    if verdict is None:
        return {}
    token = verdict.kind == "McpToken"
    return {
        "principal": verdict.label,
        "user": verdict.owner if verdict.owner_kind == "User" else None,
        "token_name": verdict.name if token else None,
        "token_sha": verdict.sha if token else None,
    }


def _target(request: Message, need: Need | None) -> tuple[str | None, str | None]:
    """Return the name and the project that a request is about."""
    name = getattr(request, "name", None)
    project = getattr(request, "project", None)
    if project is None and need is not None and need.resource == "projects":
        project = name
    return name, project


__all__ = ["Actor", "Caller", "Endpoint", "event_of", "handles"]
