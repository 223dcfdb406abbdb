"""The decision itself, without a database: layers of grants, and the reason in words."""

from collections.abc import Iterable
from dataclasses import dataclass

from mcpctl.actors.rbac_evaluator.nearest import Grant, nearest
from mcpctl.actors.rbac_evaluator.questions import Question
from mcpctl.bus.contracts.rbac import Scope, Verdict
from mcpctl.bus.contracts.token import Principal

KIND_WORDS = {"User": "user", "ServiceAccount": "service account", "McpToken": "mcptoken"}


@dataclass(frozen=True)
class Layer:
    """What one holder is granted: the asker itself, a token above it, or its owner.

    `shown` says that the asker may know of its bindings.
    """

    holder: str
    shown: bool
    grants: tuple[Grant, ...] = ()

    @property
    def definitions(self) -> list[str]:
        return sorted({grant.definition for grant in self.grants})


def describe(principal: Principal) -> str:
    return f"{KIND_WORDS[principal.kind]} {principal.name}"


def subjects_of(principal: Principal) -> list[str]:
    """Return the subjects that stand for the owner: himself, and each of his groups."""
    owner = principal.owner
    return [f"{owner.kind}:{owner.name}", *(f"Group:{group}" for group in owner.groups)]


def layers_of(
    principal: Principal, grants: Iterable[tuple[str, Grant]], *, all_shown: bool = False
) -> tuple[Layer, ...]:
    """Sort grants, each with the subject that has it, into the layers of which every one must grant."""
    found = list(grants)

    def layer(holder: str, subjects: list[str], *, shown: bool) -> Layer:
        return Layer(holder, shown, tuple(grant for subject, grant in found if subject in subjects))

    if principal.kind != "McpToken":
        return (layer(describe(principal), subjects_of(principal), shown=True),)
    return (
        layer(describe(principal), [f"McpToken:{principal.sha}"], shown=True),
        *(layer("a token above it", [f"McpToken:{sha}"], shown=all_shown) for sha in principal.parents),
        layer("its owner", subjects_of(principal), shown=all_shown),
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
        deciding.append(f"{layer.holder} by {grant}" if deciding else str(grant))
    return True, "; ".join(deciding)


def _denial(layer: Layer, question: Question) -> str:
    denied = f"{layer.holder} may not {question}"
    if not layer.shown:  # what another holds is not for the asker to know
        return denied
    if not layer.grants:
        return f"{denied}: no definition grants it anything there"
    near = nearest(layer.grants, question)
    if near:
        return f"{denied}; nearest: {near}"
    return f"{denied}: granted only what is in {', '.join(layer.definitions)}"


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
