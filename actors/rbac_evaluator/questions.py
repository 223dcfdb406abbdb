"""What is asked of the RbacEvaluator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcpctl.bus.bindings import Binding


@dataclass(frozen=True)
class Question:
    """What is asked: a verb on a resource (of a name), or an operation; in a project, or outside all.

    `arguments` are those of a tool call, where one is asked about.
    """

    verb: str
    resource: str | None
    name: str | None
    project: str | None
    action: str | None = None
    arguments: Mapping[str, Any] | None = None

    def granted_by(self, binding: Binding) -> bool:
        if self.action is not None:
            return binding.action in (self.action, "*")
        if self.resource is None:
            return False
        if (self.verb, self.resource) == ("delete", "mcptokens") and binding.action in ("revoke-any", "*"):
            return True
        return binding.grants(self.verb, self.resource, self.name, self.arguments)

    def __str__(self) -> str:
        what = f"operate {self.action}" if self.action else f"{self.verb} {self.resource}"
        name = f" {self.name}" if self.name else ""
        return what + name + (f" in project {self.project}" if self.project else "")


class SomeArguments(Question):
    """The same, of a call whose arguments nobody knows: granted where some arguments would be."""

    def granted_by(self, binding: Binding) -> bool:
        return self.resource is not None and binding.reaches(self.verb, self.resource, self.name)
