# ruff: noqa: INP001
"""The quotas of mcptokens, and with which bearer the rotations of each began."""

import sqlalchemy as sa
from alembic import op

revision = "token_0010"
down_revision = "token_0009"


def upgrade() -> None:
    op.add_column("bearers", sa.Column("quota", sa.JSON()))
    op.add_column("bearers", sa.Column("first", sa.String()))
