# ruff: noqa: INP001
"""Groups as rows of their own; labels; through what a bearer was last used."""

import time

import sqlalchemy as sa
from alembic import op

revision = "token_0002"
down_revision = "token_0001"

ADMINS = "admins"


def upgrade() -> None:
    for table in ("users", "service_accounts", "bearers"):
        op.add_column(table, sa.Column("labels", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("bearers", sa.Column("last_gateway", sa.String()))
    op.add_column("bearers", sa.Column("last_tool", sa.String()))
    op.create_table(
        "groups",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("groups", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
    )
    _make_rows_of_names()


def _make_rows_of_names() -> None:
    """Make a row of every group that so far was only named by its members, and of `admins`."""
    connection = op.get_bind()
    names = {ADMINS}
    for table in ("users", "service_accounts"):
        members = sa.table(table, sa.column("groups", sa.JSON()))
        for (groups,) in connection.execute(sa.select(members.c.groups)):
            names.update(groups)
    groups = sa.table(
        "groups",
        sa.column("name", sa.String()),
        sa.column("labels", sa.JSON()),
        sa.column("description", sa.String()),
        sa.column("groups", sa.JSON()),
        sa.column("created_at", sa.BigInteger()),
    )
    now = time.time_ns() // 1_000_000
    rows = [{"name": name, "labels": {}, "description": "", "groups": [], "created_at": now} for name in sorted(names)]
    connection.execute(sa.insert(groups), rows)
