"""Projects in SQL, and which servers they hold."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sqlalchemy import delete
from sqlmodel import Session, col, select

from mcpctl.actors.catalog import prompts
from mcpctl.actors.catalog.rows import MemberRow, ProjectRow, SecretRow, ServerRow, as_datetime, now_ms
from mcpctl.actors.catalog.urls import demand_reachable
from mcpctl.actors.changes import Changing
from mcpctl.bus.contract import Message
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound
from mcpctl.bus.quotas import Quota


def find(session: Session, name: str) -> ProjectRow:
    """Return a project's row. Raises `NotFound`."""
    row = session.get(ProjectRow, name)
    if row is None:
        raise NotFound(f"no project {name}")
    return row


def members(session: Session, project: str) -> tuple[str, ...]:
    """Return the names of a project's servers, in the project's order."""
    rows = select(MemberRow.server).where(col(MemberRow.project) == project).order_by(col(MemberRow.position))
    return tuple(session.exec(rows))


def member_rows(session: Session, project: str) -> Sequence[ServerRow]:
    """Return the servers of a project, in the project's order."""
    rows = (
        select(ServerRow)
        .join(MemberRow, col(MemberRow.server) == col(ServerRow.name))
        .where(col(MemberRow.project) == project)
        .order_by(col(MemberRow.position))
    )
    return session.exec(rows).all()


def holding(session: Session, server: str) -> tuple[str, ...]:
    """Return the names of the projects that hold a server."""
    rows = select(MemberRow.project).where(col(MemberRow.server) == server).order_by(col(MemberRow.project))
    return tuple(session.exec(rows))


def get(session: Session, name: str) -> catalog.Project:
    row = find(session, name)
    return _shown(row, members(session, name))


def list_all(session: Session) -> tuple[catalog.Project, ...]:
    """Return all projects, by name."""
    held: dict[str, list[str]] = {}
    for member in session.exec(select(MemberRow).order_by(col(MemberRow.position))):
        held.setdefault(member.project, []).append(member.server)
    rows = session.exec(select(ProjectRow).order_by(col(ProjectRow.name)))
    return tuple(_shown(row, held.get(row.name, ())) for row in rows)


def _shown(row: ProjectRow, servers: Sequence[str]) -> catalog.Project:
    spec = catalog.ProjectSpec(
        name=row.name,
        labels=row.labels,
        description=row.description,
        servers=tuple(servers),
        naming=naming_of(row),
        max_token_ttl=row.max_token_ttl,
        gate=gate_of(row),
        pin_tools=row.pin_tools,
        quota=quota_of(row),
    )
    frozen_at = None if row.frozen_ms is None else as_datetime(row.frozen_ms)
    return catalog.Project(
        spec=spec, revision=row.revision, created_at=as_datetime(row.created_ms), frozen_at=frozen_at
    )


def naming_of(row: ProjectRow) -> catalog.Naming:
    """Return how agents see a project's tools. Raises `ValueError` for a row that says nothing known."""
    if row.naming == "plain":
        return "plain"
    if row.naming == "prefix":
        return "prefix"
    raise ValueError(f"project {row.name} has an unknown naming")


def gate_of(row: ProjectRow) -> catalog.GateSpec | None:
    """Return a project's gate, None for one that has none."""
    return None if row.gate is None else catalog.GateSpec.model_validate(row.gate)


def quota_of(row: ProjectRow) -> Quota | None:
    """Return a project's quota, None for one that has none."""
    return None if row.quota is None else Quota.model_validate(row.quota)


def model_of(spec: catalog.ProjectSpec) -> catalog.ModelSpec | None:
    """Return the model of a project's own that chooses its prompts."""
    return None if spec.gate is None else spec.gate.llm


def using(session: Session, secret: str) -> tuple[str, ...]:
    """Return the names of the projects whose models take a secret as their key."""
    return tuple(name for name, of in secrets_used(session) if of == secret)


def secrets_used(session: Session) -> Sequence[tuple[str, str]]:
    """Return each project whose model takes a secret as its key, with that secret's name, by project."""
    rows = session.exec(select(ProjectRow).where(col(ProjectRow.gate).is_not(None)).order_by(col(ProjectRow.name)))
    models = ((row.name, gate.llm) for row in rows if (gate := gate_of(row)) is not None)
    return [(name, model.secret_ref) for name, model in models if model is not None and model.secret_ref is not None]


def settled(spec: catalog.ProjectSpec, before: catalog.Naming | None) -> catalog.ProjectSpec:
    """Return a specification with its naming: what it asks for, or as it was, or (new) by the number of servers."""
    if spec.naming is not None:
        return spec
    fitting: catalog.Naming = "prefix" if len(spec.servers) > 1 else "plain"
    return spec.model_copy(update={"naming": before or fitting})


def create(changing: Changing, spec: catalog.ProjectSpec) -> catalog.Project:
    """Add a project. Raises `Conflict`, `BadRequest`."""
    add(changing, spec)
    check_slugs(changing.session, spec.name)
    return get(changing.session, spec.name)


def add(changing: Changing, spec: catalog.ProjectSpec) -> None:
    """Add a project, whatever the prefixes of its servers. Raises `Conflict`, `BadRequest`."""
    session = changing.session
    if session.get(ProjectRow, spec.name) is not None:
        raise Conflict(f"project {spec.name} exists already")
    spec = settled(spec, None)
    demand_naming(spec, None)
    row = ProjectRow(name=spec.name, description=spec.description, naming=spec.naming or "plain", created_ms=now_ms())
    row.labels, row.max_token_ttl, row.pin_tools = spec.labels, spec.max_token_ttl, spec.pin_tools
    row.quota = _as_json(spec.quota)
    _set_gate(session, row, spec)
    session.add(row)
    session.flush()
    _fill(session, spec)
    changing.record("project", spec.name, "created")


def edit(
    changing: Changing, spec: catalog.ProjectSpec, revision: int | None, vouched: AbstractSet[str]
) -> catalog.Project:
    """Replace a project's specification; `vouched` are the servers that the editor may add.

    Raises `NotFound`, `Conflict`, `BadRequest`.
    """
    session = changing.session
    row = find(session, spec.name)
    if revision is not None and revision != row.revision:
        raise Conflict(f"project {spec.name} is at revision {row.revision}, not at {revision}")
    if not set(spec.servers) <= {*members(session, spec.name), *vouched}:
        raise Conflict(f"project {spec.name} was edited at the same time: read it again")
    replace(changing, spec)
    check_slugs(session, spec.name)
    prompts.demand_servers_of(session, spec.name)
    return get(session, spec.name)


def replace(changing: Changing, spec: catalog.ProjectSpec) -> None:
    """Replace a project's specification, whatever the prefixes of its servers. Raises `NotFound` and as `add` does."""
    session = changing.session
    row = find(session, spec.name)
    before = naming_of(row)
    spec = settled(spec, before)
    if spec == get(session, spec.name).spec:
        return
    demand_naming(spec, before)
    row.naming = spec.naming or before
    row.description, row.labels, row.max_token_ttl = spec.description, spec.labels, spec.max_token_ttl
    row.pin_tools, row.quota = spec.pin_tools, _as_json(spec.quota)
    _set_gate(session, row, spec)
    session.add(row)
    session.exec(delete(MemberRow).where(col(MemberRow.project) == spec.name))
    _fill(session, spec)
    touch(changing, spec.name)


def _set_gate(session: Session, row: ProjectRow, spec: catalog.ProjectSpec) -> None:
    model = model_of(spec)
    secret = model.secret_ref if model else None
    if secret is not None and session.get(SecretRow, secret) is None:
        raise Conflict(f"the model of project {spec.name} refers to secret {secret}, which does not exist")
    if model is not None:
        demand_reachable(f"the model of project {spec.name}", model.base_url)
    row.gate = _as_json(spec.gate)


def _as_json(part: Message | None) -> dict[str, Any] | None:
    return None if part is None else part.model_dump(mode="json")


def _fill(session: Session, spec: catalog.ProjectSpec) -> None:
    if len(set(spec.servers)) != len(spec.servers):
        raise BadRequest(f"project {spec.name} lists a server twice")
    missing = [name for name in spec.servers if session.get(ServerRow, name) is None]
    if missing:
        raise Conflict(f"project {spec.name} lists servers that do not exist: {', '.join(missing)}")
    rows = (MemberRow(project=spec.name, server=name, position=place) for place, name in enumerate(spec.servers))
    session.add_all(rows)
    session.flush()


def append(changing: Changing, project: str, server: str) -> None:
    """Add a server to a project as its last. Raises `NotFound` for the project, `Conflict`."""
    session = changing.session
    found = get(session, project).spec
    demand_naming(found.model_copy(update={"servers": (*found.servers, server)}), found.naming)
    last = session.exec(
        select(MemberRow.position).where(col(MemberRow.project) == project).order_by(col(MemberRow.position).desc())
    ).first()
    session.add(MemberRow(project=project, server=server, position=0 if last is None else last + 1))
    session.flush()
    check_slugs(session, project)
    touch(changing, project)


def freeze(changing: Changing, name: str, *, frozen: bool) -> catalog.Project:
    """Freeze a project, or let it go on; one that is frozen already stays so since then. Raises `NotFound`."""
    row = find(changing.session, name)
    if frozen != (row.frozen_ms is not None):
        row.frozen_ms = now_ms() if frozen else None
        changing.session.add(row)
        changing.session.flush()
    changing.record("project", name, "changed")
    return get(changing.session, name)


def demand_unfrozen(row: ProjectRow) -> None:
    """Raise `Forbidden` where a project is frozen."""
    if row.frozen_ms is not None:
        raise Forbidden(f"project {row.name} is frozen: nothing is called or read in it until an operator unfreezes it")


def touch(changing: Changing, project: str) -> None:
    """Give a project its next revision, and record the change."""
    row = find(changing.session, project)
    row.revision += 1
    changing.session.add(row)
    changing.record("project", project, "changed")


def remove(changing: Changing, name: str) -> None:
    """Delete a project, with its prompts. Raises `NotFound`."""
    session = changing.session
    row = find(session, name)
    prompts.remove_of(session, name)
    session.exec(delete(MemberRow).where(col(MemberRow.project) == name))
    session.delete(row)
    session.flush()
    changing.record("project", name, "removed")


def demand_naming(spec: catalog.ProjectSpec, before: catalog.Naming | None) -> None:
    """Raise `Conflict` where a project would have several servers and `naming: plain`; `before` is what it has now."""
    if spec.naming != "plain" or len(spec.servers) <= 1:
        return
    names = f"{', '.join(spec.servers[:-1])} and {spec.servers[-1]}"
    if before != "plain":
        raise Conflict(
            f"project {spec.name} cannot have naming plain with several servers, {names}: two of them could have a "
            "tool of the same name"
        )
    raise Conflict(
        f"project {spec.name} has naming plain, for one server: with {names} all its tools would be renamed to "
        f"PREFIX__TOOL, also for agents that use them now. If you mean that: mcpctl edit project {spec.name} --naming "
        "prefix (in a document: naming: prefix)"
    )


def check_slugs(session: Session, project: str) -> None:
    """Raise `Conflict` where two servers of a project would give their tools the same prefix."""
    taken: dict[str, str] = {}
    for row in member_rows(session, project):
        slug = catalog.ServerSpec.model_validate_json(row.spec).slug
        other = taken.setdefault(slug, row.name)
        if other != row.name:
            raise Conflict(
                f"servers {other} and {row.name} of project {project} would both name their tools {slug}__…: "
                "give one of them another prefix"
            )
