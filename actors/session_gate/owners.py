"""Which router owns a caller's state at a server with `isolation: session`.

A router keeps a lease; what it owns are claims, which name the lease's term. A lease that has ended never comes back:
the next one has another term, so a claim of an older term is dead for good, whoever looks. All is written by
compare-and-set, and of a dead claim only the last revision can be taken over: one wins.
"""

import hashlib
import secrets

import structlog

from mcpctl.actors.session_gate.bucket import Bucket, is_removed, until_written
from mcpctl.actors.session_gate.sessions import Sessions, is_old, principal_in
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Message
from mcpctl.bus.contracts import session
from mcpctl.bus.contracts.session import ROUTER_LEASE, ClaimOwner, Kept, Owner
from mcpctl.bus.deliveries import Stored
from mcpctl.bus.errors import BusError, Forbidden, NotFound, Unavailable
from mcpctl.bus.identity import router_id, site_of

log = structlog.get_logger()

BEARER_IDLE_SECONDS = 24 * 3600
"""A claim without a session is let go when it has not been used for so long."""

SESSION_IDLE_SECONDS = 48 * 3600
"""A session's claim lasts longer than an idle session; one that is closed takes its claims with it."""


class Claim(Message):
    """What the bucket has: the owner, its lease's term, the lease's revision then, and whether state was lost."""

    router: str
    term: str
    lease: int
    lost: bool


class Owners:
    """Leases and claims in their bucket."""

    def __init__(self, bus: Bus, bucket: Bucket, sessions: Sessions) -> None:
        self._bus, self._bucket, self._sessions = bus, bucket, sessions

    @handles(session.keep)
    async def keep(self, request: session.KeepRouter, caller: Caller) -> Kept:
        _demand_own(request.router, caller)
        key = _lease_key(request.router)

        async def attempt() -> Kept:
            lease = await self._bucket.last(key)
            after = lease.seq if lease is not None else 0
            if request.stopping:
                await self._bucket.remove(key, after=after, ttl=ROUTER_LEASE)
                return Kept(term="")
            goes_on = request.term != "" and request.term == _term(lease)
            term = request.term if goes_on else secrets.token_hex(8)
            await self._bucket.put(key, term.encode(), after=after, ttl=ROUTER_LEASE)
            return Kept(term=term)

        return await until_written(attempt)

    @handles(session.claim)
    async def claim(self, request: ClaimOwner, caller: Caller) -> Owner:
        _demand_own(request.router, caller)
        await principal_in(self._bus, request.bearer, request.project)
        await self._demand_session(request)
        key = _claim_key(request, site_of(caller.name))
        owner = await until_written(lambda: self._claim(request, key))
        if owner.fresh:
            await self._take_back_if_closed(request)
        return owner

    async def forget(self, session_key: str) -> None:
        """Remove the claims of a session that is closed."""
        try:
            await self._bucket.purge(f"session.{session_key}.*")
        except BusError as error:
            log.info("claims of a closed session are left to end by themselves", error=str(error))

    async def _claim(self, request: ClaimOwner, key: str) -> Owner:
        """Try once. Raises `Overtaken` where another was faster."""
        lease = await self._bucket.last(_lease_key(request.router))
        if lease is None or not request.term or request.term != _term(lease):
            raise Unavailable(f"router {request.router} has no such lease: it must keep one before it can own anything")
        stored = await self._bucket.last(key)
        held = None if stored is None else Claim.model_validate_json(stored.data)
        if stored is not None and held is not None and await self._is_alive(held):
            owner = Owner(router=held.router, lost=held.lost)
            if held.router != request.router or not is_old(stored):
                return owner
        else:
            owner = Owner(router=request.router, fresh=True, lost=held is not None)
        claim = Claim(router=request.router, term=request.term, lease=lease.seq, lost=owner.lost)
        after = stored.seq if stored is not None else 0
        ttl = BEARER_IDLE_SECONDS if request.session is None else SESSION_IDLE_SECONDS
        await self._bucket.put(key, claim.model_dump_json().encode(), after=after, ttl=ttl)
        return owner

    async def _is_alive(self, claim: Claim) -> bool:
        """Tell whether the lease under which a claim was made still runs. Raises `Overtaken`, `Unavailable`."""
        key = _lease_key(claim.router)
        lease = await self._bucket.last(key)
        if lease is None:
            # That nothing is there is no proof, where it was read from a server that lags behind: the mark is
            # written only where it is true, and no older lease can be renewed after it.
            await self._bucket.remove(key, after=0, ttl=ROUTER_LEASE)
            return False
        if lease.seq < claim.lease:
            raise Unavailable("the bucket of owners was read from a server that lags behind")
        return _term(lease) == claim.term

    async def _demand_session(self, request: ClaimOwner) -> None:
        """Raise `NotFound` where the claim is for a session that the bearer does not have at this endpoint."""
        if request.session is None:
            return
        found = await self._sessions.by_key(request.session, request.bearer)
        if found.project != request.project or found.server not in (None, request.server):
            raise NotFound("no such session")

    async def _take_back_if_closed(self, request: ClaimOwner) -> None:
        """Raise `NotFound` where the session was closed meanwhile: its claims were removed before this one was made."""
        try:
            await self._demand_session(request)
        except NotFound:
            if request.session is not None:
                await self.forget(request.session)
            raise


def _demand_own(router: str, caller: Caller) -> None:
    """Raise `Forbidden` where a router of a site speaks for another: its id follows from the name of its connection."""
    if site_of(caller.name) and router != router_id(caller.name):
        raise Forbidden(f"router {router} is another one")


def _term(lease: Stored | None) -> str:
    """Return the term of a lease that runs, else an empty text."""
    return "" if lease is None or is_removed(lease) else lease.data.decode()


def _lease_key(router: str) -> str:
    return f"lease.{router}"


def _claim_key(request: ClaimOwner, site: str) -> str:
    """Return the key of a claim: behind what it ends with, a digest of all that it is for.

    A site has claims of its own: its routers cannot draw calls to themselves that are not for it.
    """
    sha = digest(request.bearer)
    parts = (request.project, request.server, sha, request.session or "", *([site] if site else ()))
    what = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"bearer.{sha}.{what}" if request.session is None else f"session.{request.session}.{what}"
