"""Who may connect to the bus: the answer to the NATS server's auth callout.

It asks no other actor: nobody could answer it before he is connected himself.
"""

from contextlib import suppress
from dataclasses import dataclass

import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from mcpctl.actors.token_registry.connections import user_name
from mcpctl.actors.token_registry.resolving import Resolving
from mcpctl.actors.token_registry.rows import Clock
from mcpctl.actors.token_registry.user_jwt import Asked, Signer, read_request
from mcpctl.bus import permissions
from mcpctl.bus.bearer import digest, kind_of
from mcpctl.bus.connection import Tasks
from mcpctl.bus.errors import BusError, Unauthenticated
from mcpctl.bus.identity import AdmittedRole, caller_name

log = structlog.get_logger()

SHORTEST_NONCE = 16

ROLES: dict[str, AdmittedRole] = {"gateway": "gateway", "operator": "operator", "login": "login"}


@dataclass(frozen=True)
class Admission:
    """A connection that is let in: as whom, by which bearer, and until when (milliseconds since 1970; None: no end)."""

    role: AdmittedRole
    caller: str
    sha: str | None
    expires_at: int | None


class Callout:
    """Admits gateways, operators and those who want to log in."""

    def __init__(self, resolving: Resolving, signer: Signer, clock: Clock, *, anonymous_edge: bool) -> None:
        self._resolving, self._signer, self._clock, self._anonymous_edge = resolving, signer, clock, anonymous_edge
        self._tasks = Tasks()
        self._subscription: Subscription | None = None

    async def serve(self, client: Client) -> None:
        """Answer from now on, as one of the queue group of all replicas."""

        async def start(msg: Msg) -> None:
            if self._tasks.full:
                log.warning("connection not answered: too many at once")
                return
            self._tasks.start(self._answer(client, msg))

        self._subscription = await client.subscribe(permissions.AUTH_CALLOUT, queue=permissions.AUTH_QUEUE, cb=start)
        await client.flush()
        await client.flush()

    async def close(self) -> None:
        if self._subscription is not None:
            with suppress(Error):
                await self._subscription.unsubscribe()
        await self._tasks.finish(2.0)

    async def _answer(self, client: Client, msg: Msg) -> None:
        try:
            asked = read_request(msg.data)
        except ValueError:
            log.exception("auth request not understood")
            return
        options = asked.connect_opts
        try:
            admission = await self.admit(options.user, options.password)
        except BusError as error:
            log.warning("connection refused", user=options.user[:40], reason=str(error))
            await client.publish(msg.reply, self._signer.answer(asked, error=str(error)))
            return
        await client.publish(msg.reply, self._signer.answer(asked, user=self._user(asked, admission)))

    def _user(self, asked: Asked, admission: Admission) -> str:
        granted = permissions.of(admission.role, admission.caller)
        expires_at = None if admission.expires_at is None else admission.expires_at // 1000
        name = user_name(admission.caller, admission.sha)
        return self._signer.user(asked.user_nkey, name, granted, expires_at)

    async def admit(self, user: str, password: str) -> Admission:
        """Let a connection in. Raises `Unauthenticated` with the reason why not."""
        role = ROLES.get(user)
        if role is None:
            raise Unauthenticated("connect as gateway, operator or login")
        nonce, _, bearer = password.partition(":")
        if len(nonce) < SHORTEST_NONCE:
            raise Unauthenticated(f"the nonce has fewer than {SHORTEST_NONCE} characters")
        expires_at = await self._expiry(role, bearer)
        return Admission(role, caller_name(role, nonce), digest(bearer) if bearer else None, expires_at)

    async def _expiry(self, role: AdmittedRole, bearer: str) -> int | None:
        """Return when the right to be connected in this role ends."""
        if role == "login":
            if bearer:
                raise Unauthenticated("a login connection presents no bearer")
            return None
        if role == "gateway" and not bearer and self._anonymous_edge:
            return None
        admitted = ("sa",) if role == "gateway" else ("ses", "sa")
        if kind_of(bearer) not in admitted:
            raise Unauthenticated(
                "a gateway presents a service account's bearer"
                if role == "gateway"
                else "an operator presents the bearer of a login session or of a service account"
            )
        resolved, _ = await self._resolving.find(bearer)
        left = resolved.principal.expires_in_ms
        return None if left is None else self._clock() + left
