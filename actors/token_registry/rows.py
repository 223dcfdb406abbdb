"""The tables of the TokenRegistry, and what may be shown of their rows. Times are milliseconds since 1970."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import JSON, BigInteger
from sqlmodel import Field, Session, SQLModel, col, select

from mcpctl.actors.changes import ChangeFeed, Changing
from mcpctl.actors.storage import Store
from mcpctl.bus.contracts import token

T = TypeVar("T")

Clock = Callable[[], int]
"""Says what time it is, in milliseconds since 1970."""


def epoch_ms() -> int:
    return time.time_ns() // 1_000_000


def as_time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


class UserRow(SQLModel, table=True):
    """A user; the password only as its argon2 hash."""

    __tablename__ = "users"
    name: str = Field(primary_key=True)
    password_hash: str
    groups: list[str] = Field(sa_type=JSON)
    disabled: bool = False
    created_at: int = Field(sa_type=BigInteger)


class ServiceAccountRow(SQLModel, table=True):
    """A service account."""

    __tablename__ = "service_accounts"
    name: str = Field(primary_key=True)
    groups: list[str] = Field(sa_type=JSON)
    description: str = ""
    created_at: int = Field(sa_type=BigInteger)


class BearerRow(SQLModel, table=True):
    """A bearer of any kind, by its SHA-256; `name`, `project` and what follows belong to mcptokens alone.

    `active_name` is `<project>/<name>` as long as the mcptoken occupies its name: the column is unique.
    """

    __tablename__ = "bearers"
    sha: str = Field(primary_key=True)
    kind: str
    owner_kind: str
    owner: str
    created_at: int = Field(sa_type=BigInteger)
    expires_at: int | None = Field(default=None, sa_type=BigInteger)
    revoked_at: int | None = Field(default=None, sa_type=BigInteger)
    last_used_at: int | None = Field(default=None, sa_type=BigInteger)
    name: str = ""
    project: str | None = None
    active_name: str | None = None
    prefix: str = ""
    description: str = ""
    parents: list[str] = Field(default_factory=list, sa_type=JSON)


@dataclass(frozen=True)
class Records:
    """What every part of the registry works on: the database, its change feed, and the time."""

    store: Store
    changes: ChangeFeed
    clock: Clock

    async def read(self, work: Callable[[Session], T]) -> T:
        return await self.store.read(work)

    async def write(self, work: Callable[[Changing], T]) -> T:
        return await self.changes.write(work)


def owner_of(session: Session, row: BearerRow) -> token.Owner | None:
    """Return the owner with the groups of now, or None where it is disabled or gone."""
    if row.owner_kind == "User":
        user = session.get(UserRow, row.owner)
        if user is None or user.disabled:
            return None
        return token.Owner(kind="User", name=user.name, groups=tuple(user.groups))
    account = session.get(ServiceAccountRow, row.owner)
    if account is None:
        return None
    return token.Owner(kind="ServiceAccount", name=account.name, groups=tuple(account.groups))


def status_of(row: BearerRow, owner: token.Owner | None, now: int) -> token.Status:
    """Return the status of a bearer; that of an owner who is disabled or gone counts as revoked."""
    if row.revoked_at is not None or owner is None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "active"


def revoke_all(
    changing: Changing, owner_kind: str, owner: str, now: int, *, kind: str | None = None, but: str = ""
) -> None:
    """Revoke an owner's bearers (of one kind, if given), all but the one of SHA-256 `but`."""
    rows = select(BearerRow).where(
        col(BearerRow.owner_kind) == owner_kind, col(BearerRow.owner) == owner, col(BearerRow.revoked_at).is_(None)
    )
    for row in changing.session.exec(rows):
        if row.sha != but and kind in (None, row.kind):
            revoke(changing, row, now)


def revoke(changing: Changing, row: BearerRow, now: int) -> None:
    """Revoke one bearer, and record it."""
    row.revoked_at, row.active_name = now, None
    changing.session.add(row)
    changing.record("token", row.sha, "revoked")
