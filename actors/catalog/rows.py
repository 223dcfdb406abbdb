"""The Catalog's tables. Times are milliseconds since 1970, which every database keeps alike."""

import secrets
import time
from datetime import UTC, datetime

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
    revision: int = 1
    created_ms: int = Field(sa_type=BigInteger)


class MemberRow(SQLModel, table=True):
    """A server's place in a project."""

    __tablename__ = "project_servers"
    project: str = Field(primary_key=True, foreign_key="projects.name")
    server: str = Field(primary_key=True, foreign_key="servers.name")
    position: int


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


class UseRow(SQLModel, table=True):
    """A server that refers to a secret."""

    __tablename__ = "server_secrets"
    server: str = Field(primary_key=True, foreign_key="servers.name")
    secret: str = Field(primary_key=True, foreign_key="secrets.name")


TABLES = (ProjectRow, ServerRow, MemberRow, SecretRow, UseRow)
"""In the order of their foreign keys."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def as_datetime(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def new_stamp() -> str:
    return secrets.token_hex(8)
