"""Upstream servers in SQL."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping

from sqlalchemy import delete
from sqlmodel import Session, col, select

from mcpctl.actors.catalog import projects, prompts
from mcpctl.actors.catalog.rows import MemberRow, PinRow, SecretRow, ServerRow, UseRow, as_datetime, new_stamp, now_ms
from mcpctl.actors.catalog.urls import demand_reachable
from mcpctl.actors.changes import Changing
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import BadRequest, Conflict, NotFound
from mcpctl.bus.names import is_label


def references(spec: catalog.ServerSpec) -> tuple[str, ...]:
    """Return the names of the secrets that a server refers to. Raises `BadRequest` where one is no name."""
    mark = catalog.SECRET_MARK
    values = (*spec.headers.values(), *spec.env.values())
    names = sorted({value.removeprefix(mark) for value in values if value.startswith(mark)})
    if not all(is_label(name) for name in names):
        raise BadRequest(f"server {spec.name}: {mark} must be followed by the name of a secret, and nothing else")
    return tuple(names)


def find(session: Session, name: str) -> ServerRow:
    """Return a server's row. Raises `NotFound`."""
    row = session.get(ServerRow, name)
    if row is None:
        raise NotFound(f"no server {name}")
    return row


def spec_of(row: ServerRow) -> catalog.ServerSpec:
    return catalog.ServerSpec.model_validate_json(row.spec)


def get(session: Session, name: str) -> catalog.Server:
    row = find(session, name)
    return _shown(row, projects.holding(session, name))


def list_all(session: Session) -> tuple[catalog.Server, ...]:
    """Return all servers, by name."""
    holding = defaultdict(list)
    for member in session.exec(select(MemberRow).order_by(col(MemberRow.project))):
        holding[member.server].append(member.project)
    rows = session.exec(select(ServerRow).order_by(col(ServerRow.name)))
    return tuple(_shown(row, holding[row.name]) for row in rows)


def _shown(row: ServerRow, holding: Iterable[str]) -> catalog.Server:
    return catalog.Server(
        spec=spec_of(row),
        revision=row.revision,
        created_at=as_datetime(row.created_ms),
        projects=tuple(holding),
    )


def create(changing: Changing, spec: catalog.ServerSpec, in_projects: Iterable[str]) -> catalog.Server:
    """Add a server, also to projects. Raises `BadRequest`, `Conflict`, `NotFound` for a project."""
    session = changing.session
    if session.get(ServerRow, spec.name) is not None:
        raise Conflict(f"server {spec.name} exists already")
    session.add(ServerRow(name=spec.name, spec=spec.model_dump_json(), stamp=new_stamp(), created_ms=now_ms()))
    session.flush()
    _refer(session, spec)
    changing.record("server", spec.name, "created")
    for project in sorted(set(in_projects)):
        projects.append(changing, project, spec.name)
    return get(session, spec.name)


def edit(changing: Changing, spec: catalog.ServerSpec, revision: int | None) -> catalog.Server:
    """Replace a server's specification; one that changes nothing leaves its revision. Raises `NotFound`, `Conflict`."""
    session = changing.session
    row = find(session, spec.name)
    if revision is not None and revision != row.revision:
        raise Conflict(f"server {spec.name} is at revision {row.revision}, not at {revision}")
    replace(changing, spec)
    for project in projects.holding(session, spec.name):
        projects.check_slugs(session, project)
    return get(session, spec.name)


def replace(changing: Changing, spec: catalog.ServerSpec) -> None:
    """Replace a server's specification, whatever its neighbours' prefixes.

    Raises `NotFound`, `Conflict`, `BadRequest`.
    """
    session = changing.session
    row = find(session, spec.name)
    if spec == spec_of(row):
        return
    row.spec, row.revision, row.stamp = spec.model_dump_json(), row.revision + 1, new_stamp()
    session.add(row)
    session.flush()
    _refer(session, spec)
    record_change(changing, spec.name)


def _refer(session: Session, spec: catalog.ServerSpec) -> None:
    if spec.url is not None:
        demand_reachable(f"server {spec.name}", spec.url)
    names = references(spec)
    missing = [name for name in names if session.get(SecretRow, name) is None]
    if missing:
        raise Conflict(f"server {spec.name} refers to secrets that do not exist: {', '.join(missing)}")
    session.exec(delete(UseRow).where(col(UseRow.server) == spec.name))
    session.add_all(UseRow(server=spec.name, secret=name) for name in names)
    session.flush()


def refer_to(session: Session, secret: str) -> None:
    """Note which servers use a new secret: after a restore without secrets there are some."""
    names = [row.name for row in session.exec(select(ServerRow)) if secret in references(spec_of(row))]
    session.add_all(UseRow(server=name, secret=secret) for name in names)
    session.flush()


def remove(changing: Changing, name: str) -> None:
    """Delete a server, and take it out of its projects. Raises `NotFound`, and `Conflict` where a prompt needs it."""
    session = changing.session
    row = find(session, name)
    prompts.demand_unused(session, name)
    holding = projects.holding(session, name)
    session.exec(delete(MemberRow).where(col(MemberRow.server) == name))
    session.exec(delete(UseRow).where(col(UseRow.server) == name))
    session.exec(delete(PinRow).where(col(PinRow.server) == name))
    session.delete(row)
    session.flush()
    changing.record("server", name, "removed")
    for project in holding:
        projects.touch(changing, project)


def record_change(changing: Changing, name: str) -> None:
    """Record that a server changed, and with it each project that holds it: followers need not know which."""
    changing.record("server", name, "changed")
    for project in projects.holding(changing.session, name):
        changing.record("project", project, "changed")


def connection_revisions(session: Session, rows: Iterable[ServerRow]) -> Mapping[str, str]:
    """Return for each server a text that changes with its specification and with any secret that it uses."""
    stamps = {row.name: [row.stamp] for row in rows}
    used = (
        select(UseRow.server, SecretRow.stamp)
        .join(SecretRow, col(SecretRow.name) == col(UseRow.secret))
        .where(col(UseRow.server).in_(stamps))
        .order_by(col(SecretRow.name))
    )
    for server, stamp in session.exec(used):
        stamps[server].append(stamp)
    return {name: hashlib.sha256("\n".join(of).encode()).hexdigest()[:16] for name, of in stamps.items()}
