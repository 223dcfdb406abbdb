# ruff: noqa: INP001
"""Heads are signed, the hash of an entry covers its place in the whole ledger, and old entries can be purged."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "audit_0002"
down_revision = "audit_0001"

PAGE = 5000


def upgrade() -> None:
    for table, columns in (("ledger_chain", ("at", "key", "signature")), ("ledger_position", ("key", "signature"))):
        for name in columns:
            kind = sa.BigInteger() if name == "at" else sa.String()
            op.add_column(table, sa.Column(name, kind, nullable=False, server_default="0" if name == "at" else ""))
    op.create_table(
        "ledger_purged",
        sa.Column("project", sa.String(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
    )
    bind = op.get_bind()
    for (project,) in bind.execute(sa.text("SELECT project FROM ledger_chain")).all():
        _rehash(bind, project)


def _rehash(bind: sa.Connection, project: str) -> None:
    """Write a chain's hashes anew: nothing vouched for them so far, so nothing is lost by it."""
    number, prev = 0, "0" * 64
    after = "SELECT number, seq, event FROM ledger WHERE project = :project AND number > :number"
    wanted = sa.text(f"{after} ORDER BY number LIMIT :page")
    change = sa.text("UPDATE ledger SET prev = :prev, hash = :hash WHERE seq = :seq")
    while page := bind.execute(wanted, {"project": project, "number": number, "page": PAGE}).all():
        changes = []
        for _, seq, event in page:
            digest = hashlib.sha256(bytes.fromhex(prev) + seq.to_bytes(8, "big") + event.encode()).hexdigest()
            changes.append({"prev": prev, "hash": digest, "seq": seq})
            prev = digest
        number = page[-1].number
        bind.execute(change, changes)
    bind.execute(
        sa.text("UPDATE ledger_chain SET hash = :hash WHERE project = :project"), {"hash": prev, "project": project}
    )
