"""An mcptoken as it may be shown."""

from sqlmodel import Session

from mcpctl.actors.token_registry.rows import BearerRow, as_time, owner_of, quota_of, status_of
from mcpctl.bus.contracts import token

Owners = dict[tuple[str, str], token.Owner | None]


def shown(session: Session, row: BearerRow, now: int, owners: Owners | None = None) -> token.Token:
    """Return what may be shown of an mcptoken; `owners` keeps them from one row to the next."""
    kept: Owners = {} if owners is None else owners
    key = (row.owner_kind, row.owner)
    if key not in kept:
        kept[key] = owner_of(session, row)
    owner = kept[key]
    parent = session.get(BearerRow, row.parents[-1]) if row.parents else None
    return token.Token(
        id=row.sha,
        name=row.name,
        project=row.project or "",
        prefix=row.prefix,
        labels=row.labels,
        owner=owner or token.Owner.model_validate({"kind": row.owner_kind, "name": row.owner}),
        parent=parent.name if parent is not None else None,
        description=row.description,
        created_at=as_time(row.created_at),
        last_use=_last_use(row),
        expires_at=None if row.expires_at is None else as_time(row.expires_at),
        revoked_at=None if row.revoked_at is None else as_time(row.revoked_at),
        quota=quota_of(row),
        status=status_of(row, owner, now),
    )


def as_told(found: token.Token, asker: str) -> token.Token:
    """Return what is told of it to an asker of that kind: an mcptoken need not know what else an owner may do."""
    if asker != "McpToken":
        return found
    return found.model_copy(update={"owner": found.owner.model_copy(update={"groups": ()})})


def _last_use(row: BearerRow) -> token.LastUse | None:
    if row.last_used_at is None:
        return None
    return token.LastUse(at=as_time(row.last_used_at), gateway=row.last_gateway, tool=row.last_tool)
