"""Applying documents: what each of them changes, with which right, and doing it all at once."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session

from mcpctl.actors.catalog import projects, prompts, sealed_secrets, servers
from mcpctl.actors.catalog.rows import ProjectRow, PromptRow, SecretRow
from mcpctl.actors.catalog.sealing import Keyring
from mcpctl.actors.changes import Changing
from mcpctl.bus.contract import Need, Outcome, Ref
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import BadRequest, Conflict, NotFound

Spec = catalog.SecretSpec | catalog.ServerSpec | catalog.ProjectSpec | catalog.PromptSpec

KIND: dict[type, str] = {
    catalog.SecretSpec: "secret",
    catalog.ServerSpec: "server",
    catalog.ProjectSpec: "project",
    catalog.PromptSpec: "prompt",
}

RIGHT: dict[str, Literal["create", "edit", "view", "delete"]] = {
    "created": "create",
    "configured": "edit",
    "unchanged": "view",
    "removed": "delete",
}

REMOVED_FIRST = ("prompt", "project", "server", "secret")


class TakenBack(Exception):
    """Ends a rehearsal, and with it its transaction."""


@dataclass(frozen=True)
class Plan:
    """What applying does, in the order in which it is done, and what else must be seen for it.

    `homes` are the projects of the prompts, each as it will be or (removed) was; `moved` are prompts with the project
    that they leave. `sources` are servers of which prompts have their content, with those prompts' projects.
    """

    outcomes: tuple[Outcome, ...]
    valued_secrets: frozenset[str]
    seen_secrets: frozenset[str]
    seen_servers: frozenset[str]
    homes: Mapping[str, str | None]
    moved: tuple[tuple[str, str | None], ...]
    sources: tuple[tuple[str, str | None], ...]

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
            yield Need(right, f"{ref.kind}s"), ref.name, self.project_of(ref)
        for name in sorted(self.seen_secrets):
            yield Need("view", "secrets"), name, None
        for name in sorted(self.seen_servers):
            yield Need("view", "servers"), name, None
        for name, project in self.moved:
            yield Need("edit", "prompts"), name, project
        for name, project in self.sources:
            yield Need("view", "servers"), name, project

    def project_of(self, ref: Ref) -> str | None:
        """Return the project in which the right on a resource is asked."""
        return ref.name if ref.kind == "project" else self.homes[ref.name] if ref.kind == "prompt" else None


def plan(session: Session, request: catalog.Apply, keyring: Keyring) -> Plan:
    """Compare documents with what is there. Raises `BadRequest`, `NotFound`."""
    _demand_once(request)
    documents = _documents(request)
    outcomes = [_outcome(session, spec, keyring) for spec in documents]
    of_kind = {action: _names(outcomes, action) for action in ("created", "unchanged")}
    referred = {
        ("secret", name)
        for spec in request.servers
        if ("server", spec.name) not in of_kind["unchanged"]
        for name in servers.references(spec)
    } | {("secret", name) for spec in request.projects if (name := _new_key(session, spec)) is not None}
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
        *_of_prompts(session, request, unwanted, of_kind["created"]),
    )


def named(request: catalog.Apply) -> dict[str, list[tuple[str, str | None]]]:
    """Return what a request is about by its resource: the name, and the project in which the right to view is asked.

    Not the prompts that are to be removed: where they are is found by looking.
    """
    found: dict[str, list[tuple[str, str | None]]] = {}
    for spec in _documents(request):
        home = spec.project if isinstance(spec, catalog.PromptSpec) else None
        found.setdefault(f"{KIND[type(spec)]}s", []).append((spec.name, home))
    for ref in request.remove:
        if ref.kind != "prompt":
            found.setdefault(f"{ref.kind}s", []).append((ref.name, None))
    return {
        resource: [(name, name if resource == "projects" else home) for name, home in each]
        for resource, each in found.items()
    }


def _documents(request: catalog.Apply) -> Sequence[Spec]:
    """Return the documents in the order in which they are brought about."""
    return (*request.secrets, *request.servers, *request.projects, *request.prompts)


def _new_key(session: Session, spec: catalog.ProjectSpec) -> str | None:
    """Return the secret that a project's model is to be sent, where that or the model changes."""
    model = projects.model_of(spec)
    row = session.get(ProjectRow, spec.name)
    gate = projects.gate_of(row) if row is not None else None
    return None if model is None or (gate is not None and gate.llm == model) else model.secret_ref


def _of_prompts(
    session: Session, request: catalog.Apply, unwanted: Sequence[Ref], created: frozenset[tuple[str, str]]
) -> tuple[Mapping[str, str | None], tuple[tuple[str, str | None], ...], tuple[tuple[str, str | None], ...]]:
    """Return `homes`, `moved` and `sources` of a plan."""
    homes = {spec.name: spec.project for spec in request.prompts}
    moved: list[tuple[str, str | None]] = []
    sources: dict[tuple[str, str | None], None] = {}
    for spec in request.prompts:
        row = session.get(PromptRow, spec.name)
        if row is not None and row.project != spec.project:
            moved.append((spec.name, row.project))
        before = None if row is None else prompts.source(prompts.spec_of(row))
        if spec.resource is not None and prompts.source(spec) != before:
            sources[spec.resource.server, spec.project] = None
    for ref in unwanted:
        if ref.kind == "prompt":
            homes[ref.name] = prompts.find(session, ref.name).project
    return homes, tuple(moved), tuple(each for each in sources if ("server", each[0]) not in created)


def _demand_once(request: catalog.Apply) -> None:
    """Raise `BadRequest` for one that is named twice, cannot stay, or is of a kind that is not kept here."""
    seen: set[tuple[str, str]] = set()
    for ref in (*(Ref(kind=KIND[type(spec)], name=spec.name) for spec in _documents(request)), *request.remove):
        if ref.kind not in REMOVED_FIRST:
            raise BadRequest(f"a {ref.kind} cannot be removed here: only a project, a server, a prompt or a secret")
        if (ref.kind, ref.name) in seen:
            raise BadRequest(f"{ref} is named twice: leave one of the two out")
        seen.add((ref.kind, ref.name))
    for spec in request.prompts:
        if any((ref.kind, ref.name) == ("project", spec.project) for ref in request.remove):
            raise BadRequest(f"prompt {spec.name} is of project {spec.project}, which is to be removed")


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
        if ref.kind == "prompt":
            return prompts.get(session, ref.name).spec.model_dump(mode="json")
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
    prompts.demand_all_servers(changing.session)  # a project may lose a server, and its prompt the resource


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
    for prompt in request.prompts:
        if actions["prompt", prompt.name] == "created":
            prompts.add(changing, prompt)
        else:
            prompts.replace(changing, prompt)


def _remove(changing: Changing, ref: Ref) -> None:
    if ref.kind == "prompt":
        prompts.remove(changing, ref.name)
    elif ref.kind == "project":
        projects.remove(changing, ref.name)
    elif ref.kind == "secret":
        sealed_secrets.remove(changing, ref.name)
    else:
        holding = projects.holding(changing.session, ref.name)
        if holding:
            raise Conflict(f"server {ref.name} is still used by {', '.join(holding)}")
        servers.remove(changing, ref.name)
