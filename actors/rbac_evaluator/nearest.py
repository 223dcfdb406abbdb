"""The bindings that come nearest to granting what is refused: so that a denial says what to change."""

from collections.abc import Iterable
from dataclasses import dataclass

from mcpctl.actors.rbac_evaluator.questions import Question
from mcpctl.bus.bindings import VERBS_OF, Binding
from mcpctl.bus.conditions import unmet

MOST = 3
"""Bindings that a denial names."""


@dataclass(frozen=True)
class Grant:
    """One binding, and the definition that it stands in."""

    definition: str
    binding: Binding

    def __str__(self) -> str:
        return f"definition {self.definition}: {self.binding}"


def nearest(grants: Iterable[Grant], question: Question) -> str:
    """Return the nearest grants and what each of them lacks, in one line; nothing where none is near."""
    found = [(*lack, grant) for grant in grants if (lack := _lack(grant.binding, question)) is not None]
    found.sort(key=lambda each: each[0])
    return "; ".join(f"{grant} ({lack})" for _, lack, grant in found[:MOST])


def _lack(binding: Binding, question: Question) -> tuple[int, str] | None:
    """Return how far a binding is from granting what is asked, and what it lacks; None where it is far."""
    verb, resource, name = question.verb, question.resource, question.name
    if resource is None or binding.resource is None:
        return None
    if binding.reaches(verb, resource, name):
        return 0, unmet(binding.when, question.arguments or {}) or ""
    about = binding.resource in (resource, "*") or (resource, binding.resource) == ("tools", "servers")
    if about and verb in VERBS_OF[binding.role]:
        if verb == "create":
            return 1, "a name grants no create"
        return 1, "for other names" if name is not None else "for some names, and the question names none"
    if binding.reaches("view", resource, name):
        return 2, f"grants {', '.join(sorted(VERBS_OF[binding.role]))} alone"
    return None
