"""What the TokenRegistry asks of the RbacEvaluator."""

import structlog

from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import rbac
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.errors import BusError

log = structlog.get_logger()


class RbacCalls:
    """Asks with the requester's own bearer: the RbacEvaluator decides what that one may give."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def check_ceiling(self, bearer: str, *, groups: tuple[str, ...] = (), subjects: tuple[str, ...] = ()) -> None:
        """Raise `Forbidden` where the bearer's holder may not give membership, or the power to act as subjects."""
        await self._bus.call(rbac.check_ceiling, rbac.CheckCeiling(bearer=bearer, groups=groups, subjects=subjects))

    async def bind(self, bearer: str, project: str, name: str, sha: str, bindings: tuple[Binding, ...]) -> None:
        """Give a new mcptoken its bindings. Raises `Forbidden` where the bearer's holder does not hold them."""
        request = rbac.BindToken(bearer=bearer, project=project, name=name, sha=sha, bindings=bindings)
        await self._bus.call(rbac.bind_token, request)

    async def forget(self, *subjects: str) -> None:
        """Have subjects that resolve to nothing any more taken out of all definitions; a failure harms nobody."""
        if not subjects:
            return
        try:
            await self._bus.call(rbac.unbind, rbac.UnbindSubject(subject=subjects[0], others=subjects[1:]))
        except BusError as error:
            log.warning("subjects not unbound", subjects=subjects, error=str(error))
