"""What the router needs at run time: a project's view, and the way to one of its servers or to its model."""

from collections.abc import Mapping

from sqlmodel import Session

from mcpctl.actors import changes
from mcpctl.actors.catalog import projects, prompts, sealed_secrets, servers
from mcpctl.actors.catalog.rows import MemberRow, ProjectRow, SecretRow, ServerRow
from mcpctl.actors.catalog.sealing import Keyring
from mcpctl.actors.settings import ActorSettings
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import Forbidden, NotFound, Unavailable


def no_access(project: str) -> Forbidden:
    """Return the one answer to who may not enter a project, and to who asks for one that is not there."""
    return Forbidden(f"no access to project {project}")


def default_model(settings: ActorSettings) -> catalog.ModelSpec | None:
    """Return the model of gated projects that have none of their own, None where none is set."""
    if settings.llm_base_url is None or settings.llm_model is None:
        return None
    return catalog.ModelSpec(
        base_url=settings.llm_base_url,
        model=settings.llm_model,
        secret_ref=settings.llm_secret_ref,
        timeout_ms=settings.llm_timeout_ms,
    )


def view(session: Session, project: str, default: catalog.ModelSpec | None) -> catalog.View:
    """Return a project's view; `default` is the model for all.

    Raises `Forbidden` where there is no such project, or it is frozen.
    """
    epoch, seq = changes.position(session)
    found = session.get(ProjectRow, project)
    if found is None:
        raise no_access(project)
    projects.demand_unfrozen(found)
    rows = projects.member_rows(session, project)
    revisions = servers.connection_revisions(session, rows)
    upstreams = tuple(_upstream(row, revisions[row.name]) for row in rows)
    return catalog.View(
        epoch=epoch,
        seq=seq,
        project=project,
        servers=upstreams,
        naming=projects.naming_of(found),
        gate=_gate(found, default),
        pin_tools=found.pin_tools,
        prompts=prompts.index(session, project),
        quota=projects.quota_of(found),
    )


def _gate(row: ProjectRow, default: catalog.ModelSpec | None) -> catalog.GateSpec | None:
    gate = projects.gate_of(row)
    return gate if gate is None or gate.llm is not None else gate.model_copy(update={"llm": default})


def _upstream(row: ServerRow, revision: str) -> catalog.UpstreamServer:
    spec = servers.spec_of(row)
    return catalog.UpstreamServer(
        name=spec.name,
        slug=spec.slug,
        revision=revision,
        transport="http" if spec.url else "stdio",
        isolation=spec.isolation,
        placement=spec.placement or "",
    )


def demand_placed(spec: catalog.ServerSpec, site: str) -> None:
    """Raise `Forbidden` where a server is for the routers of another site (an empty text: the default group)."""
    if (spec.placement or "") != site:
        raise Forbidden(f"server {spec.name} is not placed on {f'site {site}' if site else 'the default routers'}")


def connection(session: Session, project: str, server: str, keyring: Keyring, site: str) -> catalog.Connection:
    """Return to a router of a site (an empty text: of none) how to reach a server of a project, secrets in clear.

    Raises `Forbidden` where there is no such project, or the server is placed elsewhere; `NotFound` where the project
    does not hold the server.
    """
    found = session.get(ProjectRow, project)
    if found is None:
        raise no_access(project)
    projects.demand_unfrozen(found)
    row = session.get(ServerRow, server)
    if row is None or session.get(MemberRow, (project, server)) is None:
        raise NotFound(f"no server {server} in project {project}")
    spec = servers.spec_of(row)
    demand_placed(spec, site)
    clear = {
        f"{catalog.SECRET_MARK}{secret.name}": keyring.unseal(secret.name, secret.key_id, secret.sealed)
        for secret in sealed_secrets.of_server(session, server)
    }
    for name in servers.references(spec):
        if f"{catalog.SECRET_MARK}{name}" not in clear:
            raise Unavailable(f"server {server} refers to secret {name}, which does not exist")
    return catalog.Connection(
        revision=servers.connection_revisions(session, [row])[server],
        url=spec.url,
        headers=_filled(spec.headers, clear),
        command=spec.command,
        env=_filled(spec.env, clear),
        secrets=tuple(clear.values()),
    )


def model_connection(
    session: Session, project: str, default: catalog.ModelSpec | None, keyring: Keyring
) -> catalog.ModelConnection:
    """Return how to reach the model that chooses a gated project's prompts, its key in clear.

    Raises `Forbidden` where there is no such project, `NotFound` where it has no gate or no model.
    """
    row = session.get(ProjectRow, project)
    if row is None:
        raise no_access(project)
    gate = _gate(row, default)
    if gate is None or gate.llm is None:
        raise NotFound(f"project {project} has no {'gate' if gate is None else 'model'}")
    model = gate.llm
    key = None if model.secret_ref is None else _key(session, project, model.secret_ref, keyring)
    return catalog.ModelConnection(base_url=model.base_url, model=model.model, key=key, timeout_ms=model.timeout_ms)


def _key(session: Session, project: str, secret: str, keyring: Keyring) -> str:
    row = session.get(SecretRow, secret)
    if row is None:
        raise Unavailable(f"the model of project {project} refers to secret {secret}, which does not exist")
    return keyring.unseal(row.name, row.key_id, row.sealed)


def _filled(values: Mapping[str, str], clear: Mapping[str, str]) -> dict[str, str]:
    return {name: clear.get(value, value) for name, value in values.items()}
