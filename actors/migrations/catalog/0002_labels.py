# ruff: noqa: INP001
"""Labels, and the longest that a project's mcptokens may last."""

import sqlalchemy as sa
from alembic import op

revision = "catalog_0002"
down_revision = "catalog_0001"


def upgrade() -> None:
    for table in ("projects", "secrets"):
        op.add_column(table, sa.Column("labels", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("projects", sa.Column("max_token_ttl", sa.String()))
