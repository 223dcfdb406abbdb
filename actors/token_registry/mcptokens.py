"""Mcptokens: issued below their issuer, revoked with all that was issued below them."""

import asyncio
from collections.abc import Sequence

from sqlmodel import Session, col, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import BearerRow, Records, as_time, owner_of, revoke, status_of
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, mint, prefix
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import Verdict
from mcpctl.bus.errors import Conflict, Forbidden, NotFound, Unauthenticated

DEEPEST = 8
"""Tokens above a token at the most: each is one more layer in every decision."""


class McpTokens:
    """Issues, shows, revokes and deletes mcptokens."""

    def __init__(self, records: Records, ask: RbacCalls, bus: Bus) -> None:
        self._records, self._ask, self._bus = records, ask, bus

    @handles(token.issue)
    async def issue(self, request: token.IssueToken, caller: Caller) -> token.IssuedToken:
        bearer, now = mint("pat"), self._records.clock()
        row = _new_row(request, caller.authority, bearer, now)
        shown = await self._records.write(lambda changing: _insert(changing, row, caller.authority, now))
        if request.bindings:
            try:
                await self._ask.bind(request.bearer, request.project, request.name, shown.sha, request.bindings)
            except BaseException:  # a refusal, or the end of the time allowed: nothing half-made stays
                await asyncio.shield(self._bus.tasks.start(self._withdraw(shown.sha)))
                raise
        return token.IssuedToken(bearer=bearer, token=shown)

    @handles(token.list_tokens)
    async def list_all(self, request: token.ListTokens, _caller: Caller) -> token.Tokens:
        now = self._records.clock()

        def find(session: Session) -> list[token.Token]:
            rows = select(BearerRow).where(col(BearerRow.kind) == "pat")
            if request.project is not None:
                rows = rows.where(col(BearerRow.project) == request.project)
            return [_shown(session, row, now) for row in session.exec(rows)]

        items = await self._records.read(find)
        return token.Tokens(items=tuple(sorted(items, key=lambda item: (item.project, item.name, item.created_at))))

    @handles(token.describe)
    async def describe(self, request: token.DescribeToken, _caller: Caller) -> token.Token:
        now = self._records.clock()
        return await self._records.read(
            lambda session: _shown(session, _find(session, request.project, request.name)[0], now)
        )

    @handles(token.revoke)
    async def revoke(self, request: token.RevokeToken, _caller: Caller) -> token.Token:
        now = self._records.clock()

        def revoke_tree(changing: Changing) -> tuple[token.Token, list[str]]:
            row = _find(changing.session, request.project, request.name)[0]
            gone = _revoke_tree(changing, row, now)
            return _shown(changing.session, row, now), gone

        shown, gone = await self._records.write(revoke_tree)
        await self._forget(gone)
        return shown

    @handles(token.delete)
    async def delete(self, request: token.DeleteToken, _caller: Caller) -> Done:
        now = self._records.clock()

        def delete(changing: Changing) -> list[str]:
            gone: list[str] = []
            for row in _find(changing.session, request.project, request.name):
                gone += _revoke_tree(changing, row, now)
                changing.session.delete(row)
                changing.record("token", row.sha, "removed")
            return gone

        await self._forget(await self._records.write(delete))
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

        await self._forget(await self._records.write(revoke_all))
        return Done()

    async def _forget(self, shas: list[str]) -> None:
        await self._ask.forget(*(f"McpToken:{sha}" for sha in shas))

    async def _withdraw(self, sha: str) -> None:
        def remove(changing: Changing) -> None:
            row = changing.session.get(BearerRow, sha)
            if row is not None:
                changing.session.delete(row)
                changing.record("token", sha, "removed")

        await self._records.write(remove)
        await self._forget([sha])


def _new_row(request: token.IssueToken, issuer: Verdict, bearer: str, now: int) -> BearerRow:
    return BearerRow(
        sha=digest(bearer),
        kind="pat",
        owner_kind=issuer.owner_kind,
        owner=issuer.owner,
        created_at=now,
        expires_at=None if request.ttl_seconds is None else now + request.ttl_seconds * 1000,
        name=request.name,
        project=request.project,
        active_name=f"{request.project}/{request.name}",
        prefix=prefix(bearer),
        description=request.description,
    )


def _insert(changing: Changing, row: BearerRow, issuer: Verdict, now: int) -> token.Token:
    """Insert a new row, below the mcptoken that issues it if one does."""
    if issuer.kind == "McpToken":
        _put_below(changing.session, row, issuer, now)
    if owner_of(changing.session, row) is None:
        raise Unauthenticated("revoked")
    _take_name(changing.session, row, now)
    changing.session.add(row)
    changing.record("token", row.sha, "created")
    return _shown(changing.session, row, now)


def _put_below(session: Session, row: BearerRow, issuer: Verdict, now: int) -> None:
    parent = session.get(BearerRow, issuer.sha)
    if parent is None or status_of(parent, owner_of(session, parent), now) != "active":
        raise Unauthenticated("revoked")
    if parent.project != row.project:
        raise Forbidden(f"mcptoken {parent.name} can issue others only in its own project {parent.project}")
    row.parents = [*parent.parents, parent.sha]
    if len(row.parents) > DEEPEST:
        raise Conflict(f"mcptoken {parent.name} is {DEEPEST} levels deep already: have one above it issue this one")
    if parent.expires_at is not None:
        row.expires_at = min(parent.expires_at, row.expires_at or parent.expires_at)


def _take_name(session: Session, row: BearerRow, now: int) -> None:
    """Take the name over from an expired token. Raises `Conflict` where an active one has it."""
    holder = session.exec(select(BearerRow).where(col(BearerRow.active_name) == row.active_name)).first()
    if holder is None:
        return
    if holder.expires_at is None or holder.expires_at > now:
        raise Conflict(
            f"project {row.project} has an active mcptoken {row.name} already: revoke it first, or choose another name"
        )
    holder.active_name = None
    session.add(holder)
    session.flush()  # the column is unique, and SQLAlchemy inserts before it updates


def _find(session: Session, project: str, name: str) -> Sequence[BearerRow]:
    """Return the tokens of a name, the one that holds the name first, then the newest. Raises `NotFound`."""
    named = (col(BearerRow.project) == project, col(BearerRow.name) == name)
    rows = session.exec(select(BearerRow).where(col(BearerRow.kind) == "pat", *named)).all()
    if not rows:
        raise NotFound(f"project {project} has no mcptoken {name}")
    return sorted(rows, key=lambda row: (row.active_name is None, -row.created_at))


def _revoke_tree(changing: Changing, row: BearerRow, now: int) -> list[str]:
    """Revoke a token and all below it; return the SHA-256 of each. What is revoked already stays as it is."""
    if row.revoked_at is not None:
        return []
    live = (col(BearerRow.project) == row.project, col(BearerRow.revoked_at).is_(None))
    rows = changing.session.exec(select(BearerRow).where(col(BearerRow.kind) == "pat", *live)).all()
    gone = [row, *(other for other in rows if row.sha in other.parents)]
    for each in gone:
        revoke(changing, each, now)
    return [each.sha for each in gone]


def _shown(session: Session, row: BearerRow, now: int) -> token.Token:
    owner = owner_of(session, row)
    return token.Token(
        name=row.name,
        project=row.project or "",
        prefix=row.prefix,
        sha=row.sha,
        owner=owner or token.Owner.model_validate({"kind": row.owner_kind, "name": row.owner}),
        description=row.description,
        created_at=as_time(row.created_at),
        last_used_at=None if row.last_used_at is None else as_time(row.last_used_at),
        expires_at=None if row.expires_at is None else as_time(row.expires_at),
        status=status_of(row, owner, now),
    )
