"""The tables of the TokenRegistry, and what may be shown of their rows. Times are milliseconds since 1970."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from sqlalchemy import JSON, BigInteger
from sqlmodel import Field, Session, SQLModel

from mcpctl.actors.changes import ChangeFeed, Changing
from mcpctl.actors.storage import Store
from mcpctl.actors.token_registry.memberships import memberships
from mcpctl.bus.contracts import token
from mcpctl.bus.quotas import Quota

T = TypeVar("T")

Clock = Callable[[], int]
"""Says what time it is, in milliseconds since 1970."""


def epoch_ms() -> int:
    return time.time_ns() // 1_000_000


def as_time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


class UserRow(SQLModel, table=True):
    """A user; the password only as its argon2 hash, empty as long as there is none."""

    __tablename__ = "users"
    name: str = Field(primary_key=True)
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    password_hash: str = ""
    groups: list[str] = Field(sa_type=JSON)
    disabled: bool = False
    created_at: int = Field(sa_type=BigInteger)


class ServiceAccountRow(SQLModel, table=True):
    """A service account; with a `router_site` its bearers admit routers of that site, and nothing else."""

    __tablename__ = "service_accounts"
    name: str = Field(primary_key=True)
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    groups: list[str] = Field(sa_type=JSON)
    description: str = ""
    router_site: str | None = None
    created_at: int = Field(sa_type=BigInteger)


class GroupRow(SQLModel, table=True):
    """A group; `groups` are those that it is a member of itself. Its members say so in their own rows."""

    __tablename__ = "groups"
    name: str = Field(primary_key=True)
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    description: str = ""
    groups: list[str] = Field(default_factory=list, sa_type=JSON)
    created_at: int = Field(sa_type=BigInteger)


class BearerRow(SQLModel, table=True):
    """A bearer of any kind, by its SHA-256; `name`, `project` and what follows belong to mcptokens alone.

    `active_name` is `<project>/<name>` as long as the mcptoken occupies its name: the column is unique. `replaces` is
    the SHA-256 of the one that it stands for, where an mcptoken has rotated that: it goes with it. `first` is that of
    the one with which rotations of this mcptoken began, whoever did them: its quota is counted under that.
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
    last_gateway: str | None = None
    last_tool: str | None = None
    name: str = ""
    project: str | None = None
    active_name: str | None = None
    prefix: str = ""
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    description: str = ""
    parents: list[str] = Field(default_factory=list, sa_type=JSON)
    replaces: str | None = None
    quota: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    first: str | None = None


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

    async def rehearse(self, work: Callable[[Changing], T]) -> T:
        return await self.changes.rehearse(work)


def owner_of(session: Session, row: BearerRow) -> token.Owner | None:
    """Return the owner with the groups of now, or None where it is disabled or gone."""
    if row.owner_kind == "User":
        user = session.get(UserRow, row.owner)
        return None if user is None or user.disabled else as_owner(session, "User", user)
    account = session.get(ServiceAccountRow, row.owner)
    return None if account is None else as_owner(session, "ServiceAccount", account)


def as_owner(
    session: Session, kind: Literal["User", "ServiceAccount"], row: UserRow | ServiceAccountRow
) -> token.Owner:
    """Return a user or service account with every group that it is in, also by way of another."""
    return token.Owner(kind=kind, name=row.name, groups=tuple(sorted(above(session, row.groups))))


def above(session: Session, names: Iterable[str]) -> set[str]:
    """Return the groups of these names and all that they are members of, one through the other."""
    waiting = set(names)
    if not waiting:
        return set()
    nesting = memberships(session, GroupRow).groups
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in nesting and name not in found:  # one that is not there gives nothing
            found.add(name)
            waiting.update(nesting[name])
    return found


def quota_of(row: BearerRow) -> Quota | None:
    """Return an mcptoken's own quota, None for one that has none."""
    return None if row.quota is None else Quota.model_validate(row.quota)


def status_of(row: BearerRow, owner: token.Owner | None, now: int) -> token.Status:
    """Return the status of a bearer; that of an owner who is disabled or gone counts as revoked."""
    if row.revoked_at is not None or owner is None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "active"
