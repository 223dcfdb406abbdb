"""May this bearer do this here? The router resolves it itself, and believes nothing that the edge says."""

from dataclasses import dataclass, replace

from mcpctl.actors.settings import ActorSettings
from mcpctl.bus.bearer import digest
from mcpctl.bus.cache import LeasedCache, Loaded
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.errors import Forbidden, Unavailable
from mcpctl.bus.feed import Follower
from mcpctl.bus.principals import Principals

FOR_LONG = 3600.0
"""Seconds for which scopes and views are kept: their feeds drop them when they change."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who calls, what they may do in the project, and what the project consists of."""

    principal: token.Principal
    scope: rbac.Scope
    view: catalog.View

    def without_own(self) -> "Access":
        """Return the same without what a project adds to its servers' lists, which is added once."""
        return replace(self, view=self.view.model_copy(update={"gate": None, "prompts": ()}))


class AccessCache:
    """Principals, scopes and project views, each under the lease of its owner's feed."""

    def __init__(self, bus: Bus, settings: ActorSettings) -> None:
        self._bus = bus
        self._principals = Principals(
            bus, positive_ttl_ms=settings.token_positive_ttl_ms, negative_ttl_ms=settings.token_negative_ttl_ms
        )
        self.tokens = self._principals.follower
        self.definitions = Follower(bus, rbac.feed)
        self.catalog = Follower(bus, catalog.feed)
        self.followers = (self.tokens, self.definitions, self.catalog)
        self._scopes: LeasedCache[tuple[str, str], rbac.Scope] = LeasedCache(
            self.definitions, self._scope, concerns=lambda key, _, change: rbac.may_concern(change.key, key[0])
        )
        self._owners_changed = 0
        """The number of the latest change of what the owners of tokens are, as it is known here."""
        self._views: LeasedCache[str, catalog.View] = LeasedCache(
            self.catalog, self._view, concerns=lambda project, _, change: _is_about(change, project)
        )
        self.tokens.on_change.append(self._token_changed)
        self._principals.on_dropped.append(self._forget_scopes)
        self.tokens.on_reset.append(self._tokens_reset)
        self.definitions.on_change.append(self._definition_changed)
        self.catalog.on_change.append(self._catalog_changed)

    def demand_leases(self) -> None:
        """Raise `Unavailable` where any of what a decision rests on may not be believed now."""
        for follower in self.followers:
            follower.demand_lease()

    def peek(self, bearer: str, project: str) -> Access | None:
        """Return what is known and may be believed now; None where somebody must be asked first."""
        sha = digest(bearer)
        principal = self._principals.peek(sha)
        scope = self._scopes.peek((sha, project))
        view = self._views.peek(project)
        if principal is None or scope is None or view is None:
            return None
        return self._checked(Access(principal, scope, view), project)

    async def principal(self, bearer: str) -> token.Principal:
        """Return whom a bearer stands for. Raises `Unauthenticated`, `Unavailable`."""
        return await self._principals.of(bearer)

    async def of(self, bearer: str, project: str) -> Access:
        """Return the access of a bearer to a project.

        Raises `Unauthenticated`; `Forbidden`, in the same words for a project that is not there; `Unavailable`.
        """
        known = self.peek(bearer, project)
        if known is not None:
            return known
        sha = digest(bearer)
        principal = await self.principal(bearer)
        if principal.project not in (None, project):
            raise Forbidden(f"no access to project {project}")
        scope = await self._scopes.get((sha, project), bearer)
        view = await self._views.get(project, bearer)
        return self._checked(Access(principal, scope, view), project)

    @staticmethod
    def _checked(access: Access, project: str) -> Access:
        own = access.principal.project
        if own == project or (own is None and access.scope.allows("view", ("projects", project))):
            return access
        raise Forbidden(f"no access to project {project}")

    async def _scope(self, key: tuple[str, str], bearer: str) -> Loaded[rbac.Scope]:
        for _ in range(3):
            answer = await self._bus.call(rbac.scope, rbac.GetScope(bearer=bearer, project=key[1]))
            # A scope rests on the owner's groups too: one from before a known change of them is asked again.
            if answer.token_epoch == self.tokens.epoch and answer.token_seq >= self._owners_changed:
                return Loaded(answer.epoch, answer.seq, answer.scope, FOR_LONG)
        raise Unavailable("what the bearer may do is changing just now: ask again")

    async def _view(self, project: str, bearer: str) -> Loaded[catalog.View]:
        answer = await self._bus.call(catalog.view, catalog.GetView(bearer=bearer, project=project))
        return Loaded(answer.epoch, answer.seq, answer, FOR_LONG)

    def _token_changed(self, change: Change) -> None:
        if change.kind != "token" and change.action != "created":
            self._owners_changed = change.seq
            self._scopes.clear()  # a user's groups decide on the scopes of all its tokens

    def _tokens_reset(self) -> None:
        self._owners_changed = self.tokens.seq
        self._scopes.clear()

    def _definition_changed(self, change: Change) -> None:
        self._scopes.drop(lambda key, _: rbac.may_concern(change.key, key[0]))

    def _forget_scopes(self, shas: set[str]) -> None:
        self._scopes.drop(lambda key, _: key[0] in shas)

    def _catalog_changed(self, change: Change) -> None:
        self._views.drop(lambda project, _: _is_about(change, project))


def _is_about(change: Change, project: str) -> bool:
    return change.kind == "prompt" or (change.kind, change.key) == ("project", project)
