# ruff: noqa: INP001
"""The site whose routers a service account's bearers admit to the bus."""

import sqlalchemy as sa
from alembic import op

revision = "token_0009"
down_revision = "token_0003"


def upgrade() -> None:
    op.add_column("service_accounts", sa.Column("router_site", sa.String()))
