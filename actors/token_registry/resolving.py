"""Whom a bearer stands for: the one place where that is decided."""

from collections.abc import Iterator

from sqlmodel import Session, col, select

from mcpctl.actors.changes import position
from mcpctl.actors.token_registry.rows import (
    BearerRow,
    Records,
    ServiceAccountRow,
    UserRow,
    as_owner,
    owner_of,
    quota_of,
    status_of,
)
from mcpctl.actors.token_registry.uses import Uses
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest, kind_of
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BadRequest, Conflict, NotFound, Unauthenticated
from mcpctl.bus.quotas import TokenQuota

DATA_PLANE = ("gateway-", "router")
"""Callers whose questions are no use of a bearer yet: the router tells what it was used for."""


class Resolving:
    """Answers for a bearer, and for a subject."""

    def __init__(self, records: Records, uses: Uses) -> None:
        self._records, self._uses = records, uses

    @handles(token.resolve)
    async def resolve(self, request: token.ResolveBearer, caller: Caller) -> token.Resolved:
        resolved, last_used = await self.find(request.bearer)
        if not caller.name.startswith(DATA_PLANE) and not self._uses.is_fresh(last_used):
            self._uses.note(resolved.principal.sha)
        return resolved

    @handles(token.whoami)
    async def whoami(self, request: token.WhoAmI, _caller: Caller) -> token.Principal:
        principal = (await self.find(request.bearer))[0].principal
        if principal.kind != "McpToken":
            return principal
        owner = principal.owner.model_copy(update={"groups": ()})  # an agent need not know what else its owner may do
        own = tuple(each for each in principal.quotas if each.name == principal.name)
        return principal.model_copy(update={"owner": owner, "parents": (), "quotas": own})

    @handles(token.find_principal)
    async def find_principal(self, request: token.FindPrincipal, _caller: Caller) -> token.Resolved:
        now = self._records.clock()
        return await self._records.read(lambda session: stands_for(session, request, now))

    async def find(self, bearer: str) -> tuple[token.Resolved, int | None]:
        """Return the principal of a live bearer, and when it was last used.

        Raises `Unauthenticated`, also for one that admits routers to the bus: it may do nothing else.
        """
        resolved, last_used, site = await self._find(bearer)
        if site is not None:
            raise Unauthenticated("unknown")
        return resolved, last_used

    async def find_router(self, bearer: str) -> tuple[str, token.Principal]:
        """Return the site whose routers a live bearer admits, and its account. Raises `Unauthenticated`."""
        resolved, _, site = await self._find(bearer)
        if site is None:
            raise Unauthenticated("a router presents the bearer of a service account that has a router site")
        return site, resolved.principal

    async def _find(self, bearer: str) -> tuple[token.Resolved, int | None, str | None]:
        if kind_of(bearer) is None:
            raise Unauthenticated("unknown")
        sha, now = digest(bearer), self._records.clock()
        return await self._records.read(lambda session: _resolved(session, sha, now))


def _resolved(session: Session, sha: str, now: int) -> tuple[token.Resolved, int | None, str | None]:
    # The position first: whatever changes after it comes to the asker as a later change.
    epoch, seq = position(session)
    row = session.get(BearerRow, sha)
    if row is None:
        raise Unauthenticated("unknown")
    owner = owner_of(session, row)
    status = status_of(row, owner, now)
    if status != "active" or owner is None:
        raise Unauthenticated(status)
    account = session.get(ServiceAccountRow, row.owner) if row.kind == "sa" else None
    site = None if account is None else account.router_site
    return token.Resolved(epoch=epoch, seq=seq, principal=_principal(session, row, owner, now)), row.last_used_at, site


def _principal(session: Session, row: BearerRow, owner: token.Owner, now: int) -> token.Principal:
    expires_in_ms = None if row.expires_at is None else row.expires_at - now
    if row.kind != "pat":
        return token.Principal(kind=owner.kind, name=owner.name, sha=row.sha, owner=owner, expires_in_ms=expires_in_ms)
    return token.Principal(
        kind="McpToken",
        name=row.name,
        sha=row.sha,
        owner=owner,
        project=row.project,
        parents=tuple(row.parents),
        quotas=tuple(_quotas(session, row)),
        expires_in_ms=expires_in_ms,
    )


def _quotas(session: Session, row: BearerRow) -> Iterator[TokenQuota]:
    """Yield the quota of an mcptoken, then those of the tokens above it, from the nearest on."""
    above = (session.get(BearerRow, sha) for sha in reversed(row.parents))
    for each in (row, *above):
        if each is not None and (quota := quota_of(each)) is not None:
            yield TokenQuota(sha=each.first or each.sha, name=each.name, quota=quota)


def stands_for(session: Session, asked: token.FindPrincipal, now: int) -> token.Resolved:
    """Return whom a subject stands for. Raises `BadRequest`, `NotFound`, and `Conflict` for one that is not active."""
    epoch, seq = position(session)
    kind, _, name = asked.subject.partition(":")
    if kind == "McpToken":
        principal = _found_token(session, name, asked.project, now)
    elif kind == "User":
        principal = _found_user(session, name)
    elif kind == "ServiceAccount":
        principal = _found_account(session, name)
    elif kind == "Group":
        raise BadRequest(f"group {name} does nothing by itself: ask about one of its members")
    else:
        raise BadRequest(f"{asked.subject!r} is no subject: write User:NAME, ServiceAccount:NAME or McpToken:NAME")
    return token.Resolved(epoch=epoch, seq=seq, principal=principal)


def _found_user(session: Session, name: str) -> token.Principal:
    row = session.get(UserRow, name)
    if row is None:
        raise NotFound(f"there is no user {name}")
    if row.disabled:
        raise Conflict(f"user {name} is disabled")
    return token.Principal(kind="User", name=name, sha="", owner=as_owner(session, "User", row))


def _found_account(session: Session, name: str) -> token.Principal:
    row = session.get(ServiceAccountRow, name)
    if row is None:
        raise NotFound(f"there is no service account {name}")
    return token.Principal(kind="ServiceAccount", name=name, sha="", owner=as_owner(session, "ServiceAccount", row))


def _found_token(session: Session, name: str, project: str | None, now: int) -> token.Principal:
    if len(name) == 64:  # the SHA-256: names are shorter
        row = session.get(BearerRow, name)
    elif project is None:
        raise BadRequest(f"mcptoken {name} belongs to a project: say to which")
    else:
        row = session.exec(select(BearerRow).where(col(BearerRow.active_name) == f"{project}/{name}")).first()
    if row is None or row.kind != "pat" or project not in (None, row.project):
        where = f" in project {project}" if project else ""
        raise NotFound(f"there is no active mcptoken {name}{where}")
    owner = owner_of(session, row)
    status = status_of(row, owner, now)
    if status != "active" or owner is None:
        raise Conflict(f"mcptoken {row.name} is {status}")
    return _principal(session, row, owner, now)
