"""What each kind of bearer reaches over HTTP, before anybody is asked.

A login session and a service account reach every route: what they may do there is decided by the actors. An mcptoken
reaches its own project and itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mcpctl.bus.bearer import BearerKind, kind_of
from mcpctl.bus.contract import Message
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import Forbidden
from mcpctl.gateway.rest.routes import Route

REFUSAL = "an mcptoken reaches only its own project (/api/v1/projects/<its project>/…) and itself"

OF_ITSELF = frozenset({token.whoami, token.introspect, token.get_by_id, token.revoke_by_id})


@dataclass(frozen=True)
class Visit:
    """Who comes to which route; `path` is what the path says."""

    principal: Principal
    route: Route
    path: dict[str, str]


def _anywhere(_visit: Visit) -> bool:
    return True


def _own_project_and_self(visit: Visit) -> bool:
    project = visit.route.project_in(visit.path)
    if project is not None:
        return project == visit.principal.project
    return visit.route.call in OF_ITSELF and visit.path.get("id", visit.principal.sha) == visit.principal.sha


REACH: dict[BearerKind, Callable[[Visit], bool]] = {
    "ses": _anywhere,
    "sa": _anywhere,
    "pat": _own_project_and_self,
}


def demand_reach(bearer: str, visit: Visit) -> None:
    """Raise `Forbidden` where this kind of bearer has no business: in the same words whatever is there."""
    kind = kind_of(bearer)
    if kind is None or not REACH[kind](visit):
        raise Forbidden(REFUSAL)


def demand_own(bearer: str, message: Message) -> None:
    """Raise `Forbidden` where an mcptoken asks about another bearer."""
    if kind_of(bearer) == "pat" and isinstance(message, token.Introspect) and message.token not in (None, bearer):
        raise Forbidden(REFUSAL)
