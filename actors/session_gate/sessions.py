"""Opening, finding, changing and closing sessions.

A session's id is 256 random bits that only its client holds. The bucket has the id's SHA-256 as the key, so
whoever reads the bucket cannot enter a session. The bucket's stream sequences are the numbers of the change feed.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal
from weakref import WeakValueDictionary

from pydantic import ValidationError

from mcpctl.actors.session_gate.bucket import OPERATION, Bucket, Overtaken, is_removed, until_written
from mcpctl.actors.session_gate.recent_changes import RecentChanges
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus, Publisher
from mcpctl.bus.contract import Change, Changed, Changes, Done, PullChanges
from mcpctl.bus.contracts import gate, session, token
from mcpctl.bus.contracts.session import FoundSession, Session
from mcpctl.bus.deliveries import Stored
from mcpctl.bus.errors import Conflict, Forbidden, NotFound, Unavailable

ACTION = "Mcpctl-Action"

DEPOSED = 1.5
"""Seconds after which a server that led the bucket, and stood still meanwhile, knows that another one does."""

REFRESH_SECONDS = 6 * 3600
"""What is in use is written again at this age, or the bucket would let it go as idle."""

Action = Literal["created", "changed", "removed", "revoked"]


class Sessions:
    """The sessions in their bucket.

    `on_closed` is told the key of each that is closed here, `on_changed` each that is written again.
    """

    def __init__(self, bus: Bus, bucket: Bucket, recent: RecentChanges, publisher: Publisher) -> None:
        self.on_closed: list[Callable[[str], Coroutine[Any, Any, None]]] = []
        self.on_changed: list[Callable[[Session], Coroutine[Any, Any, None]]] = []
        self._bus, self._bucket, self._recent, self._publisher = bus, bucket, recent, publisher
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @handles(session.open_session)
    async def open_session(self, request: session.OpenSession, _caller: Caller) -> session.OpenedSession:
        principal = await principal_in(self._bus, request.bearer, request.project)
        session_id = secrets.token_urlsafe(32)
        opened = Session(
            key=_key(session_id),
            owner=principal.sha,
            project=request.project,
            server=request.server,
            version=request.version,
            client_info=request.client_info,
            capabilities=request.capabilities,
        )
        epoch = self._epoch()
        seq = await self._write(opened, "created", after=0)
        return session.OpenedSession(id=session_id, epoch=epoch, seq=seq, session=opened)

    @handles(session.find)
    async def find(self, request: session.FindSession, _caller: Caller) -> FoundSession:
        stored, found = await self._find(_key(request.id), request.bearer)
        if not is_old(stored):
            return found
        try:
            seq = await self._write(found.session, "changed", after=stored.seq)
        except Overtaken:
            raise Unavailable("the session is being changed: ask again") from None
        return found.model_copy(update={"seq": seq})

    @handles(session.set_log_level)
    async def set_log_level(self, request: session.SetLogLevel, _caller: Caller) -> Done:
        await self._change(
            request.id, request.bearer, lambda found: found.model_copy(update={"log_level": request.level})
        )
        return Done()

    @handles(session.set_subscription)
    async def set_subscription(self, request: session.SetSubscription, _caller: Caller) -> FoundSession:
        return await self._change(
            request.id, request.bearer, lambda found: _subscribed(found, request.uri, wanted=request.subscribed)
        )

    @handles(session.take_stream)
    async def take_stream(self, request: session.TakeStream, caller: Caller) -> FoundSession:
        def taken(found: Session) -> Session:
            return found.model_copy(update={"stream": caller.name, "stream_number": found.stream_number + 1})

        return await self._change(request.id, request.bearer, taken)

    @handles(session.close)
    async def close_session(self, request: session.CloseSession, _caller: Caller) -> Done:
        key = _key(request.id)

        async def attempt() -> None:
            stored, found = await self._read(key, request.bearer)
            await self._write(found, "removed", after=stored.seq)

        async with self._turn(key):
            await until_written(attempt)
        await self._publisher.flush()  # the client may ask another gateway next, which must know by then
        for tell in self.on_closed:
            self._bus.tasks.start(tell(key))
        return Done()

    @handles(session.feed.pull)
    async def changes(self, request: PullChanges, _caller: Caller) -> Changes:
        held = await self._bucket.state()
        # Asked first, so that a replica which lags behind cannot vouch for what it has not seen.
        await self._recent.reach(held.created, held.last)
        return self._recent.since(request)

    async def by_key(self, key: str, bearer: str) -> Session:
        """Return a session of this bearer by its key. Raises `NotFound`, `Unavailable`."""
        return (await self._read(key, bearer))[1]

    def _epoch(self) -> str:
        if not self._recent.epoch:
            raise Unavailable("the bucket of sessions has not been read yet")
        return self._recent.epoch

    async def _change(self, session_id: str, bearer: str, change: Callable[[Session], Session]) -> FoundSession:
        """Write what `change` makes of a session; nothing where it returns the same object.

        Raises `NotFound`, `Unavailable` and what `change` raises.
        """
        key = _key(session_id)

        async def attempt() -> FoundSession:
            stored, found = await self._find(key, bearer)
            changed = change(found.session)
            if changed is found.session:
                return found
            seq = await self._write(changed, "changed", after=stored.seq)
            return FoundSession(epoch=found.epoch, seq=seq, session=changed)

        async with self._turn(key):
            return await until_written(attempt)

    def _turn(self, key: str) -> asyncio.Lock:
        """Return the lock for changes of a session: within one replica they wait, and do not overtake each other."""
        return self._turns.setdefault(key, asyncio.Lock())

    async def _find(self, key: str, bearer: str) -> tuple[Stored, FoundSession]:
        held = await self._bucket.state()
        stored, found = await self._read(key, bearer)
        seq = max(held.last, stored.seq)  # read after that number was asked, so at least as new
        return stored, FoundSession(epoch=held.created, seq=seq, session=found)

    async def _read(self, key: str, bearer: str) -> tuple[Stored, Session]:
        """Return a session from the bucket itself. Raises `NotFound`, the same for every reason."""
        known = self._recent.latest(key)
        stored = await self._bucket.last(key)
        if stored is None and known:
            await asyncio.sleep(DEPOSED)
            stored = await self._bucket.last(key)
        if stored is None:
            raise NotFound("no such session")
        if stored.seq < known:
            raise Unavailable("the bucket of sessions was read from a server that lags behind")
        if is_removed(stored):
            raise NotFound("no such session")
        try:
            found = Session.model_validate_json(stored.data)
        except ValidationError:
            raise NotFound("no such session") from None
        if not hmac.compare_digest(found.owner, digest(bearer)):
            raise NotFound("no such session")
        return stored, found

    async def _write(self, changed: Session, action: Action, *, after: int) -> int:
        """Write a session (or its removal) if nobody did so since `after`, tell the followers, return its number."""
        gone = action == "removed"
        headers = {ACTION: action} | ({OPERATION: "DEL"} if gone else {})
        data = b"" if gone else changed.model_dump_json().encode()
        epoch = self._epoch()
        seq = await self._bucket.put(changed.key, data, headers, after=after)
        change = Change(seq=seq, kind="session", key=changed.key, action=action)
        await self._publisher.publish(session.feed.changed, Changed(epoch=epoch, change=change))
        for tell in self.on_changed if action == "changed" else ():
            self._bus.tasks.start(tell(changed))
        return seq


async def principal_in(bus: Bus, bearer: str, project: str) -> token.Principal:
    """Return whom a bearer stands for. Raises `Unauthenticated`, and `Forbidden` for a token of another project."""
    principal = (await bus.call(token.resolve, token.ResolveBearer(bearer=bearer))).principal
    if principal.kind == "McpToken" and principal.project != project:
        raise Forbidden(f"no access to project {project}")
    return principal


def is_old(stored: Stored) -> bool:
    """Tell whether what is in use should be written again."""
    return stored.at > 0 and time.time() - stored.at / 1e9 > REFRESH_SECONDS


def change_of(stored: Stored, key: str) -> Change:
    """Return the change that a message of the bucket stands for: of a session, or of a passage through a gate."""
    action: Action = "changed"
    if is_removed(stored):
        action = "removed"
    elif stored.headers.get(ACTION) == "created":
        action = "created"
    of_gate = key.removeprefix(f"{gate.KIND}.")
    kind = "session" if of_gate == key else gate.KIND
    return Change(seq=stored.seq, kind=kind, key=of_gate, action=action)


def _subscribed(found: Session, uri: str, *, wanted: bool) -> Session:
    """Return the session with (or without) a subscription: the same object where it is so already."""
    if (uri in found.subscriptions) == wanted:
        return found
    if not wanted:
        left = tuple(each for each in found.subscriptions if each != uri)
        return found.model_copy(update={"subscriptions": left})
    if len(found.subscriptions) >= session.MAX_SUBSCRIPTIONS:
        raise Conflict(
            f"the session has {session.MAX_SUBSCRIPTIONS} subscriptions, and cannot have more: unsubscribe from one"
        )
    subscriptions = (*found.subscriptions, uri)
    if sum(len(each.encode()) for each in subscriptions) > session.MAX_SUBSCRIPTION_BYTES:
        raise Conflict(
            f"the URIs of the session's subscriptions would be longer than {session.MAX_SUBSCRIPTION_BYTES} bytes "
            "together: unsubscribe from one"
        )
    return found.model_copy(update={"subscriptions": subscriptions})


def _key(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
