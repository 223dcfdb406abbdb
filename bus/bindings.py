"""Bindings, what each of them grants and covers, and the scope that follows from several."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from mcpctl.bus.conditions import Condition, Conditions, UnreadableArguments, all_covered, unmet
from mcpctl.bus.contract import Message
from mcpctl.bus.globs import demand_matching, holds_all_names, literal_head

Role = Literal["view", "create", "delete", "edit", "run"]
Verb = Literal["view", "create", "edit", "delete", "run"]
Resource = Literal[
    "projects",
    "servers",
    "tools",
    "prompts",
    "secrets",
    "mcptokens",
    "users",
    "groups",
    "serviceaccounts",
    "rbac",
    "audit",
    "*",
]
Operation = Literal["logs", "backup", "restore", "audit-purge", "impersonate", "revoke-any", "escalate", "*"]

VERBS_OF: dict[Role, frozenset[Verb]] = {
    "view": frozenset({"view"}),
    "create": frozenset({"view", "create"}),
    "delete": frozenset({"view", "delete"}),
    "edit": frozenset({"view", "create", "edit", "delete"}),
    "run": frozenset({"view", "run"}),
}


TRIED = 100
"""Bindings with conditions that are tried for one call, of each layer: `in` says in one what would take many."""

NameGlob = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[^\s,\x00-\x1f\x7f]+$"), AfterValidator(demand_matching)
]


def _is_nothing(value: object) -> bool:
    return not value


class Binding(Message):
    """What is granted: a role on a resource, by name or glob if given, or (role `run`) one operation.

    As text: `role:view,resource:servers`, `role:run,resource:tools,name:github/*`, `action:logs`. With `when`, `run` is
    granted only to calls whose arguments fit; as text it comes last, as JSON: `…,when:{"repo":{"glob":"acme/*"}}`.
    """

    # Other messages ignore what they do not know: here it could be what narrows the grant.
    model_config = ConfigDict(extra="forbid")

    role: Role
    resource: Resource | None = Field(None, exclude_if=_is_nothing)
    name: NameGlob | None = Field(None, exclude_if=_is_nothing)
    action: Operation | None = Field(None, exclude_if=_is_nothing)
    when: Conditions = Field(default_factory=dict, exclude_if=_is_nothing)

    @model_validator(mode="after")
    def _names_one_thing(self) -> Self:
        if (self.resource is None) == (self.action is None):
            raise ValueError("a binding names either a resource or an action")
        if self.action is not None and (self.role != "run" or self.name is not None):
            raise ValueError("a binding of an action has the role run and no name")
        if self.when and (self.role != "run" or self.resource not in ("tools", "servers")):
            raise ValueError("when is about calls of tools: it takes the role run on tools or servers")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form. Raises `ValueError` where it is not one."""
        fields: dict[str, Any] = {}
        plain, marked, conditions = text.partition(",when:")
        for part in plain.split(","):
            key, colon, value = part.partition(":")
            if not colon or not value or key in fields or key not in ("role", "resource", "name", "action"):
                raise ValueError(
                    f"{text!r} is no binding: write role:ROLE,resource:RESOURCE[,name:GLOB] or action:OPERATION"
                )
            fields[key] = value
        if "action" in fields:
            fields.setdefault("role", "run")
        if marked:
            fields["when"] = _json(conditions)
        return cls.model_validate(fields)

    def __str__(self) -> str:
        if self.action is not None:
            return f"action:{self.action}"
        text = f"role:{self.role},resource:{self.resource}" + (f",name:{self.name}" if self.name else "")
        return text + (f",when:{_compact(self.when)}" if self.when else "")

    def __eq__(self, other: object) -> bool:
        # By the text: Python takes true, 1 and 1.0 for the same, a condition does not.
        return isinstance(other, Binding) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def grants(self, verb: str, resource: str, name: str | None, arguments: Mapping[str, Any] | None = None) -> bool:
        """Tell whether this binding alone grants `verb` on the resource (of that name; None means all of them).

        What is granted on a server is granted on its tools, which are named `<server>/<tool>`. Where it has conditions,
        `run` is granted only for arguments that fit.
        """
        if verb == "run" and self.when and (arguments is None or unmet(self.when, arguments) is not None):
            return False
        return self.reaches(verb, resource, name)

    def reaches(self, verb: str, resource: str, name: str | None) -> bool:
        """Tell whether this binding grants `verb` on the resource, for some arguments at least."""
        if self.resource is None or verb not in VERBS_OF[self.role]:
            return False
        if self.resource in (resource, "*") and self._fits(verb, name):
            return True
        if resource != "tools" or self.resource not in ("servers", "*"):
            return False
        return self._fits(verb, None if name is None else name.partition("/")[0])

    def _fits(self, verb: str, name: str | None) -> bool:
        if self.name is None:
            return True
        return name is not None and verb != "create" and fnmatchcase(name, self.name)

    def covers(self, other: "Binding") -> bool:
        """Tell whether whatever `other` grants, this grants too. Never says yes where it is not certain."""
        if other.action is not None:
            return self.action in (other.action, "*")
        if self.resource is None or not _verbs(self) >= _verbs(other):
            return False
        if "run" in _verbs(other) and not all_covered(self.when, other.when):
            return False
        if self.resource in (other.resource, "*") and holds_all_names(self.name, other.name):
            return True
        if other.resource != "tools" or self.resource not in ("servers", "*"):
            return False
        server, slash, _ = (other.name or "").partition("/")
        literal = slash and literal_head(server) == server
        return holds_all_names(self.name, server if literal else None)


def why_useless(binding: Binding) -> str | None:
    """Return what is wrong with a binding whose name no server or tool can have, and what could be meant; else None."""
    name = binding.name
    if name is None or binding.resource not in ("tools", "servers"):
        return None
    if binding.resource == "servers" and "/" in name:
        meant = str(binding.model_copy(update={"resource": "tools"}))
        return f"{binding} grants nothing, since no server has a / in its name: for tools of a server write {meant}"
    if binding.resource == "tools" and "/" not in name and literal_head(name) == name:
        return (
            f"{binding} grants nothing, since tools are named SERVER/TOOL: write name:{name}/* for all tools of server "
            f"{name}, or name:SERVER/{name} for one tool"
        )
    return None


def _verbs(binding: Binding) -> frozenset[Verb]:
    """Return the verbs that a binding grants: a name never grants `create`."""
    return VERBS_OF[binding.role] - ({"create"} if binding.name is not None else frozenset())


def _json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError('when must be followed by JSON, for example when:{"repo":{"glob":"acme/*"}}') from None


def _each_once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"when has {name!r} twice: leave one of the two out")
        found[name] = value
    return found


def _compact(when: dict[str, Condition]) -> str:
    tests = {path: condition.model_dump(mode="json") for path, condition in when.items()}
    return json.dumps(tests, separators=(",", ":"), ensure_ascii=False)


class Scope(Message):
    """The rights of a principal in a project: granted is what every layer grants.

    The layers of a token are its own bindings, those of the tokens above it, and those of its owner.
    """

    layers: tuple[tuple[Binding, ...], ...] = Field(min_length=1)

    def allows(self, verb: str, *names: tuple[str, str | None]) -> bool:
        """Tell whether each layer grants `verb` on at least one of the (resource, name) pairs."""
        return all(
            any(binding.grants(verb, resource, name) for binding in layer for resource, name in names)
            for layer in self.layers
        )

    def may_operate(self, operation: str) -> bool:
        return all(any(b.action in (operation, "*") for b in layer) for layer in self.layers)

    def covers(self, binding: Binding) -> bool:
        """Tell whether the principal holds all that `binding` grants (a single binding of each layer must)."""
        return all(any(own.covers(binding) for own in layer) for layer in self.layers)

    def sees_tool(self, server: str, tool: str) -> bool:
        return self.allows("view", ("servers", server), ("tools", f"{server}/{tool}"))

    def why_not_run(self, server: str, tool: str, arguments: Callable[[], Mapping[str, Any]]) -> str | None:
        """Return None where the call is granted; else what its arguments should be, or an empty text.

        The conditions of its own bindings are all that the caller is told of: what bounds an mcptoken from above is not
        for it to know. The arguments are read only where a condition asks for them, and once.
        """
        read: Callable[[], Mapping[str, Any]] | None = None
        for layer in self.layers:
            granting = [b for b in layer if b.reaches("run", "tools", f"{server}/{tool}")]
            if any(not binding.when for binding in granting):
                continue
            read = read or cache(arguments)
            fault = _no_fit(granting, read)
            if fault is not None:
                return fault if layer is self.layers[0] else ""
        return None

    def sees_server(self, server: str) -> bool:
        return self.allows("view", ("servers", server))

    def touches_server(self, server: str) -> bool:
        """Tell whether any tool of the server could be granted: if not, it is as if it were not there."""
        return all(any(_touches(binding, server) for binding in layer) for layer in self.layers)


def _no_fit(granting: Sequence[Binding], arguments: Callable[[], Mapping[str, Any]]) -> str | None:
    """Return None where the arguments fit one of the bindings that are tried, else the first fault."""
    first = ""
    try:
        for binding in granting[:TRIED]:
            fault = unmet(binding.when, arguments())
            if fault is None:
                return None
            first = first or fault
    except UnreadableArguments as error:
        return str(error)
    return first + (f" (of {len(granting)} bindings only {TRIED} are tried)" if len(granting) > TRIED else "")


def _touches(binding: Binding, server: str) -> bool:
    if binding.grants("view", "servers", server):
        return True
    if binding.resource not in ("tools", "*"):
        return False
    if binding.name is None:
        return True
    head = literal_head(binding.name)
    if "/" in head:
        return head.partition("/")[0] == server
    return head != binding.name and f"{server}/".startswith(head)
