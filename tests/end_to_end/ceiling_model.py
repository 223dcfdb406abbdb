"""Who holds what, by a reckoning of its own: a binding is the set of questions that it answers with yes.

Nothing here asks whether one binding covers another, so it can tell where that was answered wrongly.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from mcpctl.bus.contracts.rbac import Binding, Scope

PLACES = ("web", "shop", None)
"""The projects, and outside all."""

GRANTED = {
    "view": {"view"},
    "create": {"view", "create"},
    "delete": {"view", "delete"},
    "edit": {"view", "create", "edit", "delete"},
    "run": {"view", "run"},
}
NAMES = {
    "servers": (None, "alpha", "alps", "alphabet", "beta"),
    "tools": (None, "alpha/get", "alpha/set", "alps/get", "alphabet/get", "beta/get"),
    "prompts": (None, "alpha", "beta"),
    "rbac": (None, "alpha"),
    "groups": (None, "alpha"),
    "mcptokens": (None, "alpha"),
}
ARGUMENTS: tuple[dict[str, Any], ...] = (
    {},
    {"repo": "acme/x"},
    {"repo": "acme/y", "n": 2},
    {"repo": "evil/x", "n": 2},
    {"repo": "acme/x", "n": 7},
    {"repo": "acme/x", "n": 12},
    {"repo": "acme/x", "n": True},
)
OPERATIONS = ("logs", "backup", "escalate")


@dataclass(frozen=True)
class Question:
    """A concrete right: a verb on one name (None: on all), a call with some arguments, or an operation."""

    verb: str
    resource: str | None
    name: str | None
    arguments: int = 0

    @property
    def asked(self) -> dict[str, Any]:
        """The members of a `Check`."""
        if self.resource is None:
            return {"action": self.verb}
        named = {"verb": self.verb, "resource": self.resource, "name": self.name}
        return named | ({"arguments": ARGUMENTS[self.arguments]} if self.verb == "run" else {})


def _questions() -> Iterator[Question]:
    for operation in OPERATIONS:
        yield Question(operation, None, None)
    for resource, names in NAMES.items():
        for name in names:
            for verb in ("view", "create", "edit", "delete", "run"):
                called = verb == "run" and resource == "tools" and name is not None
                for arguments in range(len(ARGUMENTS) if called else 1):
                    if (verb, resource) != ("delete", "mcptokens"):  # which an operation grants as well
                        yield Question(verb, resource, name, arguments)


QUESTIONS = tuple(_questions())
EVERYTHING = (1 << len(QUESTIONS)) - 1
ESCALATE = 1 << QUESTIONS.index(Question("escalate", None, None))


@cache
def answered(text: str) -> int:
    """Return the questions that a binding answers with yes, as bits."""
    binding = Binding.parse(text)
    return sum(1 << bit for bit, question in enumerate(QUESTIONS) if _grants(binding, question))


def powers(held: int) -> int:
    """Return what one may give who holds this: no more than that, but anything where he may escalate."""
    return EVERYTHING if held & ESCALATE else held


def shown(mask: int) -> list[Question]:
    return [question for bit, question in enumerate(QUESTIONS) if mask >> bit & 1]


def _grants(binding: Binding, question: Question) -> bool:
    if question.resource is None or binding.resource is None:
        return question.resource is None and binding.action in (question.verb, "*")
    if question.verb not in GRANTED[binding.role]:
        return False
    if question.verb == "run" and not _fits(binding, ARGUMENTS[question.arguments]):
        return False
    names = [question.name] if binding.resource in (question.resource, "*") else []
    if question.resource == "tools" and binding.resource in ("servers", "*"):
        names.append(None if question.name is None else question.name.split("/")[0])
    if binding.name is None:
        return bool(names)
    return question.verb != "create" and any(name is not None and fnmatchcase(name, binding.name) for name in names)


def _fits(binding: Binding, arguments: Mapping[str, Any]) -> bool:
    for name, condition in binding.when.items():
        wanted = condition.model_dump(exclude_none=True)
        if name not in arguments:
            return False
        value = arguments[name]
        number = type(value) in (int, float)
        if "glob" in wanted:
            fits = isinstance(value, str) and fnmatchcase(value, wanted["glob"])
        elif "equals" in wanted or "in" in wanted:
            allowed = wanted["in"] if "in" in wanted else (wanted["equals"],)
            fits = any(type(value) is type(each) and value == each for each in allowed)
        else:
            fits = number and wanted.get("min", value) <= value <= wanted.get("max", value)
        if not fits:
            return False
    return True


def answered_by(scope: Scope) -> int:
    """Return the questions that a real scope answers with yes."""
    return sum(1 << bit for bit, question in enumerate(QUESTIONS) if _allows(scope, question))


def _allows(scope: Scope, question: Question) -> bool:
    if question.resource is None:
        return scope.may_operate(question.verb)
    if (question.verb, question.resource) == ("run", "tools") and question.name is not None:
        server, _, tool = question.name.partition("/")
        return scope.why_not_run(server, tool, lambda: ARGUMENTS[question.arguments]) is None
    return scope.allows(question.verb, (question.resource, question.name))


@dataclass
class Written:
    """A definition."""

    project: str | None
    subjects: set[str]
    bindings: list[str]


@dataclass(frozen=True)
class Issued:
    """An mcptoken."""

    name: str
    project: str
    owner: str
    parents: tuple[str, ...]


@dataclass
class Model:
    """Everything that rights follow from. Principals are subjects: `User:ann`, `McpToken:<sha>`."""

    definitions: dict[str, Written] = field(default_factory=dict)
    groups: dict[str, set[str]] = field(default_factory=dict)
    """Each group, and those that it is a member of."""
    owners: dict[str, set[str]] = field(default_factory=dict)
    """Each user and service account, and the groups that it is a member of."""
    tokens: dict[str, Issued] = field(default_factory=dict)

    def held(self) -> dict[tuple[str, str | None], int]:
        """Return what each principal holds in each place."""
        principals = [*self.owners, *(f"McpToken:{sha}" for sha in self.tokens)]
        return {(principal, place): self.held_by(principal, place) for principal in principals for place in PLACES}

    def held_by(self, principal: str, place: str | None) -> int:
        if principal in self.owners:
            return self._given_to_owner(principal, place)
        token = self.tokens[principal.removeprefix("McpToken:")]
        if token.project != place:
            return 0
        mask = self._given_to_owner(token.owner, place) & self._given({principal}, place)
        for parent in token.parents:
            mask &= self._given({f"McpToken:{parent}"}, place)
        return mask

    def bindings_of(self, principal: str) -> list[tuple[str | None, str]]:
        """Return the bindings that a principal is given itself, each with the project where it is."""
        subjects = self._subjects_of(principal) if principal in self.owners else {principal}
        found = [each for each in self.definitions.values() if each.subjects & subjects]
        return [(each.project, text) for each in found for text in each.bindings]

    def forget(self, subject: str) -> None:
        """Take a subject that is gone out of all definitions; one that nobody is left in goes too."""
        for name, written in list(self.definitions.items()):
            written.subjects.discard(subject)
            if not written.subjects:
                del self.definitions[name]

    def forget_group(self, name: str) -> None:
        del self.groups[name]
        for groups in (*self.groups.values(), *self.owners.values()):
            groups.discard(name)
        self.forget(f"Group:{name}")

    def _given_to_owner(self, owner: str, place: str | None) -> int:
        return self._given(self._subjects_of(owner), place)

    def _subjects_of(self, owner: str) -> set[str]:
        found: set[str] = set()
        waiting = list(self.owners[owner])
        while waiting:
            group = waiting.pop()
            if group not in found:
                found.add(group)
                waiting += self.groups[group]
        return {owner, *(f"Group:{group}" for group in found)}

    def _given(self, subjects: Iterable[str], place: str | None) -> int:
        mask = 0
        for written in self.definitions.values():
            if written.project in (None, place) and not written.subjects.isdisjoint(subjects):
                for text in written.bindings:
                    mask |= answered(text)
        return mask
