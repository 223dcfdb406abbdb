"""The SessionGate actor: sessions of legacy MCP clients, in a JetStream bucket.

A session's id is 256 random bits that only its client holds. The bucket has the id's SHA-256 as the key, so
whoever reads the bucket cannot enter a session. The bucket's stream sequences are the numbers of the change feed.
"""

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import deque
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Literal

import structlog
from pydantic import ValidationError

from mcpctl.actors.settings import ActorSettings
from mcpctl.bus.actor import Actor, Caller, handles
from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus, Publisher, cancel
from mcpctl.bus.contract import Change, Changed, Changes, Done, PullChanges
from mcpctl.bus.contracts import session, token
from mcpctl.bus.deliveries import Stored
from mcpctl.bus.errors import BusError, Conflict, Forbidden, NotFound, Unavailable
from mcpctl.bus.permissions import SESSIONS_BUCKET
from mcpctl.bus.streams import Streams

log = structlog.get_logger()

STREAM = f"KV_{SESSIONS_BUCKET}"
SUBJECT = f"$KV.{SESSIONS_BUCKET}."

OPERATION = "KV-Operation"
ACTION = "Mcpctl-Action"

REMEMBERED = 10_000
"""Changes kept to answer pulls; a follower that missed more starts afresh."""

CATCH_UP = 0.7
"""Seconds for which a pull waits until this replica has seen what the bucket holds."""

REFRESH_SECONDS = 6 * 3600
"""A session in use is written again at this age, or the bucket would let it go as idle."""

ATTEMPTS = 5
"""Times a write is tried that others overtake."""

Action = Literal["created", "changed", "removed", "revoked"]


class RecentChanges:
    """The bucket's latest changes, complete from `base` to `seq` of its stream."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self.epoch, self.base, self.seq = "", 0, 0
        self._limit = limit
        self._changes: deque[Change] = deque()
        self._latest: dict[str, int] = {}
        self._moved = asyncio.Event()

    def begin(self, epoch: str, seq: int) -> None:
        """Forget all, and go on from `seq` of a bucket."""
        self.epoch, self.base, self.seq = epoch, seq, seq
        self._changes.clear()
        self._latest.clear()
        self._wake()

    def take(self, change: Change) -> None:
        """Add the next change of the stream."""
        self._changes.append(change)
        self._latest[change.key] = change.seq
        self.seq = change.seq
        if len(self._changes) > self._limit:
            oldest = self._changes.popleft()
            self.base = oldest.seq
            if self._latest[oldest.key] == oldest.seq:
                del self._latest[oldest.key]
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def latest(self, key: str) -> int:
        """Return the number of the latest change of a session, 0 where none is remembered."""
        return self._latest.get(key, 0)

    async def reach(self, epoch: str, seq: int) -> None:
        """Return when `seq` has been seen. Raises `Unavailable` where that takes too long."""
        try:
            async with asyncio.timeout(CATCH_UP):
                while self.epoch != epoch or self.seq < seq:
                    await self._moved.wait()
        except TimeoutError:
            raise Unavailable("this replica has not seen all changes of the sessions yet") from None

    def since(self, asked: PullChanges) -> Changes:
        """Answer a pull."""
        if asked.epoch != self.epoch or not self.base <= asked.seq <= self.seq:
            return Changes(epoch=self.epoch, seq=self.seq, reset=True)
        missed = []
        for change in reversed(self._changes):
            if change.seq <= asked.seq:
                break
            missed.append(change)
        return Changes(epoch=self.epoch, seq=self.seq, changes=tuple(reversed(missed)))


class SessionGate(Actor):
    """Opens, finds and closes the sessions of legacy MCP clients."""

    role = "session"

    def __init__(self, bus: Bus, settings: ActorSettings) -> None:
        super().__init__(bus)
        self._url = settings.nats_url
        self._recent = RecentChanges()
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        """Connect to STREAMS and EVENTS, and begin to watch the bucket. Raises `Unavailable`."""
        self._streams = await Streams.connect(self._url, self.identity, self.bus.closed.set)
        self.service.checks[f"JetStream {STREAM}"] = partial(self._streams.health, STREAM)
        self._opened.push_async_callback(self._streams.close)
        self._publisher = await Publisher.connect(self._url, self.identity, self.bus.closed.set)
        self._opened.push_async_callback(self._publisher.close)
        watching = asyncio.create_task(self._watch())
        watching.add_done_callback(self._watch_ended)
        self._opened.push_async_callback(cancel, watching)

    async def close(self) -> None:
        await self._opened.aclose()

    @handles(session.open_session)
    async def open_session(self, request: session.OpenSession, _caller: Caller) -> session.OpenedSession:
        resolved = await self.bus.call(token.resolve, token.ResolveBearer(bearer=request.bearer))
        if resolved.principal.kind == "McpToken" and resolved.principal.project != request.project:
            raise Forbidden(f"no access to project {request.project}")
        session_id = secrets.token_urlsafe(32)
        opened = session.Session(
            key=_key(session_id),
            owner=resolved.principal.sha,
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
    async def find(self, request: session.FindSession, _caller: Caller) -> session.FoundSession:
        held = await self._streams.state(STREAM)
        stored, found = await self._read(request.id, request.bearer)
        seq = max(held.last, stored.seq)  # read after that number was asked, so at least as new
        if stored.at and time.time() - stored.at / 1e9 > REFRESH_SECONDS:
            try:
                seq = await self._write(found, "changed", after=stored.seq)
            except Conflict:
                raise Unavailable("the session is being changed: ask again") from None
        return session.FoundSession(epoch=held.created, seq=seq, session=found)

    @handles(session.set_log_level)
    async def set_log_level(self, request: session.SetLogLevel, _caller: Caller) -> Done:
        for _ in range(ATTEMPTS):
            stored, found = await self._read(request.id, request.bearer)
            try:
                await self._write(found.model_copy(update={"log_level": request.level}), "changed", after=stored.seq)
            except Conflict:
                continue
            return Done()
        raise Conflict("the session is being changed by others: ask again")

    @handles(session.close)
    async def close_session(self, request: session.CloseSession, _caller: Caller) -> Done:
        for _ in range(ATTEMPTS):
            stored, found = await self._read(request.id, request.bearer)
            try:
                await self._write(found, "removed", after=stored.seq)
            except Conflict:
                continue
            return Done()
        raise Conflict("the session is being changed by others: ask again")

    @handles(session.feed.pull)
    async def changes(self, request: PullChanges, _caller: Caller) -> Changes:
        held = await self._streams.state(STREAM)
        # Asked first, so that a replica which lags behind cannot vouch for what it has not seen.
        await self._recent.reach(held.created, held.last)
        return self._recent.since(request)

    def _epoch(self) -> str:
        if not self._recent.epoch:
            raise Unavailable("the bucket of sessions has not been read yet")
        return self._recent.epoch

    async def _read(self, session_id: str, bearer: str) -> tuple[Stored, session.Session]:
        """Return a session from the bucket itself. Raises `NotFound`, the same for every reason."""
        key = _key(session_id)
        known = self._recent.latest(key)
        try:
            stored = await self._streams.last(STREAM, SUBJECT + key)
        except NotFound:
            raise NotFound("no such session") from None
        if stored.seq < known:
            raise Unavailable("the bucket of sessions was read from a server that lags behind")
        if stored.headers.get(OPERATION):
            raise NotFound("no such session")
        try:
            found = session.Session.model_validate_json(stored.data)
        except ValidationError:
            raise NotFound("no such session") from None
        if not hmac.compare_digest(found.owner, digest(bearer)):
            raise NotFound("no such session")
        return stored, found

    async def _write(self, changed: session.Session, action: Action, *, after: int) -> int:
        """Write a session (or its removal) if nobody did so since `after`, tell the followers, return its number."""
        gone = action == "removed"
        headers = {ACTION: action} | ({OPERATION: "DEL"} if gone else {})
        data = b"" if gone else changed.model_dump_json().encode()
        epoch = self._epoch()
        seq = await self._streams.put(SUBJECT + changed.key, data, headers, after=after)
        change = Change(seq=seq, kind="session", key=changed.key, action=action)
        await self._publisher.publish(session.feed.changed, Changed(epoch=epoch, change=change))
        return seq

    async def _watch(self) -> None:
        while True:
            try:
                await self._follow_bucket()
            except BusError as error:
                log.info("bucket of sessions not watched, trying again", error=str(error))
            await asyncio.sleep(0.1)

    async def _follow_bucket(self) -> None:
        held = await self._streams.state(STREAM)
        if held.created != self._recent.epoch or held.last < self._recent.seq:
            self._recent.begin(held.created, held.last)
        name = f"watch-{secrets.token_hex(8)}"
        following = self._streams.follow(STREAM, f"{SUBJECT}>", name, self._recent.seq + 1)
        async with aclosing(following):
            async for stored in following:
                self._recent.take(_change(stored))

    def _watch_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            log.error("bucket of sessions is not watched any more", exc_info=task.exception())
            self.bus.closed.set()


def _key(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()


def _change(stored: Stored) -> Change:
    action: Action = "changed"
    if stored.headers.get(OPERATION):
        action = "removed"
    elif stored.headers.get(ACTION) == "created":
        action = "created"
    return Change(seq=stored.seq, kind="session", key=stored.subject.removeprefix(SUBJECT), action=action)
