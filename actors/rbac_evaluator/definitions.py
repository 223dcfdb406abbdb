"""Definitions: written by those who hold what they grant."""

from collections.abc import Sequence

from sqlmodel import Session, col, delete, select

from mcpctl.actors.changes import ChangeFeed, Changing
from mcpctl.actors.rbac_evaluator.policy import Policy, demand_effect
from mcpctl.actors.rbac_evaluator.rows import (
    DefinitionRow,
    SubjectRow,
    definition_of,
    naming,
    of_token,
    of_tokens,
)
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import rbac
from mcpctl.bus.contracts.rbac import ADMINS, Definition
from mcpctl.bus.errors import BadRequest, Conflict, NotFound


class Definitions:
    """Writes, shows and deletes definitions, and keeps those of the mcptokens."""

    def __init__(self, policy: Policy, changes: ChangeFeed) -> None:
        self._policy, self._changes = policy, changes

    @handles(rbac.define)
    async def define(self, request: rbac.Define, _caller: Caller) -> Definition:
        wanted = request.definition
        demand_free_name(wanted.name)
        asker = await self._policy.principal(request.bearer)

        def define(changing: Changing) -> Definition:
            demand_effect(wanted.bindings)
            self._policy.demand_held(changing.session, asker, wanted.project, wanted.bindings)
            return create(changing, wanted)

        return await self._changes.write(define)

    @handles(rbac.redefine)
    async def redefine(self, request: rbac.Define, _caller: Caller) -> Definition:
        demand_not_built_in(request.name)
        wanted = request.definition
        asker = await self._policy.principal(request.bearer)

        def redefine(changing: Changing) -> Definition:
            row = find(changing.session, wanted.name)
            was = definition_of(changing.session, row)
            demand_effect(wanted.bindings, was.bindings)
            self._policy.demand_may_change(changing.session, asker, was, wanted)
            return replace(changing, row, wanted)

        return await self._changes.write(redefine)

    @handles(rbac.list_definitions)
    async def list_all(self, request: rbac.ListDefinitions, _caller: Caller) -> rbac.Definitions:
        def read(session: Session) -> rbac.Definitions:
            rows = session.exec(select(DefinitionRow).order_by(col(DefinitionRow.name))).all()
            wanted = [row for row in rows if request.of_tokens or not row.name.startswith(rbac.OF_TOKENS)]
            return rbac.Definitions(items=tuple(definition_of(session, row) for row in wanted))

        return await self._policy.store.read(read)

    @handles(rbac.get_definition)
    async def get(self, request: rbac.GetDefinition, _caller: Caller) -> Definition:
        return await self._policy.store.read(lambda session: definition_of(session, find(session, request.name)))

    @handles(rbac.delete_definition)
    async def delete(self, request: rbac.DeleteDefinition, _caller: Caller) -> Done:
        demand_not_built_in(request.name)
        await self._changes.write(lambda changing: remove(changing, find(changing.session, request.name)))
        return Done()

    @handles(rbac.bind_token)
    async def bind_token(self, request: rbac.BindToken, _caller: Caller) -> rbac.Bindings:
        """Keep the bindings of a new mcptoken; one without any has no definition."""
        demand_effect(request.bindings)
        asker = await self._policy.principal(request.bearer)

        def bind(changing: Changing) -> rbac.Bindings:
            session = changing.session
            given = list(request.bindings)
            if request.clone:
                given += self._policy.snapshot(session, asker, request.project)
            if request.copy_of is not None:
                given += of_token(session, request.copy_of, request.project)
            bindings = tuple(dict.fromkeys(given))
            self._policy.demand_held(session, asker, request.project, bindings)
            if bindings:
                subject = f"McpToken:{request.sha}"
                name = rbac.name_of_tokens(request.sha)
                create(changing, Definition(name=name, project=request.project, subjects=(subject,), bindings=bindings))
            return rbac.Bindings(bindings=bindings)

        return await self._changes.write(bind)

    @handles(rbac.unbind)
    async def unbind(self, request: rbac.UnbindSubject, _caller: Caller) -> Done:
        await self._changes.write(lambda changing: _unbind(changing, (request.subject, *request.others)))
        return Done()

    @handles(rbac.get_bindings)
    async def get_bindings(self, request: rbac.GetBindings, _caller: Caller) -> rbac.Bindings:
        return await self._policy.store.read(
            lambda session: rbac.Bindings(bindings=of_token(session, request.sha, request.project))
        )

    @handles(rbac.list_token_bindings)
    async def list_token_bindings(self, request: rbac.ListTokenBindings, _caller: Caller) -> rbac.TokenBindings:
        return await self._policy.store.read(
            lambda session: rbac.TokenBindings(items=of_tokens(session, request.project))
        )

    async def project_of(self, name: str) -> str | None:
        """Return the project of a definition: rights on it are asked there."""
        row = await self._policy.store.read(lambda session: session.get(DefinitionRow, name))
        return row.project if row is not None else None


def find(session: Session, name: str) -> DefinitionRow:
    """Return a definition's row. Raises `NotFound`."""
    row = session.get(DefinitionRow, name)
    if row is None:
        raise NotFound(f"there is no definition {name}")
    return row


def demand_free_name(name: str) -> None:
    """Raise `BadRequest` for a name that nobody gives to a definition of his own."""
    if name.startswith(rbac.OF_TOKENS):
        raise BadRequest(f"names that begin with {rbac.OF_TOKENS} are kept for mcptokens: choose another one")


def demand_not_built_in(name: str) -> None:
    """Raise `Conflict` for the definition that stays as it is."""
    if name == ADMINS:
        raise Conflict(f"the definition {ADMINS} is built in: it can be neither changed nor deleted")


def create(changing: Changing, wanted: Definition) -> Definition:
    """Create a definition. Raises `Conflict` where there is one of that name."""
    if changing.session.get(DefinitionRow, wanted.name) is not None:
        raise Conflict(f"there is a definition {wanted.name} already: edit it, or choose another name")
    row = DefinitionRow(name=wanted.name, labels=dict(wanted.labels), project=wanted.project, bindings=_texts(wanted))
    changing.session.add(row)
    changing.session.flush()
    _put_subjects(changing.session, wanted)
    changing.record("definition", wanted.name, "created")
    return definition_of(changing.session, row)


def replace(changing: Changing, row: DefinitionRow, wanted: Definition) -> Definition:
    """Change a definition. Raises `Conflict` for another project."""
    demand_same_project(row, wanted)
    row.labels, row.bindings = dict(wanted.labels), _texts(wanted)
    changing.session.add(row)
    changing.session.exec(delete(SubjectRow).where(col(SubjectRow.definition) == row.name))
    _put_subjects(changing.session, wanted)
    changing.record("definition", wanted.name, "changed")
    return definition_of(changing.session, row)


def demand_same_project(row: DefinitionRow, wanted: Definition) -> None:
    """Raise `Conflict` where a definition is to move to another project."""
    if row.project != wanted.project:
        raise Conflict(f"the project of definition {wanted.name} cannot be changed: delete it and define it anew")


def remove(changing: Changing, row: DefinitionRow) -> None:
    """Delete a definition with its subjects."""
    changing.session.exec(delete(SubjectRow).where(col(SubjectRow.definition) == row.name))
    changing.session.delete(row)
    changing.record("definition", row.name, "removed")


def _unbind(changing: Changing, subjects: Sequence[str]) -> None:
    for subject, row in naming(changing.session, subjects):
        if row.name == ADMINS:
            continue
        gone = (col(SubjectRow.definition) == row.name, col(SubjectRow.subject) == subject)
        changing.session.exec(delete(SubjectRow).where(*gone))
        left = changing.session.exec(select(SubjectRow).where(col(SubjectRow.definition) == row.name)).first()
        if left is None:
            remove(changing, row)
        else:
            changing.record("definition", row.name, "changed")


def _put_subjects(session: Session, wanted: Definition) -> None:
    """Raise `BadRequest` for a subject that the definition of an mcptoken cannot have: caches rest on that."""
    for subject in wanted.subjects:
        if not rbac.may_have(wanted.name, subject):
            raise BadRequest(f"{wanted.name} holds the bindings of one mcptoken: it can be about nobody else")
    session.add_all(SubjectRow(definition=wanted.name, subject=subject) for subject in sorted(set(wanted.subjects)))
    session.flush()


def _texts(wanted: Definition) -> list[str]:
    return list(dict.fromkeys(str(binding) for binding in wanted.bindings))
