"""Who may connect to the bus: the answer to the NATS server's auth callout.

It asks no other actor: nobody could answer it before he is connected himself.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

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
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError, Unauthenticated
from mcpctl.bus.identity import AdmittedRole, caller_name

if TYPE_CHECKING:
    from mcpctl.actors.token_registry.pod_tokens import PodTokens

log = structlog.get_logger()

SHORTEST_NONCE = 16

ROLES: dict[str, AdmittedRole] = {"gateway": "gateway", "operator": "operator", "login": "login"}
ROUTER = "router."
"""How the user begins that a router of a site connects as; the site follows."""


@dataclass(frozen=True)
class Admission:
    """A connection that is let in: as whom, by which bearer, and until when (milliseconds since 1970; None: no end).

    `sha` is None where there is no row of a bearer: a pod's token ends by itself, and nothing at all never does.
    """

    role: AdmittedRole
    caller: str
    sha: str | None
    expires_at: int | None


class Callout:
    """Admits gateways, operators, routers of sites, and those who want to log in."""

    def __init__(
        self, resolving: Resolving, signer: Signer, clock: Clock, pods: "PodTokens | None", *, anonymous_edge: bool
    ) -> None:
        """`pods` checks tokens of Kubernetes, where there is an issuer."""
        self._resolving, self._signer, self._clock, self._pods = resolving, signer, clock, pods
        self._anonymous_edge = anonymous_edge
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
        rights = permissions.site_router if admission.role == "router" else partial(permissions.of, admission.role)
        granted = rights(admission.caller)
        expires_at = None if admission.expires_at is None else admission.expires_at // 1000
        name = user_name(admission.caller, admission.sha)
        return self._signer.user(asked.user_nkey, name, granted, expires_at)

    async def admit(self, user: str, password: str) -> Admission:
        """Let a connection in. Raises `Unauthenticated` with the reason why not."""
        role = ROLES.get(user)
        if role is None and not user.startswith(ROUTER):
            raise Unauthenticated("connect as gateway, operator, login, or as the router of a site")
        nonce, _, bearer = password.partition(":")
        if len(nonce) < SHORTEST_NONCE:
            raise Unauthenticated(f"the nonce has fewer than {SHORTEST_NONCE} characters")
        if role is None:
            return await self._admit_router(user.removeprefix(ROUTER), nonce, bearer)
        caller = caller_name(role, nonce)
        if role == "gateway" and _is_jwt(bearer):
            return await self._admit_pod(caller, bearer)
        expires_at = await self._expiry(role, bearer)
        return Admission(role, caller, digest(bearer) if bearer else None, expires_at)

    async def _admit_pod(self, caller: str, bearer: str) -> Admission:
        if self._pods is None:
            raise Unauthenticated("pod token: none is accepted, since MCPCTL_POD_ISSUER is not set")
        pod = await self._pods.check(bearer)
        log.info("pod admitted", caller=caller, account=pod.account, pod=pod.name)
        return Admission("gateway", caller, None, pod.expires_at)

    async def _admit_router(self, site: str, nonce: str, bearer: str) -> Admission:
        own, account = await self._resolving.find_router(bearer)
        if site != own:
            raise Unauthenticated(f"this bearer admits routers of site {own}, and of no other")
        return Admission("router", caller_name("router", nonce, own), digest(bearer), self._end_of(account))

    def _end_of(self, principal: token.Principal) -> int | None:
        left = principal.expires_in_ms
        return None if left is None else self._clock() + left

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
                "a gateway presents the token of its pod, or a service account's bearer"
                if role == "gateway"
                else "an operator presents the bearer of a login session or of a service account"
            )
        resolved, _ = await self._resolving.find(bearer)
        return self._end_of(resolved.principal)


def _is_jwt(bearer: str) -> bool:
    """Tell whether a bearer has the form of a JWT: three parts, of which the first is a JSON object in base64."""
    return bearer.startswith("eyJ") and bearer.count(".") == 2
