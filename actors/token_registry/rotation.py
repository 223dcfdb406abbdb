"""Rotation: a new bearer under an mcptoken's name, while the old one works for a little longer."""

from sqlmodel import Session

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.issuing import Binder, Issuer, NewToken, Replaced, insert
from mcpctl.actors.token_registry.lifetimes import Terms, expiry_of
from mcpctl.actors.token_registry.mcptokens import forget_tokens
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import BearerRow, Records, owner_of, quota_of, status_of
from mcpctl.actors.token_registry.trees import cut_tree, find_named, live_tree, revoke_trees
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.errors import Conflict, Forbidden


class Rotation:
    """Rotates mcptokens."""

    def __init__(self, records: Records, ask: RbacCalls, binder: Binder, terms: Terms) -> None:
        self._records, self._ask, self._binder, self._terms = records, ask, binder, terms

    @handles(token.rotate)
    async def rotate(self, request: token.RotateToken, caller: Caller) -> token.IssuedToken:
        issuer, now = Issuer.of_verdict(caller.authority), self._records.clock()
        old = await self._records.read(lambda session: _find(session, request, issuer, now))
        longest = await self._terms.longest_ms(request.bearer, request.project)
        life = None if old.expires_at is None else old.expires_at - old.created_at
        expires_at = expiry_of(request, now, default_ms=life, longest_ms=longest)
        if issuer.kind == "McpToken" and old.expires_at is not None:
            # A token that could put off its own end, or that of one below it, would have none.
            expires_at = min(old.expires_at, expires_at or old.expires_at)
        new = NewToken(
            issuer=issuer,
            project=request.project,
            name=request.name,
            labels=old.labels,
            description=old.description,
            expires_at=expires_at,
            created_at=now,
            replaces=old.sha if issuer.kind == "McpToken" else None,
            quota=quota_of(old),
            first=old.first or old.sha,
        )
        may_end = issuer.kind == "McpToken" or await self._ask.may_delete(request.bearer, new.name, new.project)

        def place(changing: Changing, replaced: Replaced) -> tuple[token.Token, list[str]]:
            session = changing.session
            row = _find(session, request, issuer, now)
            if row.sha != old.sha:
                raise Conflict(f"mcptoken {row.name} was rotated meanwhile: try again if it is to be rotated once more")
            same_owner = (row.owner_kind, row.owner) == (issuer.owner_kind, issuer.owner)
            if not same_owner and not may_end:
                raise Forbidden(f"mcptoken {row.name} is another's: rotating it takes the right to delete it")
            replaced.note(live_tree(session, row))
            row.active_name = None
            session.add(row)
            session.flush()  # the column is unique, and SQLAlchemy inserts before it updates
            gone: list[str] = []
            if request.overlap_seconds == 0:
                gone = revoke_trees(changing, [row], now)
            else:
                cut_tree(changing, row, now + request.overlap_seconds * 1000)
            # Tokens above another owner's would not be revoked with their own: a tree has one owner.
            return insert(changing, new, above=row.parents if same_owner else ()), gone

        await self._records.rehearse(lambda changing: place(changing, Replaced()))
        bind = rbac.BindToken(bearer=request.bearer, project=new.project, name=new.name, sha=new.sha, copy_of=old.sha)
        made, gone = await self._binder.put(place, [new.sha], [bind])
        await forget_tokens(self._ask, gone)
        return token.IssuedToken(bearer=new.bearer, token=made)


def _find(session: Session, request: token.RotateToken, issuer: Issuer, now: int) -> BearerRow:
    """Return the active mcptoken of the name. Raises `NotFound`, `Conflict`, `Forbidden`."""
    row = find_named(session, request.project, request.name)[0]
    status = status_of(row, owner_of(session, row), now)
    if status != "active" or row.active_name is None:
        how = "was rotated" if status == "active" else f"is {status}"
        raise Conflict(f"mcptoken {row.name} {how}: create one instead, with `mcpctl create mcptoken`")
    if issuer.kind == "McpToken" and issuer.sha not in (row.sha, *row.parents):
        raise Forbidden(f"mcptoken {issuer.name} can rotate only itself and what was issued below it")
    return row
