# ruff: noqa: INP001
"""Which mcptoken one stands for that an mcptoken has rotated."""

import sqlalchemy as sa
from alembic import op

revision = "token_0003"
down_revision = "token_0002"


def upgrade() -> None:
    op.add_column("bearers", sa.Column("replaces", sa.String()))
