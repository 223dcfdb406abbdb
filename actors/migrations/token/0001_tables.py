# ruff: noqa: INP001
"""The TokenRegistry's first tables."""

import sqlalchemy as sa
from alembic import op

revision = "token_0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "service_accounts",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "bearers",
        sa.Column("sha", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("owner_kind", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("revoked_at", sa.BigInteger()),
        sa.Column("last_used_at", sa.BigInteger()),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project", sa.String()),
        sa.Column("active_name", sa.String(), unique=True),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("parents", sa.JSON(), nullable=False),
    )
    op.create_index("bearers_owner", "bearers", ["owner", "owner_kind"])
    op.create_index("bearers_project_name", "bearers", ["project", "name"])
    op.create_table(
        "change_counter",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("epoch", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "change",
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
