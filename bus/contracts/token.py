"""Who is this? Users, service accounts and bearers, kept by the TokenRegistry."""

from datetime import datetime
from math import inf
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from mcpctl.bus.contract import (
    MOST,
    Applied,
    Authorized,
    Backup,
    BearerText,
    Call,
    Done,
    Dump,
    Feed,
    Message,
    Need,
    Outcome,
    Ref,
    Restore,
)
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.names import Label, Labels, UserName, principal_label
from mcpctl.bus.quotas import GivenQuota, Quota, TokenQuota

DEFAULT_TTL_SECONDS = 30 * 24 * 3600
SESSION_TTL_SECONDS = 12 * 3600

Ttl = Annotated[int, Field(gt=0, le=10 * 365 * 86400)]
"""Seconds that a bearer lasts."""

TokenId = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

Status = Literal["active", "expired", "revoked"]
Password = Annotated[str, Field(min_length=8, max_length=1024)]


class Owner(Message):
    """The user or service account whose current rights bound those of a token."""

    kind: Literal["User", "ServiceAccount"]
    name: str
    groups: tuple[str, ...] = ()


class Principal(Message):
    """Who a bearer stands for. `sha` is the SHA-256 of that bearer, `parents` those of the tokens above it.

    `quotas` are its own and those of the tokens above it, as far as they have one: each bounds it.
    """

    kind: Literal["User", "ServiceAccount", "McpToken"]
    name: str
    sha: str
    owner: Owner
    project: str | None = None
    parents: tuple[str, ...] = ()
    quotas: tuple[TokenQuota, ...] = ()
    expires_in_ms: int | None = None
    until: float = Field(default=inf, exclude=True)
    """When it expires by the clock of `feed.now`, where it was resolved; never sent."""

    @property
    def label(self) -> str:
        """The principal as one subject token: `token-ci`, `user-ann`, `sa-build`."""
        return principal_label(self.kind, self.name)

    @property
    def audit_fields(self) -> dict[str, object]:
        """The fields of an audit event that say who."""
        token = self.kind == "McpToken"
        return {
            "principal": self.label,
            "user": self.owner.name,
            "token_name": self.name if token else None,
            "token_sha": self.sha if token else None,
        }

    def depends_on(self, kind: str, key: str) -> bool:
        """Tell whether a change of `kind` and `key` on the token feed concerns this principal."""
        if kind == "token":
            return key == self.sha or key in self.parents
        return f"{kind}:{key}" in (f"user:{self.owner.name}", f"serviceaccount:{self.owner.name}")


class ResolveBearer(Authorized):
    """Say whom a bearer stands for."""


class Resolved(Message):
    """The principal, as it was at change `seq` of `epoch`."""

    epoch: str
    seq: int
    principal: Principal


class FindPrincipal(Authorized):
    """Say whom a subject (`User:ann`, `ServiceAccount:ci`, `McpToken:<SHA-256>` or `McpToken:<name>`) stands for."""

    subject: str
    project: Label | None = None


class FindPrincipals(Authorized):
    """Say whom subjects stand for, as far as the bearer may view them."""

    subjects: tuple[str, ...] = Field(max_length=MOST)


class FoundPrincipal(Message):
    """Whom a subject stands for, or why nobody is told."""

    principal: Principal | None = None
    fault: str = ""


class FoundPrincipals(Message):
    """What was found, by subject."""

    items: dict[str, FoundPrincipal]


class WhoAmI(Authorized):
    """Say whom the own bearer stands for."""


class Login(Message):
    """Open a login session with a user's password."""

    user: UserName
    password: Annotated[str, Field(repr=False, max_length=1024)]


class LoggedIn(Message):
    """A login session; the bearer is shown only here."""

    user: str
    bearer: BearerText
    expires_at: datetime


class Logout(Authorized):
    """End the login session of this bearer."""


class Bootstrap(Message):
    """Create the first user, with the one-time secret that the first start left on the host."""

    secret: Annotated[str, Field(repr=False)]
    user: UserName
    password: Password = Field(repr=False)


class UserSpec(Message):
    """A user, as a document describes it; `password_hash` (argon2) is never shown, and stays where none is given."""

    name: UserName
    labels: Labels = Field(default_factory=dict)
    groups: tuple[Label, ...] = Field((), max_length=MOST)
    disabled: bool = False
    password_hash: Annotated[str, Field(pattern=r"^\$argon2id?\$[\x21-\x7e]{1,500}$")] | None = Field(None, repr=False)


class GroupSpec(Message):
    """A group, as a document describes it: `groups` are those of which all its members are members too."""

    name: Label
    labels: Labels = Field(default_factory=dict)
    description: str = Field("", max_length=500)
    groups: tuple[Label, ...] = Field((), max_length=MOST)


class ServiceAccountSpec(Message):
    """A service account, as a document describes it; its `router_site` is never changed."""

    name: Label
    labels: Labels = Field(default_factory=dict)
    description: str = Field("", max_length=500)
    groups: tuple[Label, ...] = Field((), max_length=MOST)
    router_site: Label | None = None


class TokenSpec(Message):
    """An mcptoken, as a document describes it: created where it is missing, and never changed (nor is its quota)."""

    project: Label
    name: Label
    labels: Labels = Field(default_factory=dict)
    description: str = Field("", max_length=500)
    bindings: tuple[Binding, ...] = Field((), max_length=MOST)
    ttl_seconds: Ttl | None = None
    expires_at: AwareDatetime | None = None
    never_expires: bool = False
    quota: GivenQuota = None


class CreateUser(Authorized):
    """Create a user."""

    name: UserName
    password: Password = Field(repr=False)
    labels: Labels = Field(default_factory=dict)
    groups: tuple[Label, ...] = Field((), max_length=MOST)


class User(Message):
    """A user: never with the password or its digest."""

    name: str
    labels: dict[str, str] = Field(default_factory=dict)
    groups: tuple[str, ...]
    disabled: bool
    created_at: datetime


class ListUsers(Authorized):
    """List the users."""


class Users(Message):
    items: tuple[User, ...]


class GetUser(Authorized):
    """Show one user."""

    name: UserName


class EditUser(Authorized):
    """Change a user: what is left out stays as it is."""

    name: UserName
    labels: Labels | None = None
    groups: Annotated[tuple[Label, ...], Field(max_length=MOST)] | None = None
    disabled: bool | None = None
    password: Password | None = Field(None, repr=False)


class DeleteUser(Authorized):
    """Delete a user, and with it the login sessions and tokens that it owns."""

    name: UserName


class CreateGroup(Authorized):
    """Create a group, with members if any are named (`User:ann`, `ServiceAccount:ci`, `Group:devs`)."""

    name: Label
    labels: Labels = Field(default_factory=dict)
    description: str = Field("", max_length=500)
    groups: tuple[Label, ...] = Field((), max_length=MOST)
    members: tuple[str, ...] = Field((), max_length=MOST)


class Group(Message):
    """A group: `groups` are those that it is a member of itself, `members` its own as subjects."""

    name: str
    labels: dict[str, str] = Field(default_factory=dict)
    description: str
    groups: tuple[str, ...]
    members: tuple[str, ...]
    created_at: datetime


class ListGroups(Authorized):
    """List the groups."""


class Groups(Message):
    items: tuple[Group, ...]


class GetGroup(Authorized):
    """Show one group."""

    name: Label


class EditGroup(Authorized):
    """Change a group: what is left out stays as it is; members are added and removed by subject."""

    name: Label
    labels: Labels | None = None
    description: str | None = Field(None, max_length=500)
    groups: Annotated[tuple[Label, ...], Field(max_length=MOST)] | None = None
    add_members: tuple[str, ...] = Field((), max_length=MOST)
    remove_members: tuple[str, ...] = Field((), max_length=MOST)


class DeleteGroup(Authorized):
    """Delete a group: nobody is a member of it any more, and what definitions gave it is gone."""

    name: Label


class CreateServiceAccount(Authorized):
    """Create a service account.

    With `router_site` its bearers admit routers of that site to the bus, and are good for nothing else.
    """

    name: Label
    labels: Labels = Field(default_factory=dict)
    groups: tuple[Label, ...] = Field((), max_length=MOST)
    description: str = Field("", max_length=500)
    router_site: Label | None = None


class ServiceAccount(Message):
    """A service account: an owner of tokens that is no person."""

    name: str
    labels: dict[str, str] = Field(default_factory=dict)
    groups: tuple[str, ...]
    description: str
    router_site: str | None = None
    created_at: datetime


class ListServiceAccounts(Authorized):
    """List the service accounts."""


class ServiceAccounts(Message):
    items: tuple[ServiceAccount, ...]


class GetServiceAccount(Authorized):
    """Show one service account."""

    name: Label


class EditServiceAccount(Authorized):
    """Change a service account: what is left out stays as it is."""

    name: Label
    labels: Labels | None = None
    groups: Annotated[tuple[Label, ...], Field(max_length=MOST)] | None = None
    description: str | None = Field(None, max_length=500)


class DeleteServiceAccount(Authorized):
    """Delete a service account and every bearer of it."""

    name: Label


class IssueServiceAccountToken(Authorized):
    """Issue a bearer for a service account; `ttl_seconds` None means that it never expires."""

    name: Label
    ttl_seconds: int | None = Field(DEFAULT_TTL_SECONDS, gt=0, le=10 * 365 * 86400)


class IssuedServiceAccountToken(Message):
    """A new bearer of a service account, shown only here. `id` is its SHA-256."""

    name: str
    id: TokenId
    bearer: BearerText
    expires_at: datetime | None


class RevokeServiceAccountToken(Authorized):
    """End one bearer of a service account by its id; the mcptokens that it has issued are the account's, and stay."""

    name: Label
    id: TokenId


class IssueToken(Authorized):
    """Issue an mcptoken for one project.

    It lasts `ttl_seconds`, or until `expires_at`, or (`never_expires`) for ever; where nothing is said, 30 days, or as
    long as its project allows. `rbac` `clone` adds the issuer's own rights in that project to `bindings`. `force`
    revokes an active token of that name first. `quota` bounds it for good, together with what it issues itself.
    """

    project: Label
    name: Label
    labels: Labels = Field(default_factory=dict)
    description: str = Field("", max_length=500)
    bindings: tuple[Binding, ...] = Field((), max_length=MOST)
    rbac: Literal["empty", "clone"] = "empty"
    ttl_seconds: Ttl | None = None
    expires_at: AwareDatetime | None = None
    never_expires: bool = False
    quota: GivenQuota = None
    force: bool = False


class LastUse(Message):
    """When a token was last used, kept to the minute; and (once it was a call) through which gateway, for what."""

    at: datetime
    gateway: str | None = None
    tool: str | None = None


class Token(Message):
    """An mcptoken as it may be shown: the bearer itself is not in it. `id` is the bearer's SHA-256."""

    id: str
    name: str
    project: str
    prefix: str
    labels: dict[str, str] = Field(default_factory=dict)
    owner: Owner
    parent: str | None = Field(None, description="the name of the mcptoken that issued it")
    description: str
    created_at: datetime
    last_use: LastUse | None
    expires_at: datetime | None
    revoked_at: datetime | None = None
    quota: Quota | None = None
    status: Status


class IssuedToken(Message):
    """A new mcptoken; the bearer is shown only here."""

    bearer: BearerText
    token: Token


class ListTokens(Authorized):
    """List mcptokens, of one project or (`project` None) of all."""

    project: Label | None = None


class Tokens(Message):
    items: tuple[Token, ...]


class DescribeToken(Authorized):
    """Show one mcptoken by its name; the active one where a name was used before."""

    project: Label
    name: Label


class Introspect(Authorized):
    """Say whether a bearer is active and what for (RFC 7662): the own one, or `token` to whom may view mcptokens."""

    token: str | None = Field(None, repr=False)


class Introspection(Message):
    """The answer of RFC 7662, section 2.2. For an unknown bearer only `active`, for one that was real `status` too."""

    active: bool
    status: Status | None = None
    name: str | None = None
    project: str | None = None
    owner: str | None = None
    scope: str | None = Field(None, description="its bindings, separated by spaces")
    sub: str | None = Field(None, description="the principal, for example `token-ci`")
    token_type: Literal["Bearer"] | None = None
    iat: int | None = Field(None, description="seconds since 1970")
    exp: int | None = Field(None, description="seconds since 1970")


class RevokeToken(Authorized):
    """Revoke an mcptoken: its rights go, the row and the audit stay."""

    project: Label
    name: Label


class RotateToken(Authorized):
    """Issue a new bearer under an mcptoken's name, with its bindings; the old one works for `overlap_seconds` more.

    The two have one quota together, that of the old one.
    """

    project: Label
    name: Label
    overlap_seconds: int = Field(3600, ge=0, le=30 * 86400)
    ttl_seconds: Ttl | None = None
    expires_at: AwareDatetime | None = None
    never_expires: bool = False


class GetTokenById(Authorized):
    """Show one mcptoken by its id."""

    id: TokenId


class RevokeTokenById(Authorized):
    """Revoke an mcptoken by its id."""

    id: TokenId


class DeleteTokenById(Authorized):
    """Revoke an mcptoken by its id, if it is still active, and remove its row."""

    id: TokenId


class UsedToken(Authorized):
    """Note that a bearer was used: through which gateway, and for which tool or method, if it was more than a list."""

    gateway: str = Field(max_length=200)
    tool: str | None = Field(None, max_length=400)


class ApplyPrincipals(Authorized):
    """Bring groups, users and service accounts to their documents, all or none; `remove` what is no longer wanted."""

    groups: tuple[GroupSpec, ...] = Field((), max_length=MOST)
    users: tuple[UserSpec, ...] = Field((), max_length=MOST)
    service_accounts: tuple[ServiceAccountSpec, ...] = Field((), max_length=MOST)
    remove: tuple[Ref, ...] = Field((), max_length=MOST)
    dry_run: bool = False


class ApplyTokens(Authorized):
    """Create the mcptokens that are missing, all or none; revoke those in `remove`.

    `projects` are those that a dry run takes for granted, since the same documents bring them about, each with the
    longest that its mcptokens will last, in seconds.
    """

    tokens: tuple[TokenSpec, ...] = Field((), max_length=MOST)
    remove: tuple[Ref, ...] = Field((), max_length=MOST)
    projects: dict[Label, int | None] = Field(default_factory=dict, max_length=MOST)
    dry_run: bool = False


class AppliedTokens(Message):
    """What applying mcptokens did, and the bearers of the new ones, which are shown only here."""

    items: tuple[Outcome, ...]
    issued: tuple[IssuedToken, ...] = ()


class DeleteToken(Authorized):
    """Revoke an mcptoken, if it is still active, and remove every row of that name."""

    project: Label
    name: Label


class RevokeProjectTokens(Authorized):
    """Revoke every mcptoken of a project that is being deleted."""

    project: Label

    @property
    def name(self) -> str:
        return self.project


resolve = Call(
    "token.resolve",
    ResolveBearer,
    Resolved,
    callers=("gateway", "router", "rbac", "catalog", "session", "audit"),
    timeout=4.0,
    repeatable=True,
)
find_principal = Call(
    "token.find_principal", FindPrincipal, Resolved, callers=("rbac",), needs=Need.to_operate("impersonate")
)
find_principals = Call("token.find_principals", FindPrincipals, FoundPrincipals, callers=("rbac",), timeout=10.0)
whoami = Call("token.whoami", WhoAmI, Principal, callers=("operator",), http=("GET /whoami",))
login = Call("token.login", Login, LoggedIn, callers=("login", "operator"), timeout=5.0, http=("POST /login",))
logout = Call("token.logout", Logout, Done, callers=("operator",), http=("POST /logout",))
bootstrap = Call("token.bootstrap", Bootstrap, Done, callers=("login",), timeout=5.0)

create_user = Call(
    "token.create_user",
    CreateUser,
    User,
    callers=("operator",),
    needs=Need("create", "users"),
    timeout=5.0,
    http=("POST /users",),
)
list_users = Call(
    "token.list_users", ListUsers, Users, callers=("operator",), needs=Need("view", "users"), http=("GET /users",)
)
get_user = Call(
    "token.get_user", GetUser, User, callers=("operator",), needs=Need("view", "users"), http=("GET /users/{name}",)
)
edit_user = Call(
    "token.edit_user",
    EditUser,
    User,
    callers=("operator",),
    needs=Need("edit", "users"),
    timeout=5.0,
    http=("PATCH /users/{name}",),
)
delete_user = Call(
    "token.delete_user",
    DeleteUser,
    Done,
    callers=("operator",),
    needs=Need("delete", "users"),
    http=("DELETE /users/{name}",),
)

create_group = Call(
    "token.create_group",
    CreateGroup,
    Group,
    callers=("operator",),
    needs=Need("create", "groups"),
    http=("POST /groups",),
)
list_groups = Call(
    "token.list_groups", ListGroups, Groups, callers=("operator",), needs=Need("view", "groups"), http=("GET /groups",)
)
get_group = Call(
    "token.get_group",
    GetGroup,
    Group,
    callers=("operator",),
    needs=Need("view", "groups"),
    http=("GET /groups/{name}",),
)
edit_group = Call(
    "token.edit_group",
    EditGroup,
    Group,
    callers=("operator",),
    needs=Need("edit", "groups"),
    http=("PATCH /groups/{name}",),
)
delete_group = Call(
    "token.delete_group",
    DeleteGroup,
    Done,
    callers=("operator",),
    needs=Need("delete", "groups"),
    http=("DELETE /groups/{name}",),
)

create_service_account = Call(
    "token.create_service_account",
    CreateServiceAccount,
    ServiceAccount,
    callers=("operator",),
    needs=Need("create", "serviceaccounts"),
    http=("POST /serviceaccounts",),
)
list_service_accounts = Call(
    "token.list_service_accounts",
    ListServiceAccounts,
    ServiceAccounts,
    callers=("operator",),
    needs=Need("view", "serviceaccounts"),
    http=("GET /serviceaccounts",),
)
get_service_account = Call(
    "token.get_service_account",
    GetServiceAccount,
    ServiceAccount,
    callers=("operator",),
    needs=Need("view", "serviceaccounts"),
    http=("GET /serviceaccounts/{name}",),
)
edit_service_account = Call(
    "token.edit_service_account",
    EditServiceAccount,
    ServiceAccount,
    callers=("operator",),
    needs=Need("edit", "serviceaccounts"),
    http=("PATCH /serviceaccounts/{name}",),
)
delete_service_account = Call(
    "token.delete_service_account",
    DeleteServiceAccount,
    Done,
    callers=("operator",),
    needs=Need("delete", "serviceaccounts"),
    http=("DELETE /serviceaccounts/{name}",),
)
issue_service_account_token = Call(
    "token.issue_service_account_token",
    IssueServiceAccountToken,
    IssuedServiceAccountToken,
    callers=("operator",),
    needs=Need("edit", "serviceaccounts"),
    http=("POST /serviceaccounts/{name}/tokens",),
)
revoke_service_account_token = Call(
    "token.revoke_service_account_token",
    RevokeServiceAccountToken,
    Done,
    callers=("operator",),
    needs=Need("delete", "serviceaccounts"),
    http=("DELETE /serviceaccounts/{name}/tokens/{id}",),
)

issue = Call(
    "token.issue",
    IssueToken,
    IssuedToken,
    callers=("operator",),
    needs=Need("create", "mcptokens"),
    timeout=10.0,
    http=("POST /mcptokens", "POST /projects/{project}/mcptokens"),
)
list_tokens = Call(
    "token.list",
    ListTokens,
    Tokens,
    callers=("operator",),
    needs=Need("view", "mcptokens"),
    http=("GET /mcptokens", "GET /projects/{project}/mcptokens"),
)
describe = Call(
    "token.describe",
    DescribeToken,
    Token,
    callers=("operator",),
    needs=Need("view", "mcptokens"),
    http=("GET /projects/{project}/mcptokens/{name}",),
)
revoke = Call(
    "token.revoke",
    RevokeToken,
    Token,
    callers=("operator",),
    needs=Need("delete", "mcptokens"),
    timeout=5.0,
    http=("POST /projects/{project}/mcptokens/{name}/revoke",),
)
rotate = Call(
    "token.rotate",
    RotateToken,
    IssuedToken,
    callers=("operator",),
    needs=Need("create", "mcptokens"),
    timeout=10.0,
    http=("POST /projects/{project}/mcptokens/{name}/rotate",),
)
delete = Call(
    "token.delete",
    DeleteToken,
    Done,
    callers=("operator",),
    needs=Need("delete", "mcptokens"),
    timeout=5.0,
    http=("DELETE /projects/{project}/mcptokens/{name}",),
)
introspect = Call(
    "token.introspect",
    Introspect,
    Introspection,
    callers=("operator",),
    http=("GET /mcptokens/introspect", "POST /mcptokens/introspect"),
)
get_by_id = Call("token.get_by_id", GetTokenById, Token, callers=("operator",), http=("GET /mcptokens/{id}",))
revoke_by_id = Call(
    "token.revoke_by_id",
    RevokeTokenById,
    Token,
    callers=("operator",),
    timeout=5.0,
    http=("POST /mcptokens/{id}/revoke",),
)
delete_by_id = Call(
    "token.delete_by_id", DeleteTokenById, Done, callers=("operator",), timeout=5.0, http=("DELETE /mcptokens/{id}",)
)
used = Call("token.used", UsedToken, Done, callers=("router",))
revoke_project = Call(
    "token.revoke_project",
    RevokeProjectTokens,
    Done,
    callers=("catalog",),
    needs=Need("delete", "projects"),
    timeout=5.0,
)

apply_principals = Call("token.apply_principals", ApplyPrincipals, Applied, callers=("operator",), timeout=10.0)
apply_tokens = Call("token.apply_tokens", ApplyTokens, AppliedTokens, callers=("operator",), timeout=10.0)
backup = Call("token.backup", Backup, Dump, callers=("operator",), needs=Need.to_operate("backup"), timeout=30.0)
restore = Call(
    "token.restore", Restore, Done, callers=("operator",), needs=Need.to_operate("restore", "escalate"), timeout=30.0
)

feed = Feed("token", followers=("gateway", "router", "session"))
