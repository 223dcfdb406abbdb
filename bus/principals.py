"""Bearers as the TokenRegistry resolves them, cached under the lease of its feed: for the gateway and the router."""

from collections.abc import Callable

from mcpctl.bus.bearer import digest
from mcpctl.bus.cache import LeasedCache, Loaded
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import Unauthenticated
from mcpctl.bus.feed import Follower, now


class Principals:
    """Whom each bearer stands for; a refusal is kept too, for a shorter time. Lifetimes are in milliseconds."""

    def __init__(self, bus: Bus, *, positive_ttl_ms: int, negative_ttl_ms: int) -> None:
        self.follower = Follower(bus, token.feed)
        self._bus = bus
        self.on_dropped: list[Callable[[set[str]], None]] = []
        """Told the SHA-256 of the bearers whose principals a change has dropped."""
        self._ttl = positive_ttl_ms / 1000
        self._cache: LeasedCache[str, token.Principal] = LeasedCache(
            self.follower,
            self._load,
            refusals=(Unauthenticated,),
            refusal_ttl=negative_ttl_ms / 1000,
            concerns=lambda _, principal, change: principal.depends_on(change.kind, change.key),
        )
        self.follower.on_change.append(self._changed)

    def peek(self, sha: str) -> token.Principal | None:
        """Return what is known of the bearer with this SHA-256 and may be believed now."""
        return self._cache.peek(sha)

    def knew(self, bearer: str) -> bool:
        """Tell whether a bearer was good when it was last asked about, however long ago."""
        return self._cache.holds(digest(bearer))

    async def of(self, bearer: str) -> token.Principal:
        """Return the principal of a bearer. Raises `Unauthenticated`, `Unavailable`."""
        return await self._cache.get(digest(bearer), bearer)

    async def _load(self, _sha: str, bearer: str) -> Loaded[token.Principal]:
        asked = now()
        answer = await self._bus.call(token.resolve, token.ResolveBearer(bearer=bearer))
        principal, left = answer.principal, answer.principal.expires_in_ms
        if left is None:
            return Loaded(answer.epoch, answer.seq, principal, self._ttl)
        principal = principal.model_copy(update={"until": asked + left / 1000})
        return Loaded(answer.epoch, answer.seq, principal, min(self._ttl, left / 1000))

    def _changed(self, change: Change) -> None:
        if change.action == "created":
            self._cache.drop_refusals()
        else:
            gone = self._cache.drop(lambda _, principal: principal.depends_on(change.kind, change.key))
            for dropped in self.on_dropped:
                dropped({principal.sha for principal in gone})
