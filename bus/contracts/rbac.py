"""Who may do what: bindings, definitions and the scope that follows from them, kept by the RbacEvaluator."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from mcpctl.bus.conditions import Condition, Conditions, all_covered, unmet
from mcpctl.bus.contract import Applied, Authorized, Backup, Call, Done, Dump, Feed, Message, Need, Ref, Restore
from mcpctl.bus.globs import holds_all_names, literal_head
from mcpctl.bus.names import Label, Labels, principal_label

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

ADMINS = "admins"
"""The group, and the built-in definition, that holds every right."""


class Binding(Message):
    """What is granted: a role on a resource, by name or glob if given, or (role `run`) one operation.

    As text: `role:view,resource:servers`, `role:run,resource:tools,name:github/*`, `action:logs`. With `when`, `run` is
    granted only to calls whose arguments fit; as text it comes last, as JSON: `…,when:{"repo":{"glob":"acme/*"}}`.
    """

    role: Role
    resource: Resource | None = None
    name: str | None = Field(None, min_length=1, max_length=200, pattern=r"^[^\s,\x00-\x1f\x7f]+$")
    action: Operation | None = None
    when: Conditions = Field(default_factory=dict)

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


def _verbs(binding: Binding) -> frozenset[Verb]:
    """Return the verbs that a binding grants: a name never grants `create`."""
    return VERBS_OF[binding.role] - ({"create"} if binding.name is not None else frozenset())


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError('when must be followed by JSON, for example when:{"repo":{"glob":"acme/*"}}') from None


def _compact(when: dict[str, Condition]) -> str:
    tests = {path: condition.model_dump(mode="json", exclude_none=True) for path, condition in when.items()}
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

        The arguments are read only where a condition asks for them.
        """
        for layer in self.layers:
            granting = [b for b in layer if b.reaches("run", "tools", f"{server}/{tool}")]
            if any(not binding.when for binding in granting):
                continue
            faults = [unmet(binding.when, arguments()) for binding in granting]
            if None not in faults:
                return next((fault for fault in faults if fault), "")
        return None

    def sees_server(self, server: str) -> bool:
        return self.allows("view", ("servers", server))

    def touches_server(self, server: str) -> bool:
        """Tell whether any tool of the server could be granted: if not, it is as if it were not there."""
        return all(any(_touches(binding, server) for binding in layer) for layer in self.layers)


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


SUBJECT_PATTERN = r"(User|Group|ServiceAccount|McpToken):[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}"
SubjectText = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{SUBJECT_PATTERN}$"})]


class Definition(Message):
    """Subjects, and what they are granted: in one project, or (`project` None) in all."""

    name: Label
    labels: Labels = Field(default_factory=dict)
    project: Label | None = None
    subjects: tuple[SubjectText, ...] = Field(min_length=1)
    bindings: tuple[Binding, ...] = ()

    @field_validator("subjects")
    @classmethod
    def _are_subjects(cls, subjects: Iterable[str]) -> tuple[str, ...]:
        for subject in subjects:
            if not re.fullmatch(SUBJECT_PATTERN, subject):
                raise ValueError(
                    f"{subject!r} is no subject: write User:NAME, Group:NAME, ServiceAccount:NAME or McpToken:SHA256"
                )
        return tuple(subjects)


class Check(Authorized):
    """Say whether the bearer may do this, and by which definition and binding."""

    verb: Verb = "run"
    resource: Resource | None = None
    name: str | None = Field(None, max_length=300)
    project: Label | None = None
    action: Operation | None = None
    subject: str | None = Field(None, description="ask for another: `User:ann`, `McpToken:ci`; takes `impersonate`")
    arguments: dict[str, Any] | None = Field(None, description="of the tool call that is asked about")

    @model_validator(mode="after")
    def _asks_one_thing(self) -> Self:
        if (self.resource is None) == (self.action is None):
            raise ValueError("ask about either a resource or an action")
        return self


class Verdict(Message):
    """The decision, the reason, and for whom it was taken: the principal, and the owner whose rights bound it."""

    allowed: bool
    reason: str
    kind: Literal["User", "ServiceAccount", "McpToken"]
    name: str
    sha: str
    project: str | None
    owner_kind: Literal["User", "ServiceAccount"]
    owner: str

    @property
    def label(self) -> str:
        return principal_label(self.kind, self.name)


class GetScope(Authorized):
    """Say what the bearer may do in a project."""

    project: Label


class ScopeOf(Message):
    """The scope, as it was at change `seq` of `epoch`, of the principal as of `token_seq` of `token_epoch`.

    A scope follows from the owner's groups as well, so one that is kept hangs on both feeds.
    """

    epoch: str
    seq: int
    scope: Scope
    token_epoch: str = ""
    token_seq: int = -1


class CheckCeiling(Authorized):
    """Say whether the bearer holds all that it wants to give.

    That is `bindings` in `project`, membership in `groups`, and the power to act as one of `subjects`
    (who sets a password, or issues a bearer, could).
    """

    project: Label | None = None
    bindings: tuple[Binding, ...] = ()
    groups: tuple[Label, ...] = ()
    subjects: tuple[str, ...] = ()


class Define(Authorized):
    """Create a definition, or (`replace`) change one."""

    definition: Definition
    replace: bool = False

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def project(self) -> str | None:
        return self.definition.project


class ListDefinitions(Authorized):
    """List the definitions; those that hold one mcptoken's own bindings only with `of_tokens`."""

    of_tokens: bool = False


class Definitions(Message):
    items: tuple[Definition, ...]


class GetDefinition(Authorized):
    """Show one definition."""

    name: Label


class DeleteDefinition(Authorized):
    """Delete a definition: what it granted is gone at once."""

    name: Label


class BindToken(Authorized):
    """Give a new mcptoken its bindings, on the authority of the one who issues it.

    `clone` adds what that one may do in the project now, `copy_of` the bindings of another mcptoken.
    """

    project: Label
    name: Label
    sha: str
    bindings: tuple[Binding, ...] = ()
    clone: bool = False
    copy_of: str | None = None


class UnbindSubject(Message):
    """Forget a subject that is gone for good (a revoked token, a deleted user), and `others` with it."""

    subject: str
    others: tuple[str, ...] = ()


class GetBindings(Authorized):
    """Show the bindings of one mcptoken."""

    project: Label
    name: Label
    sha: str


class Bindings(Message):
    bindings: tuple[Binding, ...]


class ListTokenBindings(Authorized):
    """Show the bindings of all mcptokens, of one project or (`project` None) of all."""

    project: Label | None = None


class TokenBindings(Message):
    """The bindings of each mcptoken that has any, by its SHA-256."""

    items: dict[str, tuple[Binding, ...]]


class Apply(Authorized):
    """Bring definitions to their documents, all or none; `remove` what is no longer wanted."""

    definitions: tuple[Definition, ...] = ()
    remove: tuple[Ref, ...] = ()
    dry_run: bool = False


check = Call(
    "rbac.check",
    Check,
    Verdict,
    callers=("operator", "token", "catalog", "session", "audit", "router"),
    http=("POST /can-i",),
)
scope = Call("rbac.scope", GetScope, ScopeOf, callers=("router", "catalog", "operator", "token"))
check_ceiling = Call("rbac.check_ceiling", CheckCeiling, Done, callers=("token",))
define = Call(
    "rbac.define", Define, Definition, callers=("operator",), needs=Need("create", "rbac"), http=("POST /rbac",)
)
redefine = Call(
    "rbac.redefine",
    Define,
    Definition,
    callers=("operator",),
    needs=Need("edit", "rbac"),
    http=("PUT /rbac/{definition.name}",),
)
list_definitions = Call(
    "rbac.list", ListDefinitions, Definitions, callers=("operator",), needs=Need("view", "rbac"), http=("GET /rbac",)
)
get_definition = Call(
    "rbac.get", GetDefinition, Definition, callers=("operator",), needs=Need("view", "rbac"), http=("GET /rbac/{name}",)
)
delete_definition = Call(
    "rbac.delete",
    DeleteDefinition,
    Done,
    callers=("operator",),
    needs=Need("delete", "rbac"),
    http=("DELETE /rbac/{name}",),
)
bind_token = Call("rbac.bind_token", BindToken, Bindings, callers=("token",), needs=Need("create", "mcptokens"))
unbind = Call("rbac.unbind", UnbindSubject, Done, callers=("token",))
get_bindings = Call(
    "rbac.bindings",
    GetBindings,
    Bindings,
    callers=("operator", "token"),
    needs=Need("view", "mcptokens"),
)
list_token_bindings = Call(
    "rbac.list_token_bindings", ListTokenBindings, TokenBindings, callers=("operator",), needs=Need("view", "mcptokens")
)
apply = Call("rbac.apply", Apply, Applied, callers=("operator",), timeout=10.0)
backup = Call("rbac.backup", Backup, Dump, callers=("operator",), needs=Need.to_operate("backup"), timeout=30.0)
restore = Call("rbac.restore", Restore, Done, callers=("operator",), needs=Need.to_operate("restore"), timeout=30.0)

feed = Feed("rbac", followers=("router",))
