"""New mcptokens: first their bindings, which nobody can use yet, then in one transaction the token itself."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar

from sqlmodel import Session, col, select

from mcpctl.actors.changes import ChangeRow, Changing
from mcpctl.actors.token_registry.lifetimes import DEFAULT_MS, Terms, expiry_of
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import BearerRow, Records, owner_of, status_of
from mcpctl.actors.token_registry.showing import as_told, shown
from mcpctl.actors.token_registry.trees import find_named, live_tree, revoke_trees, working
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, mint, prefix
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.contracts.rbac import Verdict
from mcpctl.bus.errors import Conflict, Forbidden, NotFound, Unauthenticated
from mcpctl.bus.quotas import Quota

T = TypeVar("T")

DEEPEST = 8
"""Tokens above a token at the most: each is one more layer in every decision."""


@dataclass(frozen=True)
class Issuer:
    """Who issues a token, and whose it will be."""

    kind: str
    name: str
    sha: str
    owner_kind: str
    owner: str

    @classmethod
    def of_verdict(cls, verdict: Verdict) -> Self:
        return cls(verdict.kind, verdict.name, verdict.sha, verdict.owner_kind, verdict.owner)

    @classmethod
    def of_principal(cls, principal: token.Principal) -> Self:
        owner = principal.owner
        return cls(principal.kind, principal.name, principal.sha, owner.kind, owner.name)


@dataclass(frozen=True)
class NewToken:
    """An mcptoken that is to be; `expires_at` in milliseconds since 1970."""

    issuer: Issuer
    project: str
    name: str
    labels: dict[str, str]
    description: str
    expires_at: int | None
    created_at: int
    replaces: str | None = None
    quota: Quota | None = None
    first: str | None = None
    bearer: str = field(default_factory=lambda: mint("pat"), repr=False)

    @property
    def sha(self) -> str:
        return digest(self.bearer)

    def row(self) -> BearerRow:
        return BearerRow(
            sha=self.sha,
            kind="pat",
            owner_kind=self.issuer.owner_kind,
            owner=self.issuer.owner,
            created_at=self.created_at,
            expires_at=self.expires_at,
            name=self.name,
            project=self.project,
            active_name=f"{self.project}/{self.name}",
            prefix=prefix(self.bearer),
            labels=self.labels,
            description=self.description,
            replaces=self.replaces,
            quota=None if self.quota is None else self.quota.model_dump(mode="json"),
            first=self.first,
        )


@dataclass
class Replaced:
    """The tokens that a new one replaces, as they were: `revoked_at`, `active_name` and `expires_at` of each.

    `change` is the number of the latest change when that was done.
    """

    rows: dict[str, tuple[int | None, str | None, int | None]] = field(default_factory=dict)
    change: int = 0

    def note(self, rows: Sequence[BearerRow]) -> None:
        for row in rows:
            self.rows.setdefault(row.sha, (row.revoked_at, row.active_name, row.expires_at))

    def bring_back(self, changing: Changing) -> None:
        """Undo the replacement, but not what somebody has ended since, nor what hangs on that or belonged to it."""
        later = (col(ChangeRow.seq) > self.change, col(ChangeRow.action).in_(("revoked", "removed")))
        ended = set(changing.session.exec(select(ChangeRow.kind, ChangeRow.key).where(*later)).all())
        for sha, was in self.rows.items():
            row = changing.session.get(BearerRow, sha)
            if row is not None and ended.isdisjoint(_hangs_on(row)):
                row.revoked_at, row.active_name, row.expires_at = was
                changing.session.add(row)
                changing.record("token", sha, "created")


def _hangs_on(row: BearerRow) -> set[tuple[str, str]]:
    """Return an mcptoken, those above it, the one that it stands for, and its owner: as changes name them."""
    tokens = {row.sha, *row.parents} | ({row.replaces} if row.replaces is not None else set())
    return {("token", sha) for sha in tokens} | {(row.owner_kind.lower(), row.owner)}


class Binder:
    """Puts new mcptokens in place, with their bindings, or leaves everything as it was."""

    def __init__(self, records: Records, ask: RbacCalls, bus: Bus) -> None:
        self._records, self._ask, self._bus = records, ask, bus

    async def put(
        self, place: Callable[[Changing, Replaced], T], shas: Sequence[str], binds: Sequence[rbac.BindToken]
    ) -> T:
        """Bind, then run `place` in one transaction; where anything fails, undo both."""
        writing: asyncio.Future[T] | None = None
        replaced = Replaced()
        try:
            for bind in binds:
                await self._ask.bind(bind)
            writing = asyncio.ensure_future(self._records.write(lambda changing: _placed(place, changing, replaced)))
            return await asyncio.shield(writing)
        except BaseException:  # a refusal, or the end of the time allowed: nothing half-made stays
            await asyncio.shield(self._bus.tasks.start(self._withdraw(writing, shas, replaced, bound=bool(binds))))
            raise

    async def _withdraw(
        self, writing: "asyncio.Future[T] | None", shas: Sequence[str], replaced: Replaced, *, bound: bool
    ) -> None:
        def remove(changing: Changing) -> None:
            rows = [row for sha in shas if (row := changing.session.get(BearerRow, sha)) is not None]
            ended = len(rows) < len(shas) or any(row.revoked_at is not None for row in rows)
            for row in rows:
                changing.session.delete(row)
                changing.record("token", row.sha, "removed")
            changing.session.flush()  # names are unique
            if not ended:  # else the name was revoked meanwhile, and with it what it stood for before
                replaced.bring_back(changing)

        if writing is not None:
            with suppress(Exception):
                await writing
                await self._records.write(remove)  # it was written after all, though nobody waits for it any more
        if bound:
            await self._ask.forget(*(f"McpToken:{sha}" for sha in shas))


def _placed(place: Callable[[Changing, Replaced], T], changing: Changing, replaced: Replaced) -> T:
    result = place(changing, replaced)
    replaced.change = max((change.seq for change in changing.recorded), default=0)
    return result


class Issuing:
    """Issues mcptokens."""

    def __init__(self, records: Records, ask: RbacCalls, binder: Binder, terms: Terms) -> None:
        self._records, self._ask, self._binder, self._terms = records, ask, binder, terms

    @handles(token.issue)
    async def issue(self, request: token.IssueToken, caller: Caller) -> token.IssuedToken:
        longest = await self._terms.longest_ms(request.bearer, request.project)
        now = self._records.clock()
        new = NewToken(
            issuer=Issuer.of_verdict(caller.authority),
            project=request.project,
            name=request.name,
            labels=request.labels,
            description=request.description,
            expires_at=expiry_of(request, now, default_ms=DEFAULT_MS, longest_ms=longest),
            created_at=now,
            quota=request.quota,
        )

        may_delete = request.force and await self._ask.may_delete(request.bearer, new.name, new.project)

        def place(changing: Changing, replaced: Replaced) -> tuple[token.Token, list[str]]:
            gone = clear_name(changing, new, replaced, may_delete=may_delete) if request.force else []
            return insert(changing, new), gone

        await self._records.rehearse(lambda changing: place(changing, Replaced()))
        clone = request.rbac == "clone"
        bind = rbac.BindToken(
            bearer=request.bearer,
            project=new.project,
            name=new.name,
            sha=new.sha,
            bindings=request.bindings,
            clone=clone,
        )
        binds = [bind] if request.bindings or clone else []
        issued, gone = await self._binder.put(place, [new.sha], binds)
        await self._ask.forget(*(f"McpToken:{sha}" for sha in gone))
        return token.IssuedToken(bearer=new.bearer, token=issued)


def clear_name(changing: Changing, new: NewToken, replaced: Replaced, *, may_delete: bool) -> list[str]:
    """Revoke what has the name now, with all below it; return the SHA-256 of each.

    Raises `Forbidden` where that takes more than the right to create, and `Conflict`.
    """
    with suppress(NotFound):
        rows = working(find_named(changing.session, new.project, new.name), new.created_at)
        gone = [each for row in rows for each in live_tree(changing.session, row)]
        if new.issuer.sha in (row.sha for row in gone):
            raise Conflict(f"mcptoken {new.issuer.name} cannot replace a token that it hangs on: rotate it")
        if rows and not may_delete:
            raise Forbidden(f"replacing mcptoken {new.name} by force takes the right to delete it")
        if new.issuer.kind == "McpToken" and any(new.issuer.sha not in (row.sha, *row.parents) for row in rows):
            raise Forbidden(f"mcptoken {new.issuer.name} can replace only what was issued below it")
        replaced.note(gone)
        return revoke_trees(changing, rows, new.created_at)
    return []


def insert(changing: Changing, new: NewToken, above: Sequence[str] | None = None) -> token.Token:
    """Insert a new token: below the tokens `above`, or below its issuer if that is one."""
    session, row, now = changing.session, new.row(), new.created_at
    if above is not None:
        row.parents = list(above)
    elif new.issuer.kind == "McpToken":
        row.parents = _line_of(session, row, new.issuer, now)
    _end_with_parent(session, row)
    if owner_of(session, row) is None:
        raise Unauthenticated("revoked")
    _take_name(session, row, now)
    session.add(row)
    changing.record("token", row.sha, "created")
    return as_told(shown(session, row, now), new.issuer.kind)


def _line_of(session: Session, row: BearerRow, issuer: Issuer, now: int) -> list[str]:
    """Return the tokens above one that an mcptoken issues."""
    parent = session.get(BearerRow, issuer.sha)
    if parent is None or status_of(parent, owner_of(session, parent), now) != "active":
        raise Unauthenticated("revoked")
    if parent.project != row.project:
        raise Forbidden(f"mcptoken {parent.name} can issue others only in its own project {parent.project}")
    line = [*parent.parents, parent.sha]
    if len(line) > DEEPEST:
        raise Conflict(f"mcptoken {parent.name} is {DEEPEST} levels deep already: have one above it issue this one")
    return line


def _end_with_parent(session: Session, row: BearerRow) -> None:
    parent = session.get(BearerRow, row.parents[-1]) if row.parents else None
    if parent is not None and parent.expires_at is not None:
        row.expires_at = min(parent.expires_at, row.expires_at or parent.expires_at)


def _take_name(session: Session, row: BearerRow, now: int) -> None:
    """Take the name over from an expired token. Raises `Conflict` where an active one has it."""
    holder = session.exec(select(BearerRow).where(col(BearerRow.active_name) == row.active_name)).first()
    if holder is None:
        return
    if holder.expires_at is None or holder.expires_at > now:
        raise Conflict(
            f"project {row.project} has an active mcptoken {row.name} already: revoke it first, replace it by force, "
            "or choose another name"
        )
    holder.active_name = None
    session.add(holder)
    session.flush()  # the column is unique, and SQLAlchemy inserts before it updates
