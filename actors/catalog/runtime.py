"""What the router needs at run time: a project's view, and the way to one of its servers."""

from collections.abc import Mapping

from sqlmodel import Session

from mcpctl.actors import changes
from mcpctl.actors.catalog import projects, sealed_secrets, servers
from mcpctl.actors.catalog.rows import MemberRow, ProjectRow, ServerRow
from mcpctl.actors.catalog.sealing import Keyring
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import Forbidden, NotFound, Unavailable


def no_access(project: str) -> Forbidden:
    """Return the one answer to who may not enter a project, and to who asks for one that is not there."""
    return Forbidden(f"no access to project {project}")


def view(session: Session, project: str) -> catalog.View:
    """Return a project's view. Raises `Forbidden` where there is no such project."""
    epoch, seq = changes.position(session)
    found = session.get(ProjectRow, project)
    if found is None:
        raise no_access(project)
    rows = projects.member_rows(session, project)
    revisions = servers.connection_revisions(session, rows)
    upstreams = tuple(_upstream(row, revisions[row.name]) for row in rows)
    naming = projects.naming_of(found)
    return catalog.View(epoch=epoch, seq=seq, project=project, servers=upstreams, naming=naming)


def _upstream(row: ServerRow, revision: str) -> catalog.UpstreamServer:
    spec = servers.spec_of(row)
    return catalog.UpstreamServer(
        name=spec.name,
        slug=spec.slug,
        revision=revision,
        transport="http" if spec.url else "stdio",
        isolation=spec.isolation,
    )


def connection(session: Session, project: str, server: str, keyring: Keyring) -> catalog.Connection:
    """Return how to reach a server of a project, secrets in clear.

    Raises `Forbidden` where there is no such project, `NotFound` where it does not hold the server.
    """
    if session.get(ProjectRow, project) is None:
        raise no_access(project)
    row = session.get(ServerRow, server)
    if row is None or session.get(MemberRow, (project, server)) is None:
        raise NotFound(f"no server {server} in project {project}")
    spec = servers.spec_of(row)
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
    )


def _filled(values: Mapping[str, str], clear: Mapping[str, str]) -> dict[str, str]:
    return {name: clear.get(value, value) for name, value in values.items()}
