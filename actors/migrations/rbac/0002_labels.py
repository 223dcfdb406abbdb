# ruff: noqa: INP001
"""Labels of definitions."""

import sqlalchemy as sa
from alembic import op

revision = "rbac_0002"
down_revision = "rbac_0001"


def upgrade() -> None:
    op.add_column("definitions", sa.Column("labels", sa.JSON(), nullable=False, server_default="{}"))
