"""Whom many subjects stand for, told to one who may view them."""

from sqlmodel import Session

from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.resolving import stands_for
from mcpctl.actors.token_registry.rows import Records
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Need
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.token import FoundPrincipal
from mcpctl.bus.errors import BusError

SEE = {
    "User": Need("view", "users"),
    "ServiceAccount": Need("view", "serviceaccounts"),
    "McpToken": Need("view", "mcptokens"),
}
"""What shows the owner of each kind, and his groups."""

HIDDEN = "it is gone, or you may not view it"


class Finding:
    """Finds principals; what the asker may not view is told like what is not there."""

    def __init__(self, records: Records, ask: RbacCalls) -> None:
        self._records, self._ask = records, ask

    @handles(token.find_principals)
    async def find_principals(self, request: token.FindPrincipals, _caller: Caller) -> token.FoundPrincipals:
        subjects, now = dict.fromkeys(request.subjects), self._records.clock()
        found = await self._records.read(lambda session: {each: _found(session, each, now) for each in subjects})
        places = dict.fromkeys((subject.partition(":")[0], _place(each)) for subject, each in found.items())
        seen = {place for place in places if await self._sees(request.bearer, *place)}
        shown = {
            subject: each if (subject.partition(":")[0], _place(each)) in seen else FoundPrincipal(fault=HIDDEN)
            for subject, each in found.items()
        }
        return token.FoundPrincipals(items=shown)

    async def _sees(self, bearer: str, kind: str, project: str | None) -> bool:
        need = SEE.get(kind)
        return need is not None and (await self._ask.decide(bearer, need, None, project)).allowed


def _place(found: FoundPrincipal) -> str | None:
    """Return the project in which one is viewed; for what is not there, outside all."""
    return None if found.principal is None else found.principal.project


def _found(session: Session, subject: str, now: int) -> FoundPrincipal:
    try:
        asked = token.FindPrincipal(bearer="", subject=subject)
        return FoundPrincipal(principal=stands_for(session, asked, now).principal)
    except BusError as error:
        return FoundPrincipal(fault=str(error))
