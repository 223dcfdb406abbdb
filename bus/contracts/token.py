"""Who is this? Users, service accounts and bearers, kept by the TokenRegistry."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from mcpctl.bus.contract import Authorized, BearerText, Call, Done, Feed, Message, Need
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.names import Label, UserName, principal_label

DEFAULT_TTL_SECONDS = 30 * 24 * 3600
SESSION_TTL_SECONDS = 12 * 3600

Status = Literal["active", "expired", "revoked"]
Password = Annotated[str, Field(min_length=8, max_length=1024)]


class Owner(Message):
    """The user or service account whose current rights bound those of a token."""

    kind: Literal["User", "ServiceAccount"]
    name: str
    groups: tuple[str, ...] = ()


class Principal(Message):
    """Who a bearer stands for. `sha` is the SHA-256 of that bearer, `parents` those of the tokens above it."""

    kind: Literal["User", "ServiceAccount", "McpToken"]
    name: str
    sha: str
    owner: Owner
    project: str | None = None
    parents: tuple[str, ...] = ()
    expires_in_ms: int | None = None

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


class CreateUser(Authorized):
    """Create a user."""

    name: UserName
    password: Password = Field(repr=False)
    groups: tuple[Label, ...] = ()


class User(Message):
    """A user: never with the password or its digest."""

    name: str
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
    groups: tuple[Label, ...] | None = None
    disabled: bool | None = None
    password: Password | None = Field(None, repr=False)


class DeleteUser(Authorized):
    """Delete a user, and with it the login sessions and tokens that it owns."""

    name: UserName


class CreateServiceAccount(Authorized):
    """Create a service account."""

    name: Label
    groups: tuple[Label, ...] = ()
    description: str = Field("", max_length=500)


class ServiceAccount(Message):
    """A service account: an owner of tokens that is no person."""

    name: str
    groups: tuple[str, ...]
    description: str
    created_at: datetime


class ListServiceAccounts(Authorized):
    """List the service accounts."""


class ServiceAccounts(Message):
    items: tuple[ServiceAccount, ...]


class DeleteServiceAccount(Authorized):
    """Delete a service account and every bearer of it."""

    name: Label


class IssueServiceAccountToken(Authorized):
    """Issue a bearer for a service account; `ttl_seconds` None means that it never expires."""

    name: Label
    ttl_seconds: int | None = Field(DEFAULT_TTL_SECONDS, gt=0, le=10 * 365 * 86400)


class IssuedServiceAccountToken(Message):
    """A new bearer of a service account, shown only here."""

    name: str
    bearer: BearerText
    expires_at: datetime | None


class IssueToken(Authorized):
    """Issue an mcptoken for one project; `ttl_seconds` None means that it never expires."""

    project: Label
    name: Label
    bindings: tuple[Binding, ...] = ()
    ttl_seconds: int | None = Field(DEFAULT_TTL_SECONDS, gt=0, le=10 * 365 * 86400)
    description: str = Field("", max_length=500)


class Token(Message):
    """An mcptoken as it may be shown: the bearer itself is not in it."""

    name: str
    project: str
    prefix: str
    sha: str
    owner: Owner
    description: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
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


class Introspect(Message):
    """Say whether a bearer is active and what for, to one who holds it (RFC 7662)."""

    bearer: BearerText


class Introspection(Message):
    """The answer of RFC 7662, section 2.2. For an unknown bearer only `active`."""

    active: bool
    status: Status | None = None
    name: str | None = None
    project: str | None = None
    owner: str | None = None
    exp: int | None = Field(None, description="seconds since 1970")


class RevokeToken(Authorized):
    """Revoke an mcptoken: its rights go, the row and the audit stay."""

    project: Label
    name: Label


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
)
whoami = Call("token.whoami", WhoAmI, Principal, callers=("operator",))
login = Call("token.login", Login, LoggedIn, callers=("login", "operator"), timeout=5.0)
logout = Call("token.logout", Logout, Done, callers=("operator",))
bootstrap = Call("token.bootstrap", Bootstrap, Done, callers=("login",), timeout=5.0)

create_user = Call(
    "token.create_user", CreateUser, User, callers=("operator",), needs=Need("create", "users"), timeout=5.0
)
list_users = Call("token.list_users", ListUsers, Users, callers=("operator",), needs=Need("view", "users"))
get_user = Call("token.get_user", GetUser, User, callers=("operator",), needs=Need("view", "users"))
edit_user = Call("token.edit_user", EditUser, User, callers=("operator",), needs=Need("edit", "users"), timeout=5.0)
delete_user = Call("token.delete_user", DeleteUser, Done, callers=("operator",), needs=Need("delete", "users"))

create_service_account = Call(
    "token.create_service_account",
    CreateServiceAccount,
    ServiceAccount,
    callers=("operator",),
    needs=Need("create", "serviceaccounts"),
)
list_service_accounts = Call(
    "token.list_service_accounts",
    ListServiceAccounts,
    ServiceAccounts,
    callers=("operator",),
    needs=Need("view", "serviceaccounts"),
)
delete_service_account = Call(
    "token.delete_service_account",
    DeleteServiceAccount,
    Done,
    callers=("operator",),
    needs=Need("delete", "serviceaccounts"),
)
issue_service_account_token = Call(
    "token.issue_service_account_token",
    IssueServiceAccountToken,
    IssuedServiceAccountToken,
    callers=("operator",),
    needs=Need("edit", "serviceaccounts"),
)

issue = Call(
    "token.issue",
    IssueToken,
    IssuedToken,
    callers=("operator",),
    needs=Need("create", "mcptokens"),
    timeout=5.0,
)
list_tokens = Call("token.list", ListTokens, Tokens, callers=("operator",), needs=Need("view", "mcptokens"))
describe = Call("token.describe", DescribeToken, Token, callers=("operator",), needs=Need("view", "mcptokens"))
introspect = Call("token.introspect", Introspect, Introspection, callers=("operator", "gateway"))
revoke = Call("token.revoke", RevokeToken, Token, callers=("operator",), needs=Need("delete", "mcptokens"), timeout=5.0)
delete = Call("token.delete", DeleteToken, Done, callers=("operator",), needs=Need("delete", "mcptokens"), timeout=5.0)

revoke_project = Call(
    "token.revoke_project",
    RevokeProjectTokens,
    Done,
    callers=("catalog",),
    needs=Need("delete", "projects"),
    timeout=5.0,
)

feed = Feed("token", followers=("gateway", "router"))
