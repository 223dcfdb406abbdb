"""Legacy sessions as the SessionGate keeps them, cached under the lease of its feed."""

from mcpctl.bus.bearer import digest
from mcpctl.bus.cache import LeasedCache, Loaded
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts import session
from mcpctl.bus.errors import NotFound
from mcpctl.bus.feed import Follower

KEPT_SECONDS = 3600.0


class Sessions:
    """Any gateway serves any session: this is one gateway's view of all of them."""

    def __init__(self, bus: Bus) -> None:
        self.follower = Follower(bus, session.feed)
        self._bus = bus
        self._cache: LeasedCache[str, session.Session] = LeasedCache(
            self.follower,
            self._find,
            concerns=lambda _, found, change: change.kind == "session" and found.key == change.key,
        )
        self.follower.on_change.append(self._changed)

    @property
    def count(self) -> int:
        """How many are cached."""
        return self._cache.count

    def _changed(self, change: Change) -> None:
        if change.kind == "session" and change.action != "created":
            self._drop(change.key)

    def _drop(self, key: str) -> None:
        self._cache.drop(lambda _, kept: kept.key == key)

    async def open(self, asked: session.OpenSession) -> str:
        """Open a session and return its id. Raises `BusError`."""
        return (await self._bus.call(session.open_session, asked)).id

    async def find(self, session_id: str, bearer: str, project: str, server: str | None) -> session.Session:
        """Return the session of this bearer at this endpoint. Raises `NotFound`, `Unavailable`."""
        found = self._cache.peek(session_id) or await self._cache.get(session_id, bearer)
        if found.owner != digest(bearer) or (found.project, found.server) != (project, server):
            raise NotFound("no such session")
        return found

    async def close(self, session_id: str, bearer: str) -> None:
        """Close a session, here and on every replica. Raises `NotFound`, `Unavailable`."""
        found = self._cache.peek(session_id)
        await self._bus.call(session.close, session.CloseSession(bearer=bearer, id=session_id))
        if found is not None:
            self._drop(found.key)

    async def set_log_level(self, session_id: str, bearer: str, level: str) -> None:
        """Remember a session's log level. Raises `NotFound`, `BadRequest`, `Unavailable`."""
        found = self._cache.peek(session_id)
        asked = session.SetLogLevel(bearer=bearer, id=session_id, level=level)
        await self._bus.call(session.set_log_level, asked)
        if found is not None:
            self._drop(found.key)

    async def set_subscription(self, session_id: str, bearer: str, uri: str, *, subscribed: bool) -> session.Session:
        """Remember (or forget) a subscription. Raises `NotFound`, `BadRequest`, `Unavailable`."""
        asked = session.SetSubscription(bearer=bearer, id=session_id, uri=uri, subscribed=subscribed)
        found = (await self._bus.call(session.set_subscription, asked)).session
        self._drop(found.key)
        return found

    async def take_stream(self, session_id: str, bearer: str) -> session.FoundSession:
        """Make this gateway the one that holds the session's stream. Raises `NotFound`, `Unavailable`."""
        return await self._bus.call(session.take_stream, session.TakeStream(bearer=bearer, id=session_id))

    async def ask(self, session_id: str, bearer: str) -> session.FoundSession:
        """Return the session as it is now, whatever is cached. Raises `NotFound`, `Unavailable`."""
        return await self._bus.call(session.find, session.FindSession(bearer=bearer, id=session_id))

    async def _find(self, session_id: str, bearer: str) -> Loaded[session.Session]:
        answer = await self.ask(session_id, bearer)
        return Loaded(answer.epoch, answer.seq, answer.session, KEPT_SECONDS)
