"""One call that the router is at: its frames to the gateway, and how it may be ended from outside."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from msgspec import UNSET

from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.project import Project
from mcpctl.actors.upstream_router.quotas.limits import Limit
from mcpctl.bus import measured
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError
from mcpctl.bus.feed import now
from mcpctl.bus.frames import LATE_AFTER, PIECE, Reply, Request, encode
from mcpctl.bus.identity import role_of
from mcpctl.bus.mcp_messages import Params, is_progress_of, reaches
from mcpctl.bus.metrics import NONE

LISTEN = "subscriptions/listen"
"""The method without a deadline."""

BUFFER = 16 * 1024 * 1024
"""Bytes of notifications that may wait for the bus; past that the call ends with an error."""


class Call:
    """A request at hand. `ending` says why it is being ended, if it is not by its own answer."""

    def __init__(self, bus: Bus, router: str, caller: str, reply: str, head: Request) -> None:
        self.head, self.caller, self.reply = head, caller, reply
        self.prefix = reply.rpartition(".")[0]
        self._taken_at = now()
        self._until = self._taken_at + head.budget / 1000
        self._late = False
        self.permitted: Callable[[Access, Project], bool] | None = None
        """Decides the call again, when rights change while it runs."""
        self.principal: Principal | None = None
        self.ending: Literal["cancelled", "revoked", "expired", "lapsed", "stuck", "stopping"] | None = None
        self.project = self.server = NONE
        """What metrics count the call for: known once its caller was let in, and the server chosen."""

        self.outcome = "stopping"
        self.uses: tuple[str, list[Limit]] | None = None
        """What it counts as, and the limits of quotas under which it does."""
        self.refusal: BusError | None = None
        """Why a call that has been decided again may not go on."""
        self.task: asyncio.Task[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self.progress_token: bytes | None = None
        self.log_level: str | None = None
        self._bus, self._router = bus, router
        self._number = 0
        self._outbox: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._pump: asyncio.Task[None] | None = None

    @property
    def is_share(self) -> bool:
        """Whether another router asks, for what a server here has to say in a list or stream of a whole project."""
        return role_of(self.caller) == "router"

    def end(self, why: Literal["cancelled", "revoked", "expired", "lapsed", "stuck", "stopping"]) -> bool:
        """End the call from outside: its task is cancelled, and that cancels the upstream. Return False if it ends."""
        if self.ending is not None or self.task is None:
            return False
        self.ending = why
        self.task.cancel()
        return True

    @property
    def left(self) -> float:
        """Seconds that are left of its budget."""
        return max(0.0, self._until - now())

    def end_with_bearer(self, principal: Principal) -> None:
        """End the call when its bearer expires, if that is before its time is over."""
        left = principal.until - now()
        if left < self.head.budget / 1000 or (self.head.method == LISTEN and left < math.inf):
            self._expiry = asyncio.get_running_loop().call_later(left, self.end, "expired")

    def begin(self) -> None:
        """Note that the router has come to it."""
        self._late = now() - self._taken_at > LATE_AFTER

    def leave(self) -> None:
        """Note that the call is over."""
        if self._expiry is not None:
            self._expiry.cancel()

    def event(self, kind: str, outcome: str, **facts: object) -> dict[str, object]:
        """Return an audit event about this call."""
        head = self.head
        return {
            "kind": kind,
            "outcome": outcome,
            "project": head.project,
            "method": head.method,
            "gateway": self.caller,
            "router": self._router,
            "session": head.session,
            "correlation": head.correlation,
            "trace": head.trace,
            **facts,
            **(self.principal.audit_fields if self.principal is not None else {}),
        }

    def wants(self, params: Params) -> None:
        """Note which notifications the request asks for (2026-07-28: progress by its token, log messages by level)."""
        if params.meta:
            self.progress_token = None if params.meta.progress is UNSET else bytes(params.meta.progress)
            self.log_level = params.meta.log_level or None

    def notify(self, method: str, message: bytes) -> None:
        """Send a notification on, in order, if the request asked for it: all others would be somebody else's."""
        if method == "notifications/message":
            wanted = self.log_level is not None and reaches(self.log_level, message)
        else:
            wanted = method == "notifications/progress" and is_progress_of(self.progress_token, message)
        if wanted:
            self.push(message)

    def push(self, message: bytes) -> None:
        """Send a notification on, in order."""
        self._outbox.append(message)
        self._waiting_bytes += len(message)
        if self._waiting_bytes > BUFFER:
            self.end("stuck")
        elif self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._send_waiting())

    async def _send_waiting(self) -> None:
        while self._outbox:
            message = self._outbox.popleft()
            self._waiting_bytes -= len(message)
            await self._send("msg", message)

    async def accept(self) -> None:
        """Say that the call is being worked on, and by whom."""
        await self._send("accepted")

    async def move(self, router: str, otherwise: bytes, site: str = "") -> None:
        """Say that another router is to be asked; `otherwise` is the JSON-RPC error to answer with if it is gone."""
        fault = ("unavailable", f"site {site} is not reached: its router {router} does not answer") if site else None
        self.outcome = "moved"
        await self._send("moved", otherwise, error=bool(otherwise), router=router, fault=fault)

    def measure(self, seconds: float) -> None:
        """Count the call, which is over."""
        measured.CALLS.add((self.project, self.server, self.outcome))
        if self.head.method != LISTEN:
            measured.CALL_SECONDS.observe((self.server,), seconds)

    async def finish(self, body: bytes, *, error: bool) -> None:
        """Send the result (or the JSON-RPC error), after all notifications."""
        self.outcome = "error" if error else "ok"
        await self._drain()
        await self._send("end", body, error=error)

    async def fail(self, fault: BusError) -> None:
        """Send what went wrong instead of a result."""
        self.outcome = fault.code
        await self._drain()
        await self._send("end", fault=(fault.code, str(fault)), retry_ms=int((fault.retry_after or 0) * 1000))

    async def _drain(self) -> None:
        if self._pump is not None:
            await self._pump

    async def _send(
        self,
        kind: Literal["accepted", "msg", "end", "moved"],
        body: bytes = b"",
        *,
        error: bool = False,
        fault: tuple[str, str] | None = None,
        router: str | None = None,
        retry_ms: int = 0,
    ) -> None:
        with suppress(BusError):
            while len(body) > PIECE:
                await self._bus.send(self.reply, encode(Reply("part", self._take_number()), body[:PIECE]))
                body = body[PIECE:]
            router = self._router if kind == "accepted" else router
            number, late = self._take_number(), self._late
            head = Reply(kind, number, router=router, error=error, fault=fault, retry_ms=retry_ms, late=late)
            await self._bus.send(self.reply, encode(head, body))

    def _take_number(self) -> int:
        self._number += 1
        return self._number
