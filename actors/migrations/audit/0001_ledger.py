# ruff: noqa: INP001
"""The ledger's first tables."""

import sqlalchemy as sa
from alembic import op

revision = "audit_0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SEARCHED = ("at", "kind", "outcome", "principal", "user", "token_name", "token_sha", "server", "name")


def upgrade() -> None:
    op.create_table(
        "ledger",
        sa.Column("seq", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("prev", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("principal", sa.String()),
        sa.Column("user", sa.String()),
        sa.Column("token_name", sa.String()),
        sa.Column("token_sha", sa.String()),
        sa.Column("server", sa.String()),
        sa.Column("name", sa.String()),
        sa.Column("event", sa.Text(), nullable=False),
    )
    op.create_index("ledger_event_id", "ledger", ["event_id"], unique=True)
    op.create_index("ledger_number", "ledger", ["project", "number"], unique=True)
    for column in SEARCHED:
        op.create_index(f"ledger_{column}", "ledger", [column, "seq"])
    op.create_table(
        "ledger_chain",
        sa.Column("project", sa.String(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
    )
    op.create_table(
        "ledger_position",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("stream", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
    )
