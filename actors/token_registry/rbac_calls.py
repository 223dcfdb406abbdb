"""What the TokenRegistry asks of the RbacEvaluator."""

import structlog

from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Need
from mcpctl.bus.contracts import rbac
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.errors import BusError

log = structlog.get_logger()


class RbacCalls:
    """Asks with the requester's own bearer: the RbacEvaluator decides what that one may give."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def decide(self, bearer: str, need: Need, name: str | None, project: str | None) -> rbac.Verdict:
        """Return the verdict on a right, granted or not. Raises `Unauthenticated` for a bad bearer."""
        asked = {"verb": need.verb, "resource": need.resource, "name": name, "project": project}
        return await self._bus.call(rbac.check, rbac.Check.model_validate({"bearer": bearer, **asked}))

    async def may_delete(self, bearer: str, name: str, project: str) -> bool:
        """Tell whether the bearer may end an mcptoken. Raises `Unauthenticated` for a bad bearer."""
        return (await self.decide(bearer, Need("delete", "mcptokens"), name, project)).allowed

    async def check_ceiling(
        self,
        bearer: str,
        *,
        groups: tuple[str, ...] = (),
        subjects: tuple[str, ...] = (),
        project: str | None = None,
        bindings: tuple[Binding, ...] = (),
    ) -> None:
        """Raise `Forbidden` where the bearer's holder may not give membership, bindings, or power over subjects."""
        request = rbac.CheckCeiling(bearer=bearer, groups=groups, subjects=subjects, project=project, bindings=bindings)
        await self._bus.call(rbac.check_ceiling, request)

    async def bind(self, request: rbac.BindToken) -> None:
        """Give a new mcptoken its bindings. Raises `Forbidden` where the bearer's holder does not hold them."""
        await self._bus.call(rbac.bind_token, request)

    async def scope_of(self, bearer: str, project: str) -> tuple[Binding, ...]:
        """Return the own bindings of an mcptoken, which asks with its bearer."""
        return (await self._bus.call(rbac.scope, rbac.GetScope(bearer=bearer, project=project))).scope.layers[0]

    async def bindings_of(self, bearer: str, project: str, name: str, sha: str) -> tuple[Binding, ...]:
        """Return the bindings of an mcptoken for one who may view it."""
        request = rbac.GetBindings(bearer=bearer, project=project, name=name, sha=sha)
        return (await self._bus.call(rbac.get_bindings, request)).bindings

    async def forget(self, *subjects: str) -> None:
        """Have subjects that resolve to nothing any more taken out of all definitions; a failure harms nobody."""
        if not subjects:
            return
        try:
            await self._bus.call(rbac.unbind, rbac.UnbindSubject(subject=subjects[0], others=subjects[1:]))
        except BusError as error:
            log.warning("subjects not unbound", subjects=subjects, error=str(error))
