# ruff: noqa: INP001
"""Prompts, and the gates of projects."""

import sqlalchemy as sa
from alembic import op

revision = "catalog_0004"
down_revision = "catalog_0003"


def upgrade() -> None:
    op.add_column("projects", sa.Column("gate", sa.JSON()))
    op.create_table(
        "prompts",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("project", sa.String(), sa.ForeignKey("projects.name")),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("summary", sa.String(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("server", sa.String(), sa.ForeignKey("servers.name")),
        sa.Column("uri", sa.String()),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("prompts_project", "prompts", ["project"])
    op.create_index("prompts_server", "prompts", ["server"])
