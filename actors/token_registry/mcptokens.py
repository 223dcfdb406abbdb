"""Mcptokens by their names: shown, revoked with all that was issued below them, deleted."""

from sqlmodel import Session, col, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import BearerRow, Records
from mcpctl.actors.token_registry.showing import Owners, as_told, shown
from mcpctl.actors.token_registry.trees import find_named, revoke, revoke_trees, working
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token


class McpTokens:
    """Shows, revokes and deletes mcptokens."""

    def __init__(self, records: Records, ask: RbacCalls) -> None:
        self._records, self._ask = records, ask

    @handles(token.list_tokens)
    async def list_all(self, request: token.ListTokens, caller: Caller) -> token.Tokens:
        now, asker = self._records.clock(), caller.authority.kind

        def find(session: Session) -> list[token.Token]:
            rows = select(BearerRow).where(col(BearerRow.kind) == "pat")
            if request.project is not None:
                rows = rows.where(col(BearerRow.project) == request.project)
            owners: Owners = {}
            return [as_told(shown(session, row, now, owners), asker) for row in session.exec(rows).all()]

        items = await self._records.read(find)
        return token.Tokens(items=tuple(sorted(items, key=lambda item: (item.project, item.name, item.created_at))))

    @handles(token.describe)
    async def describe(self, request: token.DescribeToken, caller: Caller) -> token.Token:
        now = self._records.clock()

        def find(session: Session) -> token.Token:
            row = find_named(session, request.project, request.name)[0]
            return as_told(shown(session, row, now), caller.authority.kind)

        return await self._records.read(find)

    @handles(token.revoke)
    async def revoke(self, request: token.RevokeToken, caller: Caller) -> token.Token:
        now = self._records.clock()

        def revoke_named(changing: Changing) -> tuple[token.Token, list[str]]:
            rows = find_named(changing.session, request.project, request.name)
            gone = revoke_trees(changing, rows[:1], now)
            gone += revoke_trees(changing, working(rows[1:], now), now)
            return as_told(shown(changing.session, rows[0], now), caller.authority.kind), gone

        answer, gone = await self._records.write(revoke_named)
        await forget_tokens(self._ask, gone)
        return answer

    @handles(token.delete)
    async def delete(self, request: token.DeleteToken, _caller: Caller) -> Done:
        now = self._records.clock()

        def delete(changing: Changing) -> list[str]:
            rows = find_named(changing.session, request.project, request.name)
            gone = revoke_trees(changing, rows, now)
            for row in rows:
                changing.session.delete(row)
                changing.record("token", row.sha, "removed")
            return gone

        await forget_tokens(self._ask, await self._records.write(delete))
        return Done()

    @handles(token.revoke_project)
    async def revoke_project(self, request: token.RevokeProjectTokens, _caller: Caller) -> Done:
        now = self._records.clock()

        def revoke_all(changing: Changing) -> list[str]:
            live = (col(BearerRow.project) == request.project, col(BearerRow.revoked_at).is_(None))
            rows = changing.session.exec(select(BearerRow).where(col(BearerRow.kind) == "pat", *live)).all()
            for row in rows:
                revoke(changing, row, now)
            return [row.sha for row in rows]

        await forget_tokens(self._ask, await self._records.write(revoke_all))
        return Done()


async def forget_tokens(ask: RbacCalls, shas: list[str]) -> None:
    """Have the bindings of mcptokens that are gone removed."""
    await ask.forget(*(f"McpToken:{sha}" for sha in shas))
