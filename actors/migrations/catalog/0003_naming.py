# ruff: noqa: INP001
"""How agents see the tools of a project: until now that followed from the number of its servers."""

import sqlalchemy as sa
from alembic import op

revision = "catalog_0003"
down_revision = "catalog_0002"


def upgrade() -> None:
    op.add_column("projects", sa.Column("naming", sa.String(), nullable=False, server_default="plain"))
    op.execute(
        "UPDATE projects SET naming = 'prefix' "
        "WHERE (SELECT count(*) FROM project_servers WHERE project_servers.project = projects.name) > 1"
    )
