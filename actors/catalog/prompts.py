"""Prompts in SQL: of a project, or of all of them."""

from collections.abc import Iterable, Sequence
from typing import Literal

from sqlalchemy import ColumnElement, delete, or_
from sqlmodel import Session, col, select

from mcpctl.actors.catalog.rows import MemberRow, ProjectRow, PromptRow, ServerRow, as_datetime, now_ms
from mcpctl.actors.changes import Changing
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import Conflict, NotFound

Action = Literal["created", "changed", "removed"]


def find(session: Session, name: str) -> PromptRow:
    """Return a prompt's row. Raises `NotFound`."""
    row = session.get(PromptRow, name)
    if row is None:
        raise NotFound(f"no prompt {name}")
    return row


def get(session: Session, name: str) -> catalog.Prompt:
    """Return a prompt. Raises `NotFound`."""
    return _shown(find(session, name))


def get_or_none(session: Session, name: str) -> catalog.Prompt | None:
    """Return a prompt, None where there is none of that name."""
    row = session.get(PromptRow, name)
    return None if row is None else _shown(row)


def homes(session: Session) -> dict[str, str | None]:
    """Return the project of every prompt, None for one that counts in all of them."""
    return dict(session.exec(select(PromptRow.name, PromptRow.project)).all())


def list_all(session: Session) -> tuple[catalog.Prompt, ...]:
    """Return all prompts, by name."""
    return tuple(_shown(row) for row in session.exec(select(PromptRow).order_by(col(PromptRow.name))))


def counting(session: Session, project: str) -> tuple[catalog.Prompt, ...]:
    """Return the prompts that count in a project, its own and those for all, by name."""
    return tuple(_shown(row) for row in session.exec(select(PromptRow).where(_counts(project)).order_by("name")))


def index(session: Session, project: str) -> tuple[catalog.IndexedPrompt, ...]:
    """Return the index of what counts in a project, by name; no content is read for it."""
    columns = (PromptRow.name, PromptRow.tags, PromptRow.priority, PromptRow.summary, PromptRow.size)
    found = session.exec(select(*columns).where(_counts(project)).order_by("name"))  # type: ignore[call-overload]
    return tuple(
        catalog.IndexedPrompt(name=name, tags=tuple(tags), priority=priority, summary=summary, size=size)
        for name, tags, priority, summary, size in found
    )


def texts(session: Session, project: str, names: Iterable[str]) -> tuple[catalog.PromptText, ...]:
    """Return the contents of those of the named prompts that count in a project, in the order of the names."""
    wanted = list(dict.fromkeys(names))
    rows = session.exec(select(PromptRow).where(_counts(project), col(PromptRow.name).in_(wanted)))
    found = {row.name: row for row in rows}
    return tuple(
        catalog.PromptText(name=name, content=found[name].content, resource=_resource(found[name]))
        for name in wanted
        if name in found
    )


def _counts(project: str) -> ColumnElement[bool]:
    return or_(col(PromptRow.project) == project, col(PromptRow.project).is_(None))


def _resource(row: PromptRow) -> catalog.PromptResource | None:
    return None if row.server is None else catalog.PromptResource(server=row.server, uri=row.uri or "")


def _shown(row: PromptRow) -> catalog.Prompt:
    return catalog.Prompt(
        spec=spec_of(row),
        revision=row.revision,
        created_at=as_datetime(row.created_ms),
        updated_at=as_datetime(row.updated_ms),
    )


def spec_of(row: PromptRow) -> catalog.PromptSpec:
    return catalog.PromptSpec(
        name=row.name,
        labels=row.labels,
        project=row.project,
        tags=tuple(row.tags),
        priority=row.priority,
        summary=row.summary,
        content=row.content,
        resource=_resource(row),
    )


def source(spec: catalog.PromptSpec) -> tuple[str | None, catalog.PromptResource | None]:
    """Return where a prompt has its content from, and for which project."""
    return spec.project, spec.resource


def create(changing: Changing, spec: catalog.PromptSpec) -> catalog.Prompt:
    """Add a prompt. Raises `Conflict`."""
    add(changing, spec)
    demand_servers(changing.session, [find(changing.session, spec.name)])
    return get(changing.session, spec.name)


def add(changing: Changing, spec: catalog.PromptSpec) -> None:
    """Add a prompt, whether or not the server of its resource is its project's. Raises `Conflict`."""
    session = changing.session
    if session.get(PromptRow, spec.name) is not None:
        raise Conflict(f"prompt {spec.name} exists already")
    at = now_ms()
    row = PromptRow(
        name=spec.name, priority=spec.priority, summary="", content="", size=0, created_ms=at, updated_ms=at
    )
    _fill(session, row, spec)
    _record(changing, row.name, spec.project, "created")


def edit(changing: Changing, spec: catalog.PromptSpec, revision: int | None) -> catalog.Prompt:
    """Replace a prompt's specification. Raises `NotFound`, `Conflict`."""
    row = find(changing.session, spec.name)
    if revision is not None and revision != row.revision:
        raise Conflict(f"prompt {spec.name} is at revision {row.revision}, not at {revision}")
    replace(changing, spec)
    demand_servers(changing.session, [row])
    return get(changing.session, spec.name)


def replace(changing: Changing, spec: catalog.PromptSpec) -> None:
    """Replace a prompt's specification, as `add` does; one that changes nothing leaves its revision."""
    session = changing.session
    row = find(session, spec.name)
    if spec == spec_of(row):
        return
    before = row.project
    _fill(session, row, spec)
    row.revision, row.updated_ms = row.revision + 1, now_ms()
    session.add(row)
    session.flush()
    for project in dict.fromkeys((before, spec.project)):
        _record(changing, row.name, project, "changed")


def _fill(session: Session, row: PromptRow, spec: catalog.PromptSpec) -> None:
    if spec.project is not None and session.get(ProjectRow, spec.project) is None:
        raise Conflict(f"prompt {spec.name} is of project {spec.project}, which does not exist")
    server = spec.resource.server if spec.resource else None
    if server is not None and session.get(ServerRow, server) is None:
        raise Conflict(f"prompt {spec.name} refers to a resource of server {server}, which does not exist")
    row.project, row.labels, row.tags = spec.project, spec.labels, list(spec.tags)
    row.priority, row.summary, row.content = spec.priority, spec.summary, spec.content
    row.size = len(spec.content.encode())
    row.server, row.uri = server, spec.resource.uri if spec.resource else None
    session.add(row)
    session.flush()


def remove(changing: Changing, name: str) -> None:
    """Delete a prompt. Raises `NotFound`."""
    session = changing.session
    row = find(session, name)
    session.delete(row)
    session.flush()
    _record(changing, name, row.project, "removed")


def remove_of(session: Session, project: str) -> None:
    """Delete the prompts of a project that is about to go."""
    session.exec(delete(PromptRow).where(col(PromptRow.project) == project))
    session.flush()


def demand_home(session: Session, name: str, project: str | None) -> None:
    """Raise `Conflict` where a prompt is no longer of the project in which rights on it were asked for."""
    if find(session, name).project != project:
        raise Conflict(f"prompt {name} was edited at the same time: read it again")


def referring(session: Session, server: str) -> Sequence[PromptRow]:
    """Return the prompts whose resource is one of a server, by name."""
    return session.exec(select(PromptRow).where(col(PromptRow.server) == server).order_by("name")).all()


def demand_servers(session: Session, rows: Iterable[PromptRow]) -> None:
    """Raise `Conflict` where a prompt of a project has a resource of a server that the project does not hold."""
    for row in rows:
        if row.server is None or row.project is None or session.get(MemberRow, (row.project, row.server)) is not None:
            continue
        raise Conflict(
            f"prompt {row.name} has its content from server {row.server}, which is not one of project {row.project}"
        )


def demand_all_servers(session: Session) -> None:
    """Raise as `demand_servers` does, for any prompt."""
    demand_servers(session, session.exec(select(PromptRow).where(col(PromptRow.server).is_not(None)).order_by("name")))


def demand_servers_of(session: Session, project: str) -> None:
    """Raise `Conflict` where a project no longer holds a server of which one of its prompts has its content."""
    demand_servers(session, session.exec(select(PromptRow).where(col(PromptRow.project) == project).order_by("name")))


def demand_unused(session: Session, server: str) -> None:
    """Raise `Conflict` where a prompt has its content from a server that is about to go."""
    names = [row.name for row in referring(session, server)]
    if names:
        raise Conflict(
            f"server {server} supplies the content of {'prompts' if len(names) > 1 else 'prompt'} {', '.join(names)}: "
            "take the resource out of it first, or delete it"
        )


def _record(changing: Changing, name: str, project: str | None, action: Action) -> None:
    """Record a change for whoever keeps views: of one project, or of all."""
    if project is not None:
        changing.record("project", project, "changed")
    else:
        changing.record("prompt", name, action)


def demand_sound(row: PromptRow) -> None:
    """Raise `ValueError` for a row that is no prompt."""
    spec = spec_of(row)
    as_datetime(row.created_ms), as_datetime(row.updated_ms)
    if row.size != len(spec.content.encode()) or (row.server is None) != (row.uri is None):
        raise ValueError(row.name)
