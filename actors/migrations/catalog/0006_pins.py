# ruff: noqa: INP001
"""The definitions of tools, as they were at first use."""

import sqlalchemy as sa
from alembic import op

revision = "catalog_0006"
down_revision = "catalog_0005"


def upgrade() -> None:
    op.add_column("projects", sa.Column("pin_tools", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.create_table(
        "pins",
        sa.Column("server", sa.String(), sa.ForeignKey("servers.name"), primary_key=True),
        sa.Column("tool", sa.String(), primary_key=True),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("first_seen_ms", sa.BigInteger(), nullable=False),
        sa.Column("approved_ms", sa.BigInteger()),
        sa.Column("approved_by", sa.String()),
        sa.Column("pending_digest", sa.String()),
        sa.Column("pending_definition", sa.Text()),
        sa.Column("pending_ms", sa.BigInteger()),
    )
