"""Secrets in SQL: only ever sealed."""

import base64
import binascii
from collections import defaultdict
from collections.abc import Iterable

from sqlmodel import Session, col, select

from mcpctl.actors.catalog import projects, servers
from mcpctl.actors.catalog.rows import SecretRow, UseRow, as_datetime, new_stamp, now_ms
from mcpctl.actors.catalog.sealing import Keyring
from mcpctl.actors.changes import Changing
from mcpctl.bus.contracts import catalog, sealing
from mcpctl.bus.errors import BadRequest, Conflict, NotFound, Unavailable


def list_all(session: Session) -> tuple[catalog.Secret, ...]:
    """Return the names of all secrets, in order."""
    users = defaultdict(list)
    for use in session.exec(select(UseRow).order_by(col(UseRow.server))):
        users[use.secret].append(use.server)
    for project, secret in projects.secrets_used(session):
        users[secret].append(_as_user(project))
    rows = session.exec(select(SecretRow).order_by(col(SecretRow.name)))
    return tuple(_shown(row, users[row.name]) for row in rows)


def _shown(row: SecretRow, used_by: Iterable[str]) -> catalog.Secret:
    return catalog.Secret(
        name=row.name,
        labels=row.labels,
        created_at=as_datetime(row.created_ms),
        updated_at=as_datetime(row.updated_ms),
        used_by=tuple(used_by),
    )


def _as_user(project: str) -> str:
    """Return how a project that uses a secret is shown, beside servers."""
    return f"project/{project}"


def _servers_using(session: Session, name: str) -> tuple[str, ...]:
    return tuple(session.exec(select(UseRow.server).where(col(UseRow.secret) == name).order_by(col(UseRow.server))))


def _users(session: Session, name: str) -> tuple[str, ...]:
    return (*_servers_using(session, name), *map(_as_user, projects.using(session, name)))


def find(session: Session, name: str) -> SecretRow:
    """Return a secret's row. Raises `NotFound`."""
    row = session.get(SecretRow, name)
    if row is None:
        raise NotFound(f"no secret {name}")
    return row


def get(session: Session, name: str) -> catalog.Secret:
    return _shown(find(session, name), _users(session, name))


def spec_of(row: SecretRow) -> dict[str, object]:
    """Return a secret as a document, sealed."""
    sealed = f"{row.key_id}.{base64.b64encode(row.sealed).decode()}"
    return {"name": row.name, "labels": row.labels, "sealed": sealed}


def clear(spec: catalog.SecretSpec, keyring: Keyring) -> str | None:
    """Return the value that a document gives, None where it gives none. Raises `BadRequest`."""
    if spec.sealed is None:
        return spec.value
    key_id, _, text = spec.sealed.partition(".")
    try:
        return keyring.unseal(spec.name, key_id, base64.b64decode(text, validate=True))
    except (binascii.Error, Unavailable):
        raise BadRequest(
            f"the sealed value of secret {spec.name} cannot be opened here: it was sealed for another name, or under "
            "another keyring"
        ) from None


def apply(changing: Changing, spec: catalog.SecretSpec, keyring: Keyring) -> None:
    """Bring a secret to its document. Raises `BadRequest`."""
    value = clear(spec, keyring)
    if value is not None:
        put(changing, spec.name, keyring.seal(spec.name, value), replace=True, labels=spec.labels)
        return
    row = find(changing.session, spec.name)
    row.labels = spec.labels
    changing.session.add(row)


def put(
    changing: Changing, name: str, sealed: tuple[str, bytes], *, replace: bool, labels: dict[str, str] | None = None
) -> catalog.Secret:
    """Keep a sealed value; a replaced one changes whatever uses it. Raises `Conflict` where it exists."""
    session = changing.session
    row = session.get(SecretRow, name)
    if row is not None and not replace:
        raise Conflict(f"secret {name} exists already")
    at = now_ms()
    missed = row is None
    row = row or SecretRow(name=name, key_id="", sealed=b"", stamp="", created_ms=at, updated_ms=at)
    (row.key_id, row.sealed), row.stamp, row.updated_ms = sealed, new_stamp(), at
    if labels is not None:
        row.labels = labels
    session.add(row)
    session.flush()
    if missed:
        servers.refer_to(session, name)
    for server in _servers_using(session, name):
        servers.record_change(changing, server)
    for project in projects.using(session, name):
        changing.record("project", project, "changed")
    return _shown(row, _users(session, name))


def reseal(changing: Changing, keyring: Keyring) -> sealing.Resealed:
    """Seal anew what an older key has sealed. Stamps stay, so no connection is opened anew. Raises `Unavailable`."""
    session, anew = changing.session, 0
    key, _ = keyring.seal("", "")
    for row in session.exec(select(SecretRow).where(col(SecretRow.key_id) != key)).all():
        row.key_id, row.sealed = keyring.seal(row.name, keyring.unseal(row.name, row.key_id, row.sealed))
        session.add(row)
        anew += 1
    return sealing.Resealed(key=key, secrets=anew)


def remove(changing: Changing, name: str) -> None:
    """Delete a secret. Raises `NotFound`, and `Conflict` where servers or projects use it."""
    session = changing.session
    row = find(session, name)
    users = _users(session, name)
    if users:
        raise Conflict(f"secret {name} is used by {', '.join(users)}")
    session.delete(row)


def of_server(session: Session, server: str) -> tuple[SecretRow, ...]:
    """Return the sealed rows that a server refers to."""
    rows = select(SecretRow).join(UseRow, col(UseRow.secret) == col(SecretRow.name)).where(col(UseRow.server) == server)
    return tuple(session.exec(rows))


def any_sealed(session: Session) -> bool:
    return session.exec(select(SecretRow.name)).first() is not None
