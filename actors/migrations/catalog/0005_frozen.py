# ruff: noqa: INP001
"""Since when a project is frozen."""

import sqlalchemy as sa
from alembic import op

revision = "catalog_0005"
down_revision = "catalog_0004"


def upgrade() -> None:
    op.add_column("projects", sa.Column("frozen_ms", sa.BigInteger()))
