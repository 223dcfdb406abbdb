"""The decision itself, without a database: layers of grants, and the reason in words."""

from collections.abc import Iterable
from dataclasses import dataclass

from mcpctl.bus.contracts.rbac import Binding, Scope, Verdict
from mcpctl.bus.contracts.token import Principal

KIND_WORDS = {"User": "user", "ServiceAccount": "service account", "McpToken": "mcptoken"}


@dataclass(frozen=True)
class Grant:
    """One binding, and the definition that it stands in."""

    definition: str
    binding: Binding

    def __str__(self) -> str:
        return f"definition {self.definition}: {self.binding}"


@dataclass(frozen=True)
class Layer:
    """What one holder is granted: the asker itself, a token above it, or its owner."""

    holder: str
    own: bool
    grants: tuple[Grant, ...] = ()

    @property
    def definitions(self) -> list[str]:
        return sorted({grant.definition for grant in self.grants})


@dataclass(frozen=True)
class Question:
    """What is asked: a verb on a resource (of a name), or an operation; in a project, or outside all."""

    verb: str
    resource: str | None
    name: str | None
    project: str | None
    action: str | None = None

    def granted_by(self, binding: Binding) -> bool:
        if self.action is not None:
            return binding.action in (self.action, "*")
        if self.resource is None:
            return False
        if (self.verb, self.resource) == ("delete", "mcptokens") and binding.action in ("revoke-any", "*"):
            return True
        return binding.grants(self.verb, self.resource, self.name)

    def __str__(self) -> str:
        what = f"operate {self.action}" if self.action else f"{self.verb} {self.resource}"
        name = f" {self.name}" if self.name else ""
        return what + name + (f" in project {self.project}" if self.project else "")


def describe(principal: Principal) -> str:
    return f"{KIND_WORDS[principal.kind]} {principal.name}"


def subjects_of(principal: Principal) -> list[str]:
    """Return the subjects that stand for the owner: himself, and each of his groups."""
    owner = principal.owner
    return [f"{owner.kind}:{owner.name}", *(f"Group:{group}" for group in owner.groups)]


def layers_of(principal: Principal, grants: Iterable[tuple[str, Grant]]) -> tuple[Layer, ...]:
    """Sort grants, each with the subject that has it, into the layers of which every one must grant."""
    found = list(grants)

    def layer(holder: str, subjects: list[str], *, own: bool) -> Layer:
        return Layer(holder, own, tuple(grant for subject, grant in found if subject in subjects))

    if principal.kind != "McpToken":
        return (layer(describe(principal), subjects_of(principal), own=True),)
    return (
        layer(describe(principal), [f"McpToken:{principal.sha}"], own=True),
        *(layer("a token above it", [f"McpToken:{sha}"], own=False) for sha in principal.parents),
        layer("its owner", subjects_of(principal), own=False),
    )


def scope_of(layers: tuple[Layer, ...]) -> Scope:
    return Scope(layers=tuple(tuple(grant.binding for grant in layer.grants) for layer in layers))


def judge(layers: tuple[Layer, ...], question: Question) -> tuple[bool, str]:
    """Return whether every layer grants what is asked, and the grants that do so, or the layer that does not."""
    deciding: list[str] = []
    for layer in layers:
        grant = next((grant for grant in layer.grants if question.granted_by(grant.binding)), None)
        if grant is None:
            return False, _denial(layer, question)
        deciding.append(str(grant) if layer.own else f"{layer.holder} by {grant}")
    return True, "; ".join(deciding)


def _denial(layer: Layer, question: Question) -> str:
    if not layer.own:  # what another holds is not for the asker to know
        return f"{layer.holder} may not {question}"
    if not layer.grants:
        return f"{layer.holder} may not {question}: no definition grants it anything there"
    return f"{layer.holder} may not {question}: granted only what is in {', '.join(layer.definitions)}"


def verdict(principal: Principal, *, allowed: bool, reason: str) -> Verdict:
    return Verdict(
        allowed=allowed,
        reason=reason,
        kind=principal.kind,
        name=principal.name,
        sha=principal.sha,
        project=principal.project,
        owner_kind=principal.owner.kind,
        owner=principal.owner.name,
    )
