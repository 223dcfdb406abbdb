# ruff: noqa: INP001
"""The RbacEvaluator's first tables, with the built-in definition of the group admins."""

import sqlalchemy as sa
from alembic import op

revision = "rbac_0001"
down_revision = None


def upgrade() -> None:
    definitions = op.create_table(
        "definitions",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("project", sa.String()),
        sa.Column("bindings", sa.JSON(), nullable=False),
    )
    subjects = op.create_table(
        "definition_subjects",
        sa.Column("definition", sa.String(), sa.ForeignKey("definitions.name"), primary_key=True),
        sa.Column("subject", sa.String(), primary_key=True),
    )
    op.create_index("definition_subjects_subject", "definition_subjects", ["subject"])
    op.create_table(
        "change_counter",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("epoch", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "change",
        sa.Column("seq", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
    )
    bindings = ["role:edit,resource:*", "role:run,resource:*", "action:*"]
    op.bulk_insert(definitions, [{"name": "admins", "project": None, "bindings": bindings}])
    op.bulk_insert(subjects, [{"definition": "admins", "subject": "Group:admins"}])
