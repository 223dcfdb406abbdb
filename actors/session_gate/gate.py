"""The SessionGate: its parts, put together, and its watch over the bucket of sessions."""

import asyncio
import secrets
from contextlib import AsyncExitStack, aclosing

import structlog

from mcpctl.actors.session_gate.bucket import Bucket
from mcpctl.actors.session_gate.endings import Endings
from mcpctl.actors.session_gate.gates import Gates
from mcpctl.actors.session_gate.owners import Owners
from mcpctl.actors.session_gate.passages import Passages
from mcpctl.actors.session_gate.recent_changes import RecentChanges
from mcpctl.actors.session_gate.sessions import Sessions, change_of
from mcpctl.actors.settings import ActorSettings
from mcpctl.bus.actor import Actor
from mcpctl.bus.connection import Bus, Publisher, cancel
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError
from mcpctl.bus.feed import Follower
from mcpctl.bus.permissions import OWNERS_BUCKET, SESSIONS_BUCKET
from mcpctl.bus.streams import Streams

log = structlog.get_logger()


class SessionGate(Actor):
    """Keeps the sessions of legacy MCP clients, which router owns their state, and who is through a project's gate."""

    role = "session"
    audited = frozenset({"close_gate"})

    def __init__(self, bus: Bus, settings: ActorSettings) -> None:
        super().__init__(bus)
        self._url, self._ungate_ttl_ms = settings.nats_url, settings.token_ungate_ttl_ms
        self._recent = RecentChanges()
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        """Connect to STREAMS and EVENTS, and begin to watch the bucket. Raises `Unavailable`."""
        streams = await Streams.connect(self._url, self.identity, self.bus.closed.set)
        self._opened.push_async_callback(streams.close)
        publisher = await Publisher.connect(self._url, self.identity, self.bus.closed.set)
        self._opened.push_async_callback(publisher.close)
        self._bucket, claims = Bucket(streams, SESSIONS_BUCKET), Bucket(streams, OWNERS_BUCKET)
        for bucket in (self._bucket, claims):
            bucket.watch_health(self.service)
        sessions = Sessions(self.bus, self._bucket, self._recent, publisher)
        owners = Owners(self.bus, claims, sessions)
        passages = Passages(self._bucket, self._recent, publisher)
        endings = Endings(passages, self.bus.tasks)
        self._opened.callback(endings.close)
        gates = Gates(self.bus, passages, endings, sessions, self._ungate_ttl_ms)
        sessions.on_closed += [owners.forget, endings.forget_session]
        sessions.on_changed.append(gates.keep_session)
        self.parts = (sessions, owners, gates)
        tokens = Follower(self.bus, token.feed)
        tokens.on_change.append(endings.token_changed)
        await tokens.start()
        for work in (self._watch(), tokens.run(), endings.run()):
            running = asyncio.create_task(work)
            running.add_done_callback(self._work_ended)
            self._opened.push_async_callback(cancel, running)

    async def close(self) -> None:
        await self._opened.aclose()

    async def _watch(self) -> None:
        while True:
            try:
                await self._follow_bucket()
            except BusError as error:
                log.info("bucket of sessions not watched, trying again", error=str(error))
            await asyncio.sleep(0.1)

    async def _follow_bucket(self) -> None:
        held = await self._bucket.state()
        if held.created != self._recent.epoch or held.last < self._recent.seq:
            self._recent.begin(held.created, held.last)
        name = f"watch-{secrets.token_hex(8)}"
        subject = self._bucket.subject
        following = self._bucket.streams.follow(self._bucket.stream, f"{subject}>", name, self._recent.seq + 1)
        async with aclosing(following):
            async for stored in following:
                self._recent.take(change_of(stored, stored.subject.removeprefix(subject)))

    def _work_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            log.error("bucket of sessions or feed of tokens not followed any more", exc_info=task.exception())
            self.bus.closed.set()
