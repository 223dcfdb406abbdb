"""Bearers as the TokenRegistry resolves them, cached under the lease of its feed."""

from mcpctl.bus.bearer import digest, kind_of
from mcpctl.bus.cache import LeasedCache, Loaded
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import Unauthenticated
from mcpctl.bus.feed import Follower
from mcpctl.gateway.authorization import Refused, refusal_of
from mcpctl.gateway.settings import GatewaySettings


class Principals:
    """Bearers as the TokenRegistry resolves them, kept under the lease of its feed."""

    def __init__(self, bus: Bus, settings: GatewaySettings) -> None:
        self.follower = Follower(bus, token.feed)
        self._bus = bus
        self._ttl = settings.token_positive_ttl_ms / 1000
        self._cache: LeasedCache[str, token.Principal] = LeasedCache(
            self.follower,
            self._load,
            refusals=(Unauthenticated,),
            refusal_ttl=settings.token_negative_ttl_ms / 1000,
            concerns=lambda _, principal, change: principal.depends_on(change.kind, change.key),
        )
        self.follower.on_change.append(self._changed)

    async def of(self, bearer: str) -> token.Principal:
        """Return the principal of a bearer. Raises `Refused` (401), `Unavailable`."""
        principal = self._cache.peek(digest(bearer))
        if principal is not None:
            return principal
        if kind_of(bearer) is None:
            raise Refused(401, "the token is not valid", "invalid_token")
        try:
            return await self._cache.get(digest(bearer), bearer)
        except Unauthenticated as error:
            raise refusal_of(error) from error

    async def _load(self, _sha: str, bearer: str) -> Loaded[token.Principal]:
        answer = await self._bus.call(token.resolve, token.ResolveBearer(bearer=bearer))
        left = answer.principal.expires_in_ms
        ttl = self._ttl if left is None else min(self._ttl, left / 1000)
        return Loaded(answer.epoch, answer.seq, answer.principal, ttl)

    def _changed(self, change: Change) -> None:
        if change.action == "created":
            self._cache.drop_refusals()
        else:
            self._cache.drop(lambda _, principal: principal.depends_on(change.kind, change.key))
