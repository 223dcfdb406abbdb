# ruff: noqa: INP001
"""The quotas of projects."""

import sqlalchemy as sa
from alembic import op

revision = "catalog_0008"
down_revision = "catalog_0006"


def upgrade() -> None:
    op.add_column("projects", sa.Column("quota", sa.JSON()))
