"""What a bearer is, in the shape of RFC 7662 (OAuth 2.0 Token Introspection)."""

from sqlmodel import Session

from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.resolving import Resolving
from mcpctl.actors.token_registry.rows import BearerRow, Records, owner_of, status_of
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, kind_of
from mcpctl.bus.contract import Need
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.names import principal_label

INACTIVE = token.Introspection(active=False)
VIEW = Need("view", "mcptokens")


class Introspecting:
    """Introspects bearers: for their holders, and for those who may view them."""

    def __init__(self, records: Records, resolving: Resolving, ask: RbacCalls) -> None:
        self._records, self._resolving, self._ask = records, resolving, ask

    @handles(token.introspect)
    async def introspect(self, request: token.Introspect, _caller: Caller) -> token.Introspection:
        if request.token is None or request.token == request.bearer:
            return await self._own(request.bearer)
        await self._resolving.find(request.bearer)
        return await self._of(request.token, request.bearer)

    async def _own(self, bearer: str) -> token.Introspection:
        row, status = await self._find(bearer)
        if row is None or status != "active":
            return INACTIVE if row is None else token.Introspection(active=False, status=status)
        scope = await self._ask.scope_of(bearer, row.project) if row.project is not None else None
        return _active(row, scope)

    async def _of(self, bearer: str, asker: str) -> token.Introspection:
        """Introspect another's mcptoken: without the right it is as if it were unknown."""
        row, status = await self._find(bearer)
        if row is None or row.project is None:
            return INACTIVE
        if not (await self._ask.decide(asker, VIEW, row.name, row.project)).allowed:
            return INACTIVE
        if status != "active":
            return token.Introspection(active=False, status=status)
        return _active(row, await self._ask.bindings_of(asker, row.project, row.name, row.sha))

    async def _find(self, bearer: str) -> tuple[BearerRow | None, token.Status | None]:
        if kind_of(bearer) is None:
            return None, None
        sha, now = digest(bearer), self._records.clock()

        def find(session: Session) -> tuple[BearerRow | None, token.Status | None]:
            row = session.get(BearerRow, sha)
            return row, None if row is None else status_of(row, owner_of(session, row), now)

        return await self._records.read(find)


def _active(row: BearerRow, scope: tuple[Binding, ...] | None) -> token.Introspection:
    kind = "McpToken" if row.kind == "pat" else row.owner_kind
    name = row.name or row.owner
    return token.Introspection(
        active=True,
        status="active",
        name=name,
        project=row.project,
        owner=row.owner,
        scope=None if scope is None else " ".join(str(binding) for binding in scope),
        sub=principal_label(kind, name),
        token_type="Bearer",  # noqa: S106 - the type of RFC 6749, section 7.1
        iat=row.created_at // 1000,
        exp=None if row.expires_at is None else row.expires_at // 1000,
    )
