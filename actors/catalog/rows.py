"""The Catalog's tables. Times are milliseconds since 1970, which every database keeps alike."""

import secrets
import time
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, LargeBinary, Text
from sqlmodel import Field, SQLModel


class ServerRow(SQLModel, table=True):
    """An upstream server. `stamp` is new after each edit, and never comes back after a deletion."""

    __tablename__ = "servers"
    name: str = Field(primary_key=True)
    spec: str = Field(sa_type=Text)
    revision: int = 1
    stamp: str
    created_ms: int = Field(sa_type=BigInteger)


class ProjectRow(SQLModel, table=True):
    """A project, without its servers."""

    __tablename__ = "projects"
    name: str = Field(primary_key=True)
    description: str
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    naming: str = "plain"
    max_token_ttl: str | None = None
    gate: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    pin_tools: bool = True
    quota: dict[str, Any] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    frozen_ms: int | None = Field(default=None, sa_type=BigInteger)
    revision: int = 1
    created_ms: int = Field(sa_type=BigInteger)


class MemberRow(SQLModel, table=True):
    """A server's place in a project."""

    __tablename__ = "project_servers"
    project: str = Field(primary_key=True, foreign_key="projects.name")
    server: str = Field(primary_key=True, foreign_key="servers.name")
    position: int


class PromptRow(SQLModel, table=True):
    """A prompt, of one project or (`project` None) of all. `size` is that of its content, in bytes of UTF-8."""

    __tablename__ = "prompts"
    name: str = Field(primary_key=True)
    project: str | None = Field(default=None, foreign_key="projects.name")
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    tags: list[str] = Field(default_factory=list, sa_type=JSON)
    priority: int
    summary: str
    content: str = Field(sa_type=Text)
    size: int
    server: str | None = Field(default=None, foreign_key="servers.name")
    uri: str | None = None
    revision: int = 1
    created_ms: int = Field(sa_type=BigInteger)
    updated_ms: int = Field(sa_type=BigInteger)


class SecretRow(SQLModel, table=True):
    """A sealed value: nonce and ciphertext, and the id of the key that opens it."""

    __tablename__ = "secrets"
    name: str = Field(primary_key=True)
    key_id: str
    sealed: bytes = Field(sa_type=LargeBinary)
    stamp: str
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    created_ms: int = Field(sa_type=BigInteger)
    updated_ms: int = Field(sa_type=BigInteger)


class PinRow(SQLModel, table=True):
    """What a server said of a tool when it was first seen or last approved, and (`pending_…`) what it says instead."""

    __tablename__ = "pins"
    server: str = Field(primary_key=True, foreign_key="servers.name")
    tool: str = Field(primary_key=True)
    digest: str
    definition: str = Field(sa_type=Text)
    first_seen_ms: int = Field(default=0, sa_type=BigInteger)
    approved_ms: int | None = Field(default=None, sa_type=BigInteger)
    approved_by: str | None = None
    pending_digest: str | None = None
    pending_definition: str | None = Field(default=None, sa_type=Text)
    pending_ms: int | None = Field(default=None, sa_type=BigInteger)


class UseRow(SQLModel, table=True):
    """A server that refers to a secret."""

    __tablename__ = "server_secrets"
    server: str = Field(primary_key=True, foreign_key="servers.name")
    secret: str = Field(primary_key=True, foreign_key="secrets.name")


TABLES = (ProjectRow, ServerRow, MemberRow, PromptRow, SecretRow, UseRow, PinRow)
"""In the order of their foreign keys."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def as_datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def new_stamp() -> str:
    return secrets.token_hex(8)
