"""The ledger's tables."""

from sqlalchemy import BigInteger, Integer, Text
from sqlmodel import Field, SQLModel

from mcpctl.bus.names import NO_PROJECT

Number = BigInteger().with_variant(Integer(), "sqlite")
"""64 bits everywhere; on SQLite an `INTEGER` key is the row's own id and needs no index."""


class EntryRow(SQLModel, table=True):
    """An event in the ledger: its canonical text, its place in two orders, and what is searched for."""

    __tablename__ = "ledger"
    seq: int = Field(primary_key=True, sa_type=Number)
    event_id: str
    project: str = NO_PROJECT
    number: int = Field(sa_type=BigInteger)
    prev: str
    hash: str
    at: int = Field(sa_type=BigInteger)
    kind: str
    outcome: str
    principal: str | None
    user: str | None
    token_name: str | None
    token_sha: str | None
    server: str | None
    name: str | None
    event: str = Field(sa_type=Text)


class ChainRow(SQLModel, table=True):
    """The end of a project's chain, signed in the transaction that wrote it."""

    __tablename__ = "ledger_chain"
    project: str = Field(primary_key=True)
    number: int = Field(sa_type=BigInteger)
    hash: str
    at: int = Field(sa_type=BigInteger)
    key: str
    signature: str


class PurgedRow(SQLModel, table=True):
    """The last entry of a chain that was purged: what is left begins after it."""

    __tablename__ = "ledger_purged"
    project: str = Field(primary_key=True)
    number: int = Field(sa_type=BigInteger)
    hash: str
    at: int = Field(sa_type=BigInteger)
    key: str
    signature: str


class PositionRow(SQLModel, table=True):
    """One row, signed: up to where the stream is in the ledger (`seq`, stored `at` ns), the ledger's last number."""

    __tablename__ = "ledger_position"
    id: int = Field(primary_key=True)
    stream: str
    seq: int = Field(sa_type=BigInteger)
    at: int = Field(sa_type=BigInteger)
    last: int = Field(sa_type=BigInteger)
    key: str
    signature: str
