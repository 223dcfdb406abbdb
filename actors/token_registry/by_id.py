"""Mcptokens by their ids: who asks is authorized where the token is, and may always do this to the own one."""

from collections.abc import Callable
from typing import TypeVar

from sqlmodel import Session

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.mcptokens import forget_tokens
from mcpctl.actors.token_registry.notes import Notes
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.resolving import Resolving
from mcpctl.actors.token_registry.rows import BearerRow, Records
from mcpctl.actors.token_registry.showing import as_told, shown
from mcpctl.actors.token_registry.trees import revoke_trees
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Done, Need
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import Verdict
from mcpctl.bus.errors import NotFound

T = TypeVar("T")

VIEW = Need("view", "mcptokens")
DELETE = Need("delete", "mcptokens")


class ById:
    """Shows, revokes and deletes mcptokens by id; one that the asker may not touch is as if it were not there."""

    def __init__(self, records: Records, resolving: Resolving, ask: RbacCalls, notes: Notes) -> None:
        self._records, self._resolving, self._ask, self._notes = records, resolving, ask, notes

    @handles(token.get_by_id)
    async def get(self, request: token.GetTokenById, _caller: Caller) -> token.Token:
        found, verdict = await self._find(request.bearer, request.id, VIEW)
        _demand_allowed(found, verdict, own=True)
        now = self._records.clock()

        def read(session: Session) -> token.Token:
            return as_told(shown(session, _there(session.get(BearerRow, request.id)), now), verdict.kind)

        return await self._records.read(read)

    @handles(token.revoke_by_id)
    async def revoke(self, request: token.RevokeTokenById, _caller: Caller) -> token.Token:
        now = self._records.clock()

        def revoke(changing: Changing, row: BearerRow, asker: str) -> tuple[token.Token, list[str]]:
            gone = revoke_trees(changing, [row], now)
            if row.sha not in gone:  # said once more: a replacement that is taken back meanwhile must not bring it back
                changing.record("token", row.sha, "revoked")
            return as_told(shown(changing.session, row, now), asker), gone

        answer, gone = await self._change(token.revoke_by_id.name, request.bearer, request.id, revoke, own=True)
        await forget_tokens(self._ask, gone)
        return answer

    @handles(token.delete_by_id)
    async def delete(self, request: token.DeleteTokenById, _caller: Caller) -> Done:
        now = self._records.clock()

        def delete(changing: Changing, row: BearerRow, _asker: str) -> list[str]:
            gone = revoke_trees(changing, [row], now)
            changing.session.delete(row)
            changing.record("token", row.sha, "removed")
            return gone

        gone = await self._change(token.delete_by_id.name, request.bearer, request.id, delete, own=False)
        await forget_tokens(self._ask, gone)
        return Done()

    async def _change(
        self, kind: str, bearer: str, sha: str, work: Callable[[Changing, BearerRow, str], T], *, own: bool
    ) -> T:
        found, verdict = await self._find(bearer, sha, DELETE)

        def change(changing: Changing) -> T:
            return work(changing, _there(changing.session.get(BearerRow, sha)), verdict.kind)

        try:
            row = _demand_allowed(found, verdict, own=own)
        except NotFound:
            named = (found.name, found.project) if found is not None else (sha, None)
            await self._notes.not_allowed(kind, verdict, *named)
            raise
        done = await self._records.write(change)
        await self._notes.done(kind, verdict, row.name, row.project)
        return done

    async def _find(self, bearer: str, sha: str, need: Need) -> tuple[BearerRow | None, Verdict]:
        """Return the token, and the verdict on it. Raises `Unauthenticated` for a bad bearer."""
        await self._resolving.find(bearer)
        row = await self._records.read(lambda session: session.get(BearerRow, sha))
        if row is None or row.kind != "pat":
            return None, await self._ask.decide(bearer, need, None, None)
        return row, await self._ask.decide(bearer, need, row.name, row.project)


def _demand_allowed(row: BearerRow | None, verdict: Verdict, *, own: bool) -> BearerRow:
    allowed = row is not None and (verdict.allowed or (own and row.sha == verdict.sha))
    return _there(row if allowed else None)


def _there(row: BearerRow | None) -> BearerRow:
    if row is None:
        raise NotFound("there is no mcptoken with that id")
    return row
