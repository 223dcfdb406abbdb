"""The tables of the RbacEvaluator."""

from collections.abc import Iterable

from sqlalchemy import JSON
from sqlmodel import Field, Session, SQLModel, col, select

from mcpctl.bus.contracts.rbac import Binding, Definition


class DefinitionRow(SQLModel, table=True):
    """A definition; its bindings in the text form."""

    __tablename__ = "definitions"
    name: str = Field(primary_key=True)
    project: str | None = None
    bindings: list[str] = Field(sa_type=JSON)


class SubjectRow(SQLModel, table=True):
    """A subject of a definition."""

    __tablename__ = "definition_subjects"
    definition: str = Field(primary_key=True, foreign_key="definitions.name")
    subject: str = Field(primary_key=True)


def bindings_of(row: DefinitionRow) -> tuple[Binding, ...]:
    return tuple(Binding.parse(text) for text in row.bindings)


def definition_of(session: Session, row: DefinitionRow) -> Definition:
    subjects = session.exec(select(SubjectRow.subject).where(col(SubjectRow.definition) == row.name)).all()
    return Definition.model_construct(
        name=row.name, project=row.project, subjects=tuple(sorted(subjects)), bindings=bindings_of(row)
    )


def naming(session: Session, subjects: Iterable[str]) -> list[tuple[str, DefinitionRow]]:
    """Return each of the subjects with every definition that names it, in whatever project, sorted by name."""
    named = select(SubjectRow.subject, DefinitionRow).join(
        DefinitionRow, col(DefinitionRow.name) == col(SubjectRow.definition)
    )
    chosen = named.where(col(SubjectRow.subject).in_(list(subjects))).order_by(col(DefinitionRow.name))
    return [(subject, row) for subject, row in session.exec(chosen)]
