"""What there is: projects, upstream servers, prompts and sealed secrets, kept by the Catalog."""

from datetime import datetime
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from mcpctl.bus.bindings import NameGlob
from mcpctl.bus.contract import MOST, Applied, Authorized, Backup, Call, Done, Dump, Feed, Message, Need, Ref, Restore
from mcpctl.bus.names import Label, Labels, Lifetime, lifetime_seconds
from mcpctl.bus.quotas import GivenQuota, Quota

SECRET_MARK = "secret:"  # noqa: S105 - the mark of a reference, not a secret
"""A header or environment value that begins so names a secret: the value is unsealed for the router alone."""

HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$")]
HeaderValue = Annotated[str, Field(max_length=8192, pattern=r"^[\x20-\x7e\t]*$")]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
EnvValue = Annotated[str, Field(max_length=32768, pattern=r"^[^\x00]*$")]
Prefix = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,18}[a-z0-9])?$")]
Naming = Literal["plain", "prefix"]

_NOT_SENT = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive"}
)


def demand_http(url: str, member: str, instead: str) -> None:
    """Raise `ValueError` where a text is no http(s) URL, or has credentials in it, for which there is `instead`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{member} must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{member} must not hold credentials: use {instead}")
    if parts.fragment or any(c <= " " or c == "\x7f" for c in url):
        raise ValueError(f"{member} must have no fragment, no space and no control character")


class ServerSpec(Message):
    """An upstream MCP server: reached over Streamable HTTP (`url`) or started over stdio (`command`).

    `prefix` names its tools in projects with `naming: prefix`: `<prefix>__<tool>`; default: its name. `placement` is
    the site whose routers reach it; without one those of the default group do.
    """

    name: Label
    labels: Labels = Field(default_factory=dict)
    description: str = Field("", max_length=500)
    url: str | None = Field(None, max_length=2048)
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    command: tuple[str, ...] = Field((), max_length=256)
    env: dict[EnvName, EnvValue] = Field(default_factory=dict)
    prefix: Prefix | None = None
    isolation: Literal["shared", "session"] = "shared"
    placement: Label | None = None

    @model_validator(mode="after")
    def _is_one_transport(self) -> Self:
        if (self.url is None) == (not self.command):
            raise ValueError("a server has either a url or a command")
        if self.url is not None:
            self._check_url(self.url)
            if self.env:
                raise ValueError("env belongs to a server with a command")
        if self.command:
            if self.headers:
                raise ValueError("headers belong to a server with a url")
            if not self.command[0] or any("\0" in word for word in self.command):
                raise ValueError("command is empty or has a NUL character in it")
        if self.prefix is None and len(self.name) > 20:
            raise ValueError(f"the name {self.name} is longer than 20 characters: give the server a prefix")
        return self

    def _check_url(self, url: str) -> None:
        demand_http(url, "url", "a header with a secret")
        refused = sorted(name for name in self.headers if name.lower() in _NOT_SENT)
        if refused:
            raise ValueError(f"header {refused[0]} is set by the connection itself")

    @property
    def slug(self) -> str:
        """What stands before the names of its tools in projects with `naming: prefix`."""
        return self.prefix or self.name


class Server(Message):
    """A server as the Catalog keeps it. `revision` grows with each edit."""

    spec: ServerSpec
    revision: int
    created_at: datetime
    projects: tuple[str, ...] = ()


class CreateServer(Authorized):
    """Define an upstream server, and add it to projects if any are named."""

    spec: ServerSpec
    projects: tuple[Label, ...] = ()

    @property
    def name(self) -> str:
        return self.spec.name


class ListServers(Authorized):
    """List the upstream servers."""


class Servers(Message):
    items: tuple[Server, ...]


class GetServer(Authorized):
    """Show one upstream server; secrets are named, never shown."""

    name: Label


class EditServer(Authorized):
    """Replace a server's specification. `revision` (if given) must be the one that was read."""

    spec: ServerSpec
    revision: int | None = None

    @property
    def name(self) -> str:
        return self.spec.name


class DeleteServer(Authorized):
    """Delete a server and take it out of every project."""

    name: Label


class ModelSpec(Message):
    """An endpoint that speaks OpenAI's chat completions: it chooses the prompts of a briefing.

    `base_url` is what stands before `/chat/completions`; `secret_ref` names the secret that holds its key, if it takes
    one. After `timeout_ms` the prompts are chosen without it.
    """

    base_url: Annotated[str, Field(max_length=2048)]
    model: Annotated[str, Field(min_length=1, max_length=200)]
    secret_ref: Label | None = None
    timeout_ms: Annotated[int, Field(ge=100, le=30_000)] = 5_000

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        demand_http(url, "it", "a secret")
        return url


GateMode = Literal["brief", "refuse", "strict"]


class GateSpec(Message):
    """What an agent meets before it has been briefed.

    `mode` says what becomes of a call of a tool: `brief` runs it and puts the briefing in front of its result, `refuse`
    answers with what to do first, and so does `strict`, which lists all tools all the same. `budget` is the size of
    the prompts in one briefing at the most, in bytes of UTF-8. `exempt` are tools (`<server>/<tool>`, exact or a glob)
    that are listed and called as if there were no gate.
    """

    mode: GateMode = "brief"
    budget: Annotated[int, Field(ge=1024, le=262_144)] = 16_384
    exempt: tuple[NameGlob, ...] = Field((), max_length=100)
    llm: ModelSpec | None = None


class ProjectSpec(Message):
    """A project: the servers that its tokens may be given, in the order in which they are listed.

    `max_token_ttl` (`30d`, `12h`) is the longest that an mcptoken of the project may last. `naming` says how agents
    see its tools: `plain` (one server, its own names) or `prefix` (`<prefix>__<tool>`). Where it is not given, a new
    project with several servers has `prefix`, any other new one `plain`, and one that is there keeps its own. `quota`
    bounds what all its callers ask together.
    """

    name: Label
    labels: Labels = Field(default_factory=dict)
    description: str = Field("", max_length=500)
    servers: tuple[Label, ...] = Field((), max_length=500)
    naming: Naming | None = None
    max_token_ttl: Lifetime | None = None
    gate: GateSpec | None = None
    pin_tools: bool = True
    quota: GivenQuota = None

    @property
    def max_token_ttl_seconds(self) -> int | None:
        return None if self.max_token_ttl is None else lifetime_seconds(self.max_token_ttl)


class Project(Message):
    """A project as the Catalog keeps it: its `naming` is always set. While it is frozen nothing is called in it."""

    spec: ProjectSpec
    revision: int
    created_at: datetime
    frozen_at: datetime | None = None


class CreateProject(Authorized):
    """Create a project."""

    spec: ProjectSpec

    @property
    def name(self) -> str:
        return self.spec.name


class ListProjects(Authorized):
    """List the projects."""


class Projects(Message):
    items: tuple[Project, ...]


class GetProject(Authorized):
    """Show one project."""

    name: Label


class EditProject(Authorized):
    """Replace a project's specification. `revision` (if given) must be the one that was read."""

    spec: ProjectSpec
    revision: int | None = None

    @property
    def name(self) -> str:
        return self.spec.name


class DeleteProject(Authorized):
    """Delete a project. Its tokens lead nowhere from then on."""

    name: Label


class FreezeProject(Authorized):
    """Stop a project: its calls and streams end, and new ones are refused, until it is unfrozen. Its tokens stay."""

    name: Label


class UnfreezeProject(Authorized):
    """Let a frozen project go on."""

    name: Label


Tag = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?$")]


class PromptResource(Message):
    """An MCP resource of one of the project's servers, whose text is the content of a prompt."""

    server: Label
    uri: Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^[^\s\x00-\x1f\x7f]+$")]


class PromptSpec(Message):
    """A prompt: what an agent should know, in one project or (`project` None) in all of them.

    The tags of a task, and its words, choose prompts; `priority` (10 is the highest) weighs them, and one of priority
    10 is part of every briefing. `content` is Markdown. With a `resource` the content is read from there, and `content`
    is what is given where it cannot be read.
    """

    name: Label
    labels: Labels = Field(default_factory=dict)
    project: Label | None = None
    tags: tuple[Tag, ...] = Field((), max_length=32)
    priority: Annotated[int, Field(ge=1, le=10)] = 5
    summary: str = Field("", max_length=500)
    content: str = Field("", max_length=65536)
    resource: PromptResource | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.content and self.resource is None:
            raise ValueError("a prompt has content, or a resource that supplies it")
        if len(set(self.tags)) != len(self.tags):
            raise ValueError("a tag is given twice")
        return self


class Prompt(Message):
    """A prompt as the Catalog keeps it."""

    spec: PromptSpec
    revision: int
    created_at: datetime
    updated_at: datetime


class CreatePrompt(Authorized):
    """Write a prompt for the agents of a project, or of all projects."""

    spec: PromptSpec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def project(self) -> str | None:
        return self.spec.project


class ListPrompts(Authorized):
    """List the prompts that the bearer may see: all, or those that count in one project."""

    project: Label | None = None


class Prompts(Message):
    items: tuple[Prompt, ...]


class GetPrompt(Authorized):
    """Show one prompt."""

    name: Label


class EditPrompt(Authorized):
    """Replace a prompt's specification. `revision` (if given) must be the one that was read."""

    spec: PromptSpec
    revision: int | None = None

    @property
    def name(self) -> str:
        return self.spec.name


class DeletePrompt(Authorized):
    """Delete a prompt."""

    name: Label


class IndexedPrompt(Message):
    """A prompt, without its content: `size` is that in bytes of UTF-8, of its own content."""

    name: str
    tags: tuple[str, ...]
    priority: int
    summary: str
    size: int


class GetPromptIndex(Authorized):
    """Show the prompts that count in a project, its own and those for all, as far as the bearer may see them."""

    project: Label


class PromptIndex(Message):
    """The index, by name."""

    items: tuple[IndexedPrompt, ...]


class ReadPrompts(Authorized):
    """Give the router the contents of prompts that count in a project, as far as the bearer may see them."""

    project: Label
    names: tuple[Label, ...] = Field(max_length=500)


class PromptText(Message):
    """What a prompt says, and the resource that supplies its content instead, if one does."""

    name: str
    content: str
    resource: PromptResource | None = None


class PromptTexts(Message):
    """The contents, in the order in which they were asked for; what may not be seen is not among them."""

    items: tuple[PromptText, ...]


class SecretSpec(Message):
    """A secret, as a document describes it: by its value, or sealed; where neither is given, it must be there."""

    name: Label
    labels: Labels = Field(default_factory=dict)
    value: Annotated[str, Field(min_length=1, max_length=65536)] | None = Field(None, repr=False)
    sealed: Annotated[str, Field(max_length=120_000)] | None = Field(None, repr=False)


class CreateSecret(Authorized):
    """Seal a value under a name; it can be used by servers and is never shown again."""

    name: Label
    labels: Labels = Field(default_factory=dict)
    value: Annotated[str, Field(repr=False, min_length=1, max_length=65536)]
    replace: bool = False


class Secret(Message):
    """A secret's name and age: the value stays sealed."""

    name: str
    labels: dict[str, str] = Field(default_factory=dict)
    created_at: datetime
    updated_at: datetime
    used_by: tuple[str, ...] = ()


class ListSecrets(Authorized):
    """List the secrets by name."""


class Secrets(Message):
    items: tuple[Secret, ...]


class GetSecret(Authorized):
    """Show one secret's name and age."""

    name: Label


class DeleteSecret(Authorized):
    """Delete a secret that no server uses."""

    name: Label


class Apply(Authorized):
    """Bring projects, servers, secrets and prompts to their documents, all or none; `remove` what is not wanted."""

    projects: tuple[ProjectSpec, ...] = Field((), max_length=MOST)
    servers: tuple[ServerSpec, ...] = Field((), max_length=MOST)
    secrets: tuple[SecretSpec, ...] = Field((), max_length=MOST)
    prompts: tuple[PromptSpec, ...] = Field((), max_length=MOST)
    remove: tuple[Ref, ...] = Field((), max_length=MOST)
    dry_run: bool = False


class GetTokenTerms(Authorized):
    """Say on what terms mcptokens of a project may be issued."""

    project: Label


class TokenTerms(Message):
    """The longest that an mcptoken of the project may last, in seconds."""

    max_ttl_seconds: int | None


class GetView(Authorized):
    """Say what a project consists of, for routing its requests."""

    project: Label


class UpstreamServer(Message):
    """A server as the router needs it: no secret is in it, `revision` changes with any edit."""

    name: str
    slug: str
    revision: str
    transport: Literal["http", "stdio"]
    isolation: Literal["shared", "session"]
    placement: str = ""


class View(Message):
    """The runtime view of a project, as it was at change `seq` of `epoch`.

    `prompts` are all that count in it: the router shows of them what a caller may see. The `llm` of its `gate` is the
    one for all projects where it has none of its own.
    """

    epoch: str
    seq: int
    project: str
    servers: tuple[UpstreamServer, ...]
    naming: Naming | None = None
    gate: GateSpec | None = None
    pin_tools: bool = True
    prompts: tuple[IndexedPrompt, ...] = ()
    quota: Quota | None = None

    @property
    def prefixed(self) -> bool:
        """Whether names bear prefixes; a Catalog that does not say so goes by the number of servers."""
        return len(self.servers) > 1 if self.naming is None else self.naming == "prefix"


class Unseal(Authorized):
    """Give the router all that it takes to connect to one server of a project, secrets in clear.

    To a router of the site on which the server is placed, and to no other.
    """

    project: Label
    server: Label


class Connection(Message):
    """How to reach a server. Never logged, never stored. `secrets` are the values in it that were sealed."""

    revision: str
    url: str | None = None
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    command: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = Field((), repr=False)


class UnsealModel(Authorized):
    """Give the router what it takes to ask the model of a gated project, its key in clear."""

    project: Label


class ModelConnection(Message):
    """How to reach a model. Never logged, never stored."""

    base_url: str
    model: str
    key: str | None = Field(None, repr=False)
    timeout_ms: int


create_server = Call(
    "catalog.create_server",
    CreateServer,
    Server,
    callers=("operator",),
    needs=Need("create", "servers"),
    http=("POST /servers",),
)
list_servers = Call(
    "catalog.list_servers",
    ListServers,
    Servers,
    callers=("operator",),
    needs=Need("view", "servers"),
    http=("GET /servers",),
)
get_server = Call(
    "catalog.get_server",
    GetServer,
    Server,
    callers=("operator",),
    needs=Need("view", "servers"),
    http=("GET /servers/{name}",),
)
edit_server = Call(
    "catalog.edit_server",
    EditServer,
    Server,
    callers=("operator",),
    needs=Need("edit", "servers"),
    http=("PUT /servers/{spec.name}",),
)
delete_server = Call(
    "catalog.delete_server",
    DeleteServer,
    Done,
    callers=("operator",),
    needs=Need("delete", "servers"),
    http=("DELETE /servers/{name}",),
)

create_project = Call(
    "catalog.create_project",
    CreateProject,
    Project,
    callers=("operator",),
    needs=Need("create", "projects"),
    http=("POST /projects",),
)
list_projects = Call(
    "catalog.list_projects",
    ListProjects,
    Projects,
    callers=("operator",),
    needs=Need("view", "projects"),
    http=("GET /projects",),
)
get_project = Call(
    "catalog.get_project",
    GetProject,
    Project,
    callers=("operator",),
    needs=Need("view", "projects"),
    http=("GET /projects/{name}",),
)
edit_project = Call(
    "catalog.edit_project",
    EditProject,
    Project,
    callers=("operator",),
    needs=Need("edit", "projects"),
    http=("PUT /projects/{spec.name}",),
)
delete_project = Call(
    "catalog.delete_project",
    DeleteProject,
    Done,
    callers=("operator",),
    needs=Need("delete", "projects"),
    http=("DELETE /projects/{name}",),
)

freeze_project = Call(
    "catalog.freeze_project",
    FreezeProject,
    Project,
    callers=("operator",),
    needs=Need("edit", "projects"),
    http=("POST /projects/{name}/freeze",),
)
unfreeze_project = Call(
    "catalog.unfreeze_project",
    UnfreezeProject,
    Project,
    callers=("operator",),
    needs=Need("edit", "projects"),
    http=("POST /projects/{name}/unfreeze",),
)

create_secret = Call(
    "catalog.create_secret",
    CreateSecret,
    Secret,
    callers=("operator",),
    needs=Need("create", "secrets"),
    http=("POST /secrets",),
)
list_secrets = Call(
    "catalog.list_secrets",
    ListSecrets,
    Secrets,
    callers=("operator",),
    needs=Need("view", "secrets"),
    http=("GET /secrets",),
)
get_secret = Call(
    "catalog.get_secret",
    GetSecret,
    Secret,
    callers=("operator",),
    needs=Need("view", "secrets"),
    http=("GET /secrets/{name}",),
)
delete_secret = Call(
    "catalog.delete_secret",
    DeleteSecret,
    Done,
    callers=("operator",),
    needs=Need("delete", "secrets"),
    http=("DELETE /secrets/{name}",),
)

create_prompt = Call(
    "catalog.create_prompt",
    CreatePrompt,
    Prompt,
    callers=("operator",),
    needs=Need("create", "prompts"),
    http=("POST /prompts",),
)
list_prompts = Call("catalog.list_prompts", ListPrompts, Prompts, callers=("operator",), http=("GET /prompts",))
get_prompt = Call("catalog.get_prompt", GetPrompt, Prompt, callers=("operator",), http=("GET /prompts/{name}",))
edit_prompt = Call("catalog.edit_prompt", EditPrompt, Prompt, callers=("operator",), http=("PUT /prompts/{spec.name}",))
delete_prompt = Call(
    "catalog.delete_prompt", DeletePrompt, Done, callers=("operator",), http=("DELETE /prompts/{name}",)
)
prompt_index = Call(
    "catalog.prompt_index",
    GetPromptIndex,
    PromptIndex,
    callers=("operator",),
    http=("GET /projects/{project}/prompts",),
)

apply = Call("catalog.apply", Apply, Applied, callers=("operator",), timeout=10.0)
token_terms = Call("catalog.token_terms", GetTokenTerms, TokenTerms, callers=("token",))
backup = Call("catalog.backup", Backup, Dump, callers=("operator",), needs=Need.to_operate("backup"), timeout=30.0)
restore = Call(
    "catalog.restore", Restore, Done, callers=("operator",), needs=Need.to_operate("restore", "escalate"), timeout=30.0
)

view = Call("catalog.view", GetView, View, callers=("router",), timeout=4.0, repeatable=True)
unseal = Call("catalog.unseal", Unseal, Connection, callers=("router",), timeout=4.0, repeatable=True)
read_prompts = Call("catalog.read_prompts", ReadPrompts, PromptTexts, callers=("router",))
unseal_model = Call("catalog.unseal_model", UnsealModel, ModelConnection, callers=("router",))

feed = Feed("catalog", followers=("router",))
