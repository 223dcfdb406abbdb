"""Who may do what: definitions, and the questions about them, kept and answered by the RbacEvaluator."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from mcpctl.bus.bindings import VERBS_OF, Binding, Operation, Resource, Role, Scope, Verb
from mcpctl.bus.contract import MOST, Applied, Authorized, Backup, Call, Done, Dump, Feed, Message, Need, Ref, Restore
from mcpctl.bus.names import Label, Labels, principal_label

__all__ = ["VERBS_OF", "Binding", "Operation", "Resource", "Role", "Scope", "Verb"]

ADMINS = "admins"
"""The group, and the built-in definition, that holds every right."""

SUBJECT_PATTERN = r"(User|Group|ServiceAccount|McpToken):[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}"
SubjectText = Annotated[str, WithJsonSchema({"type": "string", "pattern": f"^{SUBJECT_PATTERN}$"})]


class Definition(Message):
    """Subjects, and what they are granted: in one project, or (`project` None) in all."""

    name: Label
    labels: Labels = Field(default_factory=dict)
    project: Label | None = None
    subjects: tuple[SubjectText, ...] = Field(min_length=1, max_length=MOST)
    bindings: tuple[Binding, ...] = Field((), max_length=MOST)

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
    arguments: dict[str, Any] | None = Field(
        None,
        description="of the tool call that is asked about; without them a binding with conditions does not grant it",
    )

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


OF_TOKENS = "mcptoken-"
"""Begins the names of the definitions that hold mcptokens' own bindings; nobody else may use it."""


def name_of_tokens(sha: str) -> str:
    """Return the name of the definition with the bindings of one mcptoken."""
    return OF_TOKENS + sha[:32]


def may_have(definition: str, subject: str) -> bool:
    """Tell whether a definition may name a subject: a token's own one names that token alone."""
    kind, _, name = subject.partition(":")
    return not definition.startswith(OF_TOKENS) or (kind == "McpToken" and definition == name_of_tokens(name))


def may_concern(definition: str, sha: str) -> bool:
    """Tell whether a definition may be about a bearer: a token's own one is about no other."""
    return not definition.startswith(OF_TOKENS) or definition == name_of_tokens(sha)


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
    bindings: tuple[Binding, ...] = Field((), max_length=MOST)
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

    definitions: tuple[Definition, ...] = Field((), max_length=MOST)
    remove: tuple[Ref, ...] = Field((), max_length=MOST)
    dry_run: bool = False


class RecordedCall(Message):
    """A call that the audit ledger has: `subject` asked for this in a project.

    `regrouped`: the groups of its user may have been others then.
    """

    subject: SubjectText
    project: Label
    verb: Literal["view", "run"]
    resource: Literal["projects", "servers", "tools", "prompts"]
    name: str = Field(max_length=600)
    regrouped: bool = False


class Replay(Apply):
    """Say how recorded calls would be decided if documents were applied: which they are not."""

    calls: tuple[RecordedCall, ...] = Field(max_length=MOST)


class Replayed(Message):
    """What would be decided, and why. `unknown` where it depends on what the ledger does not have."""

    outcome: Literal["allow", "deny", "unknown"]
    reason: str


class ReplayedCalls(Message):
    """The decisions, in the order of the calls."""

    items: tuple[Replayed, ...]


check = Call(
    "rbac.check",
    Check,
    Verdict,
    callers=("operator", "token", "catalog", "session", "audit", "router"),
    http=("POST /can-i",),
    timeout=4.0,
    repeatable=True,
)
scope = Call(
    "rbac.scope", GetScope, ScopeOf, callers=("router", "catalog", "operator", "token"), timeout=4.0, repeatable=True
)
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
replay = Call(
    "rbac.replay",
    Replay,
    ReplayedCalls,
    callers=("operator",),
    needs=Need("view", "rbac", beside=Need("view", "audit")),
    timeout=20.0,
)
backup = Call("rbac.backup", Backup, Dump, callers=("operator",), needs=Need.to_operate("backup"), timeout=30.0)
restore = Call(
    "rbac.restore", Restore, Done, callers=("operator",), needs=Need.to_operate("restore", "escalate"), timeout=30.0
)

feed = Feed("rbac", followers=("router",))
