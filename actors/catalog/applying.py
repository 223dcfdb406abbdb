"""Applying documents: what each of them changes, with which right, and doing it all at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session

from mcpctl.actors.catalog import projects, sealed_secrets, servers
from mcpctl.actors.catalog.rows import SecretRow
from mcpctl.actors.catalog.sealing import Keyring
from mcpctl.actors.changes import Changing
from mcpctl.bus.contract import Need, Outcome, Ref
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import BadRequest, Conflict, NotFound

Spec = catalog.SecretSpec | catalog.ServerSpec | catalog.ProjectSpec

KIND: dict[type, str] = {
    catalog.SecretSpec: "secret",
    catalog.ServerSpec: "server",
    catalog.ProjectSpec: "project",
}

RIGHT: dict[str, Literal["create", "edit", "view", "delete"]] = {
    "created": "create",
    "configured": "edit",
    "unchanged": "view",
    "removed": "delete",
}

REMOVED_FIRST = ("project", "server", "secret")


class TakenBack(Exception):
    """Ends a rehearsal, and with it its transaction."""


@dataclass(frozen=True)
class Plan:
    """What applying does, in the order in which it is done, and what else must be seen for it."""

    outcomes: tuple[Outcome, ...]
    valued_secrets: frozenset[str]
    seen_secrets: frozenset[str]
    seen_servers: frozenset[str]

    @property
    def removed_projects(self) -> tuple[str, ...]:
        removed = (each.ref for each in self.outcomes if each.action == "removed")
        return tuple(ref.name for ref in removed if ref.kind == "project")

    def needs(self) -> Iterator[tuple[Need, str, str | None]]:
        """Yield every right that it takes, with the name and the project in which it is asked."""
        for outcome in self.outcomes:
            ref, right = outcome.ref, RIGHT[outcome.action]
            if right == "view" and ref.kind == "secret" and ref.name in self.valued_secrets:
                right = "edit"  # else whoever may only see the secret could find out its value by trying
            yield Need(right, f"{ref.kind}s"), ref.name, ref.name if ref.kind == "project" else None
        for name in sorted(self.seen_secrets):
            yield Need("view", "secrets"), name, None
        for name in sorted(self.seen_servers):
            yield Need("view", "servers"), name, None


def plan(session: Session, request: catalog.Apply, keyring: Keyring) -> Plan:
    """Compare documents with what is there. Raises `BadRequest`, `NotFound`."""
    _demand_once(request)
    documents: Sequence[Spec] = (*request.secrets, *request.servers, *request.projects)
    outcomes = [_outcome(session, spec, keyring) for spec in documents]
    of_kind = {action: _names(outcomes, action) for action in ("created", "unchanged")}
    referred = {
        ("secret", name)
        for spec in request.servers
        if ("server", spec.name) not in of_kind["unchanged"]
        for name in servers.references(spec)
    }
    added = {
        ("server", name) for spec in request.projects for name in spec.servers if name not in _members(session, spec)
    }
    unwanted = sorted(request.remove, key=lambda ref: REMOVED_FIRST.index(ref.kind))
    removed = [Outcome(ref=ref, action="removed", before=_before(session, ref)) for ref in unwanted]
    return Plan(
        (*outcomes, *removed),
        frozenset(spec.name for spec in request.secrets if spec.value is not None or spec.sealed is not None),
        frozenset(name for _, name in referred - of_kind["created"]),
        frozenset(name for _, name in added - of_kind["created"]),
    )


def _demand_once(request: catalog.Apply) -> None:
    """Raise `BadRequest` for one that is named twice, or is of a kind that is not kept here."""
    seen: set[tuple[str, str]] = set()
    documents: Sequence[Spec] = (*request.secrets, *request.servers, *request.projects)
    for ref in (*(Ref(kind=KIND[type(spec)], name=spec.name) for spec in documents), *request.remove):
        if ref.kind not in REMOVED_FIRST:
            raise BadRequest(f"a {ref.kind} cannot be removed here: only a project, a server or a secret")
        if (ref.kind, ref.name) in seen:
            raise BadRequest(f"{ref} is named twice: leave one of the two out")
        seen.add((ref.kind, ref.name))


def _names(outcomes: Sequence[Outcome], action: str) -> frozenset[tuple[str, str]]:
    return frozenset((each.ref.kind, each.ref.name) for each in outcomes if each.action == action)


def _members(session: Session, spec: catalog.ProjectSpec) -> tuple[str, ...]:
    return projects.members(session, spec.name)


def _outcome(session: Session, spec: Spec, keyring: Keyring) -> Outcome:
    ref = Ref(kind=KIND[type(spec)], name=spec.name)
    if isinstance(spec, catalog.SecretSpec):
        return _secret_outcome(session, ref, spec, keyring)
    before = _before(session, ref, missing_ok=True)
    if before is None:
        return Outcome(ref=ref, action="created")
    there = type(spec).model_validate(before)
    if isinstance(spec, catalog.ProjectSpec) and isinstance(there, catalog.ProjectSpec):
        spec = projects.settled(spec, there.naming)
    same = there == spec
    return Outcome(ref=ref, action="unchanged" if same else "configured", before=before)


def _secret_outcome(session: Session, ref: Ref, spec: catalog.SecretSpec, keyring: Keyring) -> Outcome:
    row = session.get(SecretRow, spec.name)
    if spec.value is not None and spec.sealed is not None:
        raise BadRequest(f"{ref} has both a value and a sealed one: give one of them")
    if row is None:
        if spec.value is None and spec.sealed is None:
            raise BadRequest(f"{ref} does not exist yet: give it a value")
        return Outcome(ref=ref, action="created")
    wanted = sealed_secrets.clear(spec, keyring)
    same = spec.labels == row.labels and (wanted is None or wanted == keyring.unseal(row.name, row.key_id, row.sealed))
    if same:  # without what is sealed: it takes no more than the right to view
        return Outcome(ref=ref, action="unchanged", before={"name": row.name, "labels": row.labels})
    return Outcome(ref=ref, action="configured", before=sealed_secrets.spec_of(row))


def _before(session: Session, ref: Ref, *, missing_ok: bool = False) -> dict[str, object] | None:
    """Return a resource's specification as it is. Raises `NotFound` where there is none."""
    try:
        if ref.kind == "secret":
            return sealed_secrets.spec_of(sealed_secrets.find(session, ref.name))
        if ref.kind == "server":
            return servers.get(session, ref.name).spec.model_dump(mode="json")
        return projects.get(session, ref.name).spec.model_dump(mode="json")
    except NotFound:
        if missing_ok:
            return None
        raise


def carry_out(changing: Changing, request: catalog.Apply, agreed: Plan, keyring: Keyring) -> None:
    """Do what was agreed, or nothing. Raises `Conflict`, `BadRequest`; `Conflict` also for what has changed since."""
    if plan(changing.session, request, keyring) != agreed:
        raise Conflict("something was changed at the same time: apply again")
    _bring_about(changing, request, agreed, keyring)
    for outcome in agreed.outcomes:
        if outcome.action == "removed":
            _remove(changing, outcome.ref)
    # Only now: while one document is applied and the next is not, two servers may have the same prefix.
    holding = (projects.holding(changing.session, server.name) for server in request.servers)
    for project in sorted({spec.name for spec in request.projects}.union(*holding)):
        projects.check_slugs(changing.session, project)


def rehearse(changing: Changing, request: catalog.Apply, agreed: Plan, keyring: Keyring) -> None:
    """Find out whether `carry_out` would succeed: raises `TakenBack` where it would, what it raises otherwise."""
    carry_out(changing, request, agreed, keyring)
    raise TakenBack


def _bring_about(changing: Changing, request: catalog.Apply, agreed: Plan, keyring: Keyring) -> None:
    actions = {(each.ref.kind, each.ref.name): each.action for each in agreed.outcomes}
    for secret in request.secrets:
        if actions["secret", secret.name] != "unchanged":
            sealed_secrets.apply(changing, secret, keyring)
    for server in request.servers:
        if actions["server", server.name] == "created":
            servers.create(changing, server, ())
        else:
            servers.replace(changing, server)
    for project in request.projects:
        if actions["project", project.name] == "created":
            projects.add(changing, project)
        else:
            projects.replace(changing, project)


def _remove(changing: Changing, ref: Ref) -> None:
    if ref.kind == "project":
        projects.remove(changing, ref.name)
    elif ref.kind == "secret":
        sealed_secrets.remove(changing, ref.name)
    else:
        holding = projects.holding(changing.session, ref.name)
        if holding:
            raise Conflict(f"server {ref.name} is still used by {', '.join(holding)}")
        servers.remove(changing, ref.name)
