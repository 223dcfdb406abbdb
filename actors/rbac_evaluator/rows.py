"""The tables of the RbacEvaluator."""

from collections.abc import Iterable
from functools import lru_cache

import structlog
from sqlalchemy import JSON
from sqlmodel import Field, Session, SQLModel, col, select

from mcpctl.bus.contracts.rbac import Binding, Definition

log = structlog.get_logger()


class DefinitionRow(SQLModel, table=True):
    """A definition; its bindings in the text form."""

    __tablename__ = "definitions"
    name: str = Field(primary_key=True)
    labels: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    project: str | None = None
    bindings: list[str] = Field(sa_type=JSON)


class SubjectRow(SQLModel, table=True):
    """A subject of a definition."""

    __tablename__ = "definition_subjects"
    definition: str = Field(primary_key=True, foreign_key="definitions.name")
    subject: str = Field(primary_key=True)


TABLES: tuple[type[SQLModel], ...] = (DefinitionRow, SubjectRow)
"""What a backup holds."""

BUILT_IN = ["role:edit,resource:*", "role:run,resource:*", "action:*"]
"""The bindings of the definition `admins`, which the first migration writes."""


def bindings_of(row: DefinitionRow) -> tuple[Binding, ...]:
    """Return the bindings of a definition, without any that this version does not take: those grant nothing."""
    return tuple(binding for text in row.bindings if (binding := _read(text)) is not None)


@lru_cache(4096)
def _read(text: str) -> Binding | None:
    try:
        return Binding.parse(text)
    except ValueError:
        log.warning("stored binding not understood", binding=text)
        return None


def definition_of(session: Session, row: DefinitionRow) -> Definition:
    subjects = session.exec(select(SubjectRow.subject).where(col(SubjectRow.definition) == row.name)).all()
    return Definition.model_construct(
        name=row.name,
        labels=row.labels,
        project=row.project,
        subjects=tuple(sorted(subjects)),
        bindings=bindings_of(row),
    )


def naming(session: Session, subjects: Iterable[str]) -> list[tuple[str, DefinitionRow]]:
    """Return each of the subjects with every definition that names it, in whatever project, sorted by name."""
    named = select(SubjectRow.subject, DefinitionRow).join(
        DefinitionRow, col(DefinitionRow.name) == col(SubjectRow.definition)
    )
    chosen = named.where(col(SubjectRow.subject).in_(list(subjects))).order_by(col(DefinitionRow.name))
    return [(subject, row) for subject, row in session.exec(chosen)]


def of_token(session: Session, sha: str, project: str) -> tuple[Binding, ...]:
    """Return what definitions of a project give to one mcptoken itself."""
    rows = [row for _, row in naming(session, [f"McpToken:{sha}"]) if row.project == project]
    return tuple(dict.fromkeys(binding for row in rows for binding in bindings_of(row)))


def of_tokens(session: Session, project: str | None) -> dict[str, tuple[Binding, ...]]:
    """Return the same for every mcptoken that has any, by its SHA-256, in the order of these."""
    joined = select(SubjectRow.subject, DefinitionRow).join(
        DefinitionRow, col(DefinitionRow.name) == col(SubjectRow.definition)
    )
    chosen = joined.where(col(SubjectRow.subject).startswith("McpToken:"), col(DefinitionRow.project).is_not(None))
    if project is not None:
        chosen = chosen.where(col(DefinitionRow.project) == project)
    found: dict[str, dict[Binding, None]] = {}
    for subject, row in session.exec(chosen.order_by(col(SubjectRow.subject), col(DefinitionRow.name))):
        found.setdefault(subject.removeprefix("McpToken:"), {}).update(dict.fromkeys(bindings_of(row)))
    return {sha: tuple(bindings) for sha, bindings in found.items()}
