"""`mcpctl explain`: the fields of a document, as its specification declares them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mcpctl.bus import names
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.manifests import KINDS, Kind
from mcpctl.cli.nested import key_of
from mcpctl.cli.output import print_table, say
from mcpctl.cli.resources import NOUNS, find

SHAPES: tuple[tuple[Any, str], ...] = (
    (names.Label, "name"),
    (AwareDatetime, "time, ISO 8601"),
    (names.UserName, "user name"),
    (names.Labels, "map of labels"),
    (names.Lifetime, "length of time: 90s, 30m, 12h, 30d, 2w"),
)
WORDS: Mapping[Any, str] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    datetime: "time, ISO 8601",
    Any: "any value",
}

KIND_MEANINGS: Mapping[str, str] = {
    "secret": "A value that servers use, sealed: its name is shown, never itself.",
    "server": "An upstream MCP server, reached by URL or started by command.",
    "project": "What agents connect to: the servers that its mcptokens may be given.",
    "prompt": "What agents should know: chosen by the tags and words of a task, when a gate briefs them.",
    "group": "Users, service accounts and groups that are granted the same.",
    "user": "Somebody who logs in with a password.",
    "serviceaccount": "An owner of bearers that is no person.",
    "rbac": "A definition: subjects, and what they are granted in one project or in all.",
    "mcptoken": "A bearer for one project, bounded by its own bindings and its owner's rights; it never changes.",
}

MEANINGS: Mapping[str, str] = {
    "labels": "What -l and apply --prune choose by.",
    "description": "What it is for, in one line.",
    "groups": "Groups that it is a member of.",
    "project": "The project that it belongs to.",
    "roleBindings": "What is granted: roles on resources, and operations.",
    "project.servers": "Servers that it offers, in the order in which their tools are listed.",
    "project.naming": "How agents see its tools: plain (of one server alone) or prefix, which is PREFIX__TOOL.",
    "project.maxTokenTtl": "The longest that an mcptoken of the project may last.",
    "project.gate": "Briefs agents before they act; where none is given, they have the tools at once.",
    "project.gate.mode": "What a call gets before a briefing: brief (it, and its result), refuse or strict (an error).",
    "project.gate.budget": "Size of the prompts in one briefing at the most, in bytes.",
    "project.gate.exempt": "Tools that are listed and called as if there were no gate: SERVER/TOOL, or a glob.",
    "project.gate.llm": "Model that chooses the prompts of a briefing, over the chat completions API.",
    "project.gate.llm.baseUrl": "What stands before /chat/completions: https://api.example.com/v1.",
    "project.gate.llm.model": "Name of the model, as the endpoint knows it.",
    "project.gate.llm.secretRef": "Secret that holds the endpoint's key, if it takes one.",
    "project.gate.llm.timeoutMs": "Milliseconds to wait for its choice; then tags and words decide.",
    "project.pinTools": "Whether a tool that its server changes is kept back until mcpctl approve tool.",
    "project.quota": "What all its callers may ask together, over all replicas; what is not given has no limit.",
    "requestsPerSecond": "Requests a second, kept over time.",
    "burst": "Requests that may come at once, a second's worth if not given; only beside requestsPerSecond.",
    "concurrentCalls": "Requests that run at the same time.",
    "streams": "Streams of notifications that are open at the same time: listen, and GET of sessions.",
    "prompt.project": "The project in which it counts; all projects where none is given.",
    "prompt.tags": "What a task is about that needs it.",
    "prompt.priority": "Weight among those that fit, 1 to 10; one of 10 is in every briefing.",
    "prompt.summary": "What it says, in one line, for agents to choose by.",
    "prompt.content": "What agents are given, in Markdown.",
    "prompt.resource": "MCP resource that supplies the content; content is what is given when it cannot be read.",
    "prompt.resource.server": "Server of the resource, one of the project's.",
    "prompt.resource.uri": "URI of the resource.",
    "server.url": "Streamable HTTP endpoint; either this or command.",
    "server.headers": "Headers to send to url; secret:NAME stands for the value of a secret.",
    "server.command": "Command that speaks MCP on stdio, word by word; either this or url.",
    "server.env": "Variables of the command; secret:NAME stands for the value of a secret.",
    "server.prefix": "Stands before the names of its tools in projects with naming prefix; its name if not given.",
    "server.placement": "The site whose routers reach it; without one those of the default group do.",
    "server.isolation": "Whether all sessions share one upstream connection, or each has its own.",
    "secret.value": "The value itself; better valueFrom, which keeps it out of the file.",
    "secret.valueFrom": "Where to read the value: {env: NAME} or {file: PATH}.",
    "secret.sealed": "The value, as it was sealed by this control plane.",
    "serviceaccount.routerSite": "Its bearers admit routers of this site to the bus, and are good for nothing else.",
    "user.disabled": "Whether logins and tokens of the user are refused.",
    "user.passwordHash": "argon2 hash of the password; the one that is set stays where none is given.",
    "group.groups": "Groups that all its members are members of too.",
    "rbac.project": "The project in which it grants; in all where none is given.",
    "rbac.subjects": "Who is granted: User:NAME, Group:NAME, ServiceAccount:NAME or McpToken:SHA256.",
    "rbac.roleBindings.role": "What may be done: view, create, delete, edit (all three) or run.",
    "rbac.roleBindings.resource": "On which kind of resource; either this or action.",
    "rbac.roleBindings.name": "On those whose name fits this glob: git, git-*; of tools SERVER/TOOL.",
    "rbac.roleBindings.action": "An operation, for the role run: logs, backup, restore, ...",
    "rbac.roleBindings.when": "What the arguments of a tool call must be, by their names.",
    "rbac.roleBindings.when.equals": "It is exactly this.",
    "rbac.roleBindings.when.in": "It is one of these.",
    "rbac.roleBindings.when.glob": "It is a text that fits this glob: acme/*.",
    "rbac.roleBindings.when.min": "It is a number, this at the least.",
    "rbac.roleBindings.when.max": "It is a number, this at the most.",
    "mcptoken.project": "The project that it opens.",
    "mcptoken.expiresAt": "When it ends; either this or ttl.",
    "mcptoken.quota": "What may be asked with it and what it issues itself, over all replicas; given for good.",
    "mcptoken.ttl": "How long it works; a token without an end has to be asked for.",
}
"""What a field is for, by its path or (for every kind) its last step, where its declaration does not say it."""

BESIDE: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "mcptoken": (("ttl", "length of time, never", "30d"),),
    "secret": (("valueFrom", "map of env or file to text", "-"),),
}
"""Keys that a document has beside the members of its specification: name, type, default."""


@dataclass(frozen=True)
class Shown:
    """One field: `inner` is the model of what is in it, where that has fields of its own."""

    path: str
    shape: str
    required: bool
    default: str
    meaning: str
    inner: type[BaseModel] | None = None

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]


def explain(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND[.FIELD]]", help="project, rbac.roleBindings, ...")
    ] = None,
) -> None:
    """Show the fields of a kind of resource, as `mcpctl apply` takes them; without a kind, list the kinds.

    \b
    Examples:
      mcpctl explain
      mcpctl explain project
      mcpctl explain rbac.roleBindings
      mcpctl explain server.headers
    """  # noqa: D301 - \b keeps the examples' lines apart
    if kind is None:
        print_table(
            ("KIND", "SHORT NAMES", "MEANING"),
            [(name, ", ".join(find(name).short), KIND_MEANINGS[name]) for name in KINDS],
        )
        return
    noun, *steps = kind.split(".")
    found = _kind(noun)
    fields, path = list(fields_of(found)), found.name
    field: Shown | None = None
    for step in steps:
        field = next((each for each in fields if each.name.lower() == step.lower()), None)
        if field is None:
            have = ", ".join(each.name for each in fields) or "none"
            raise CliError(f"{path} has no field {step}: there are {have}", USAGE)
        path = field.path
        fields = fields_below(field)
    if field is None:
        say(f"{found.name}: {KIND_MEANINGS[found.name]}")
    else:
        say(f"{field.path} <{field.shape}>{_marks(field)}\n  {field.meaning}")
    _print_below(fields, "  ")


def _print_below(fields: Iterable[Shown], indent: str) -> None:
    """Print fields, and below each of them those that are in it."""
    for each in fields:
        say(f"\n{indent}{each.name} <{each.shape}>{_marks(each)}\n{indent}  {each.meaning}")
        _print_below(fields_below(each), f"{indent}  ")


def _marks(field: Shown) -> str:
    default = f", default {field.default}" if field.default != "-" else ""
    return (" required" if field.required else "") + default


def _kind(noun: str) -> Kind:
    name = NOUNS[noun.lower()].name if noun.lower() in NOUNS else noun
    if name not in KINDS:
        raise CliError(f'no kind "{noun}": there are {", ".join(KINDS)}', USAGE)
    return KINDS[name]


def fields_of(kind: Kind) -> Iterator[Shown]:
    """Yield the fields of a kind's documents, in their order."""
    yield from _fields(kind.spec, kind.name, {member: key for key, member in kind.keys.items()}, kind.hidden)
    for name, shape, default in BESIDE.get(kind.name, ()):
        path = f"{kind.name}.{name}"
        yield Shown(path, shape, required=False, default=default, meaning=MEANINGS[path])


def fields_below(field: Shown) -> list[Shown]:
    """Return the fields of what is in a field."""
    return list(_fields(field.inner, field.path)) if field.inner is not None else []


def _fields(
    model: type[BaseModel],
    path: str,
    keys: Mapping[str, str] | None = None,
    hidden: frozenset[str] = frozenset(),
) -> Iterator[Shown]:
    hints = get_type_hints(model, include_extras=True)
    for member, info in model.model_fields.items():
        if member in hidden:
            continue
        own = f"{path}.{(keys or {}).get(member) or key_of(member, info)}"
        shape = hints[member]
        yield Shown(own, type_words(shape), info.is_required(), _default(info), _meaning(own, info), _inner(shape))


def _meaning(path: str, info: FieldInfo) -> str:
    last = path.rpartition(".")[2]
    if last == "name" and path.count(".") == 1:
        return "Its name."
    _, _, below = path.partition(".roleBindings.")
    found = MEANINGS.get(f"rbac.roleBindings.{below}" if below else path) or MEANINGS.get(last)
    return info.description or found or "-"


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=False) if info.default_factory is None else None
    if value in (PydanticUndefined, None, "", ()):
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def type_words(shape: Any) -> str:
    """Return a type as a reader of YAML knows it."""
    for known, words in SHAPES:
        if shape == known:
            return words
    inner = get_args(shape)
    match get_origin(shape):
        case None:
            model = isinstance(shape, type) and issubclass(shape, BaseModel)
            words = _model_words(shape.__name__) if model else WORDS.get(shape, "value")
        case origin if origin is Annotated:
            words = type_words(inner[0])
        case origin if origin in (Union, UnionType):
            words = ", ".join(dict.fromkeys(type_words(each) for each in inner if each is not NoneType))
        case origin if origin is Literal:
            words = "one of " + ", ".join(map(str, inner))
        case origin if origin in (dict, Mapping):
            words = f"map of {type_words(inner[0])} to {type_words(inner[1])}"
        case _:
            words = f"list of {type_words(inner[0])}"
    return words


def _model_words(name: str) -> str:
    """Return the name of a model as words: `GateSpec` is a gate, `PromptResource` a prompt resource."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name.removesuffix("Spec")).lower()


def _inner(shape: Any) -> type[BaseModel] | None:
    """Return the model that is somewhere in a type."""
    if isinstance(shape, type) and issubclass(shape, BaseModel):
        return shape
    return next((found for each in get_args(shape) if (found := _inner(each)) is not None), None)
