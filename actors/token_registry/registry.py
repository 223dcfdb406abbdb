"""The TokenRegistry: its parts, put together."""

from contextlib import AsyncExitStack
from typing import ClassVar

from argon2 import PasswordHasher

from mcpctl.actors.changes import ChangeFeed
from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.storage import Store, database_url
from mcpctl.actors.token_registry.callout import Callout
from mcpctl.actors.token_registry.login import Logins
from mcpctl.actors.token_registry.mcptokens import McpTokens
from mcpctl.actors.token_registry.passwords import Passwords
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.resolving import Resolving
from mcpctl.actors.token_registry.rows import BearerRow, Clock, Records, epoch_ms
from mcpctl.actors.token_registry.service_accounts import ServiceAccounts
from mcpctl.actors.token_registry.user_jwt import Signer
from mcpctl.actors.token_registry.users import Users
from mcpctl.bus.actor import Actor, Caller, event_of, handles
from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus, Publisher, connect_nats
from mcpctl.bus.contract import Changes, Message, PullChanges, Role
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.names import principal_label
from mcpctl.bus.nats_config import CALLOUT, ISSUER


class TokenRegistry(Actor):
    """Keeps users, service accounts and every bearer; of bearers and passwords only digests."""

    role: ClassVar[Role] = "token"
    audited: ClassVar[frozenset[str]] = frozenset(
        {
            "login",
            "logout",
            "bootstrap",
            "create_user",
            "edit_user",
            "delete_user",
            "create_service_account",
            "delete_service_account",
            "issue_service_account_token",
            "issue",
            "revoke",
            "revoke_project",
            "delete",
        }
    )

    def __init__(
        self, bus: Bus, settings: ActorSettings, *, clock: Clock = epoch_ms, hasher: PasswordHasher | None = None
    ) -> None:
        super().__init__(bus)
        self._settings, self._clock = settings, clock
        self._hasher = hasher or PasswordHasher()
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        settings = self._settings
        url = settings.database_url.get_secret_value() if settings.database_url else None
        store = Store("token", database_url("token", url, settings.data_dir))
        self._opened.push_async_callback(store.close)
        await store.open()
        publisher = await Publisher.connect(settings.nats_url, self.identity, self.bus.closed.set)
        self._opened.push_async_callback(publisher.close)
        self._changes = ChangeFeed(store, publisher, token.feed)
        await self._changes.open()
        self._records = Records(store, self._changes, self._clock)
        passwords = Passwords(self._hasher)
        self._opened.callback(passwords.close)
        ask, resolving = RbacCalls(self.bus), Resolving(self._records, self.bus)
        self.parts = (
            resolving,
            Logins(self._records, passwords, settings.bootstrap_file),
            Users(self._records, passwords, ask),
            ServiceAccounts(self._records, ask),
            McpTokens(self._records, ask, self.bus),
        )
        await self._open_callout(resolving)

    async def _open_callout(self, resolving: Resolving) -> None:
        settings = self._settings
        signer = Signer(self.identity.keys / f"{ISSUER}.nk")
        callout = Callout(resolving, signer, self._clock, anonymous_edge=settings.bus_anonymous_edge)
        client = await connect_nats(settings.nats_url, on_closed=self.bus.closed.set, **self.identity.options(CALLOUT))
        self._opened.push_async_callback(client.close)
        self._opened.push_async_callback(callout.close)
        await callout.serve(client)

    async def close(self) -> None:
        await self._opened.aclose()

    @handles(token.feed.pull)
    async def pull(self, request: PullChanges, _caller: Caller) -> Changes:
        return await self._changes.pull(request)

    async def who(self, request: Message, verdict: rbac.Verdict | None) -> dict[str, object]:
        """Name the user of a login, a logout and a bootstrap, too: nobody has granted these a right."""
        user: str | None = None
        if isinstance(request, token.Login | token.Bootstrap):
            user = request.user
        elif isinstance(request, token.Logout):
            sha = digest(request.bearer)
            row = await self._records.read(lambda session: session.get(BearerRow, sha))
            user = row.owner if row is not None else None
        if user is None:
            return event_of(verdict)
        return {"principal": principal_label("User", user), "user": user}
