"""The TokenRegistry: its parts, put together."""

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, ClassVar

from argon2 import PasswordHasher

from mcpctl.actors.changes import ChangeFeed
from mcpctl.actors.leases import Leases
from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.storage import Store, database_url
from mcpctl.actors.token_registry.applying import Applying
from mcpctl.actors.token_registry.applying_tokens import ApplyingTokens
from mcpctl.actors.token_registry.backup import Backups
from mcpctl.actors.token_registry.bootstrap import Bootstrap
from mcpctl.actors.token_registry.by_id import ById
from mcpctl.actors.token_registry.callout import Callout
from mcpctl.actors.token_registry.connections import Connections
from mcpctl.actors.token_registry.demands import Guarded
from mcpctl.actors.token_registry.finding import Finding
from mcpctl.actors.token_registry.groups import Groups
from mcpctl.actors.token_registry.introspection import Introspecting
from mcpctl.actors.token_registry.issuing import Binder, Issuing
from mcpctl.actors.token_registry.lifetimes import Terms
from mcpctl.actors.token_registry.login import Logins
from mcpctl.actors.token_registry.mcptokens import McpTokens
from mcpctl.actors.token_registry.notes import Notes
from mcpctl.actors.token_registry.passwords import Passwords, Throttle
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.resolving import Resolving
from mcpctl.actors.token_registry.rotation import Rotation
from mcpctl.actors.token_registry.rows import BearerRow, Clock, Records, epoch_ms
from mcpctl.actors.token_registry.service_accounts import ServiceAccounts
from mcpctl.actors.token_registry.user_jwt import Signer
from mcpctl.actors.token_registry.users import Users
from mcpctl.actors.token_registry.uses import Uses
from mcpctl.bus.actor import Actor, Caller, event_of, handles
from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus, Publisher, cancel, connect_nats
from mcpctl.bus.contract import Changes, GetReceipt, Message, PullChanges, Receipt, Role
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.names import principal_label
from mcpctl.bus.nats_config import CALLOUT, ISSUER
from mcpctl.bus.server_connections import ServerConnections

if TYPE_CHECKING:
    from mcpctl.actors.token_registry.pod_tokens import PodTokens


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
            "create_group",
            "edit_group",
            "delete_group",
            "create_service_account",
            "edit_service_account",
            "delete_service_account",
            "issue_service_account_token",
            "revoke_service_account_token",
            "issue",
            "revoke",
            "rotate",
            "revoke_project",
            "delete",
            "backup",
            "restore",
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
        await store.open_patiently()
        self.service.checks["database"] = store.health
        self.needs["database"] = store.reachable
        publisher = await Publisher.connect(settings.nats_url, self.identity, self.bus.closed.set)
        self._opened.push_async_callback(publisher.close)
        leases = Leases(self.role, url, settings.data_dir)
        self._opened.push_async_callback(leases.close)
        self._changes = ChangeFeed(store, publisher, token.feed, leases)
        await self._changes.open()
        self._records = Records(store, self._changes, self._clock)
        passwords, throttle = Passwords(self._hasher), Throttle()
        self._opened.callback(passwords.close)
        ask, terms, notes = RbacCalls(self.bus), Terms(self.bus), Notes(self.audit)
        uses = Uses(self._records, self.bus)
        self._resolving = resolving = Resolving(self._records, uses)
        guarded = Guarded(self._records, ask)
        binder = Binder(self._records, ask, self.bus)
        self.parts = (
            resolving,
            uses,
            Logins(self._records, passwords, throttle),
            Bootstrap(self._records, passwords, throttle, settings.bootstrap_file),
            Users(self._records, passwords, guarded, ask),
            Groups(self._records, guarded, ask),
            ServiceAccounts(self._records, guarded, ask),
            McpTokens(self._records, ask),
            ById(self._records, resolving, ask, notes),
            Issuing(self._records, ask, binder, terms),
            Rotation(self._records, ask, binder, terms),
            Introspecting(self._records, resolving, ask),
            Finding(self._records, ask),
            Applying(self._records, guarded, resolving, ask, notes),
            ApplyingTokens(self._records, guarded, resolving, ask, binder, terms, notes),
            Backups(self._records),
        )
        await self._open_callout(resolving)

    async def _open_callout(self, resolving: Resolving) -> None:
        settings = self._settings
        signer = Signer(self.identity.keys / f"{ISSUER}.nk")
        pods = self._pods()
        callout = Callout(resolving, signer, self._clock, pods, anonymous_edge=settings.bus_anonymous_edge)
        client = await connect_nats(settings.nats_url, on_closed=self.bus.closed.set, **self.identity.options(CALLOUT))
        self._opened.push_async_callback(client.close)
        self._opened.push_async_callback(callout.close)
        await callout.serve(client)
        servers = await ServerConnections.connect(settings.nats_url, self.identity, self.bus.closed.set)
        self._opened.push_async_callback(servers.close)
        connections = Connections(self._records, servers, self.bus, self.audit.append_later)
        self._changes.on_written.append(connections.look)
        ending = asyncio.create_task(connections.run())
        self._opened.push_async_callback(cancel, ending)

    def _pods(self) -> "PodTokens | None":
        of = self._settings
        if of.pod_issuer is None:
            return None
        from mcpctl.actors.token_registry.pod_tokens import PodTokens, Trusted  # noqa: PLC0415 - 0.1 s, for pods alone

        ca, bearer = of.pod_issuer_ca, of.pod_issuer_token_file
        return PodTokens(Trusted(of.pod_issuer, of.pod_audience, of.pod_accounts, ca, bearer), self._clock)

    async def close(self) -> None:
        await self._opened.aclose()

    @handles(token.feed.pull)
    async def pull(self, request: PullChanges, caller: Caller) -> Changes:
        return await self._changes.pull(request, caller.name)

    @handles(token.feed.receipt)
    async def receipt(self, request: GetReceipt, _caller: Caller) -> Receipt:
        await self._resolving.find(request.bearer)
        return await self._changes.receipt(request)

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
