"""What this router owns: the state of callers at servers with `isolation: session`, as the SessionGate granted it.

Owning hangs on a lease that the router keeps. By its own clock it ends a second before the SessionGate's does, so that
whoever takes over finds nobody else at it; what was owned is then dropped, and never comes back.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus, run_together
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts import session
from mcpctl.bus.contracts.session import ROUTER_LEASE, ClaimOwner, KeepRouter, Owner
from mcpctl.bus.errors import BusError, Forbidden, NotFound, Unauthenticated, Unavailable
from mcpctl.bus.feed import Follower, now
from mcpctl.bus.frames import Request

log = structlog.get_logger()

KEEP_EVERY, KEEP_SOON = 1.0, 0.2
"""Seconds from one `keep` to the next: usually, and after one that failed."""

HELD = ROUTER_LEASE - 1.0
"""Seconds from the sending of a `keep` for which the lease is believed: less than it lasts, or both sides overlap."""

FIRST_LEASE = 1.0
"""Seconds that a caller waits where the router has no lease (yet)."""

BELIEVED = 3600.0
"""Seconds after which a claim is asked for again, so that one in use is never let go as idle."""

LIMIT = 50_000
"""Callers whose claims are remembered; the oldest goes first, and its state with it."""

CLOSED = 10_000
"""Closed sessions remembered: a claim that was under way meanwhile counts for nothing."""

Concerns = Callable[[str], bool]
"""Tells whether a state is meant, by its name (`state_of`)."""


@dataclass(frozen=True, slots=True, repr=False)
class Claimed:
    """A claim of this router's own: believed until then, renewed on the authority of `bearer`."""

    bearer: str
    lost: bool
    until: float


def state_of(bearer_sha: str, session_key: str | None) -> str:
    """Name the state of a caller: by the bearer too, since a session's key is the gateway's word."""
    return f"{bearer_sha}:{session_key or ''}"


class Owners:
    """The lease of this router, and its claims while that runs.

    `on_lost` is told which states must be dropped: the lease has ended, or their session has. `in_use` is asked, by
    server and state, whether a claim that nobody asked for lately is still needed.
    """

    def __init__(self, bus: Bus, router: str) -> None:
        self.router = router
        self.on_lost: list[Callable[[Concerns], None]] = []
        self.in_use: list[Callable[[str, str], bool]] = []
        self._bus = bus
        self.sessions = Follower(bus, session.feed)
        self.sessions.on_change.append(self._session_changed)
        self.sessions.on_reset.append(self._believe_nothing)
        self._term, self._held_until = "", 0.0
        self._leased = asyncio.Event()
        self._keeping = asyncio.Lock()
        self._stopped = False
        self._expiry: asyncio.TimerHandle | None = None
        self._claims: dict[str, dict[tuple[str, str], Claimed]] = {}
        self._state_of_session: dict[str, str] = {}
        self._closed: dict[str, None] = {}

    @property
    def holds_lease(self) -> bool:
        """Whether the lease certainly runs still, by this process's own clock."""
        return self._term != "" and now() < self._held_until

    async def open(self) -> None:
        """Hear of sessions that are closed; `run` must be going for the lease to be kept."""
        await self.sessions.start()

    async def run(self) -> None:
        """For ever: keep the lease, follow the sessions, and renew claims that are in use."""
        try:
            await run_together(self._keep_on(), self.sessions.run(), self._renew_claims())
        finally:
            if self._expiry is not None:
                self._expiry.cancel()

    async def stop(self) -> None:
        """Give the lease up at once, so that others need not wait for its end. What is owned counts as lost."""
        self._stopped = True
        async with self._keeping:
            self._term = ""
            self._leased.clear()
            try:
                await self._bus.call(session.keep, KeepRouter(router=self.router, stopping=True))
            except BusError as error:
                log.info("lease not given up: it ends by itself", error=str(error))

    async def owner_of(self, head: Request, server: str) -> Owner:
        """Return who owns the state of a request's caller at a server: this router, where nobody else does.

        `fresh` is said until one caller here has been told, so that an answer that was lost on its way counts as none.
        Raises `NotFound` where the session is closed, and `Unavailable` where the lease cannot be kept.
        """
        await self._demand_lease()
        sha = digest(head.bearer)
        state, key = state_of(sha, head.session), (head.project, server)
        known = self._claims.get(state, {}).get(key)
        if known is not None and time.monotonic() < known.until:
            return Owner(router=self.router, lost=known.lost)
        return await self._claim(state, key, head.bearer, head.session)

    # --- the lease ---

    async def _demand_lease(self) -> None:
        self._lapse_if_due()
        if self.holds_lease:
            return
        try:
            async with asyncio.timeout(0 if self._stopped else FIRST_LEASE):
                await self._leased.wait()
        except TimeoutError:
            raise Unavailable(
                "this router cannot keep the state of a session now: the session actor does not answer it"
            ) from None

    async def _keep_on(self) -> None:
        while not self._stopped:
            kept = False
            try:
                kept = await self._keep()
            except BusError as error:
                log.warning("lease not kept", error=str(error))
            self._lapse_if_due()
            await asyncio.sleep(KEEP_EVERY if kept else KEEP_SOON)

    async def _keep(self) -> bool:
        """Ask for the lease once, and tell whether this router has it now. Raises `BusError`."""
        async with self._keeping:
            if self._stopped:
                return False
            asked, sent = self._term, now()
            term = (await self._bus.call(session.keep, KeepRouter(router=self.router, term=asked))).term
            if self._term != asked:
                return False  # it lapsed here meanwhile: what it held is dropped, so another term must begin
            if asked not in ("", term):
                self._lapse("the lease had ended")
            self._term, self._held_until = term, sent + HELD
            self._leased.set()
            if self._expiry is None:
                self._expire_later()
            return True

    def _expire_later(self) -> None:
        left = max(self._held_until - now(), 0.001)
        self._expiry = asyncio.get_running_loop().call_later(left, self._expire)

    def _expire(self) -> None:
        """Drop what is owned at the very end of the lease, also while a `keep` still waits for its answer."""
        self._expiry = None
        self._lapse_if_due()
        if self._term != "":
            self._expire_later()

    def _lapse_if_due(self) -> None:
        if self._term != "" and not self.holds_lease:
            self._lapse("the lease could not be kept")

    def _lapse(self, reason: str) -> None:
        if self._claims:
            log.warning("what this router owned is lost", reason=reason, callers=len(self._claims))
        self._term = ""
        self._leased.clear()
        self._claims.clear()
        self._state_of_session.clear()
        self._tell(lambda _: True)

    def _tell(self, concerns: Concerns) -> None:
        for lost in self.on_lost:
            lost(concerns)

    # --- the claims ---

    async def _claim(self, state: str, key: tuple[str, str], bearer: str, session_key: str | None) -> Owner:
        project, server = key
        term = self._term
        asked = ClaimOwner(
            bearer=bearer, router=self.router, term=term, project=project, server=server, session=session_key
        )
        try:
            owner = await self._bus.call(session.claim, asked)
        except NotFound:
            self._drop(state)
            raise
        if term != self._term or not self.holds_lease:
            raise Unavailable("the router's lease ended meanwhile: ask again")
        claims = self._claims.get(state, {})
        if owner.router != self.router:
            if key in claims:
                self._drop(state)
            return owner
        if session_key in self._closed:
            raise NotFound("no such session")
        fresh = owner.fresh or key not in claims
        self._remember(state, session_key)[key] = Claimed(bearer, owner.lost, time.monotonic() + BELIEVED)
        return Owner(router=self.router, fresh=fresh, lost=owner.lost)

    def _remember(self, state: str, session_key: str | None) -> dict[tuple[str, str], Claimed]:
        if state not in self._claims and len(self._claims) >= LIMIT:
            self._drop(next(iter(self._claims)))
        if session_key is not None:
            self._state_of_session[session_key] = state
        return self._claims.setdefault(state, {})

    def _drop(self, state: str) -> None:
        """Forget the claims of a caller, and have its state dropped."""
        if self._claims.pop(state, None) is not None:
            self._state_of_session.pop(state.partition(":")[2], None)
            self._tell(lambda each: each == state)

    async def _renew_claims(self) -> None:
        while True:
            await asyncio.sleep(BELIEVED / 6)
            due = time.monotonic()
            claims = [(state, *each) for state, held in self._claims.items() for each in held.items()]
            for state, key, claimed in claims:
                if claimed.until < due and self.holds_lease and any(used(key[1], state) for used in self.in_use):
                    await self._renew(state, key, claimed)

    async def _renew(self, state: str, key: tuple[str, str], claimed: Claimed) -> None:
        try:
            await self._claim(state, key, claimed.bearer, state.partition(":")[2] or None)
        except (Unauthenticated, Forbidden):
            self._drop(state)
        except BusError as error:
            log.info("claim not renewed", server=key[1], error=str(error))

    def _session_changed(self, change: Change) -> None:
        if change.kind != "session" or change.action not in ("removed", "revoked"):
            return
        self._closed[change.key] = None
        if len(self._closed) > CLOSED:
            del self._closed[next(iter(self._closed))]
        state = self._state_of_session.get(change.key)
        if state is not None:
            self._drop(state)

    def _believe_nothing(self) -> None:
        """Ask for each claim again: the session may have been closed unheard."""
        for held in self._claims.values():
            for key, claimed in held.items():
                held[key] = replace(claimed, until=0.0)
