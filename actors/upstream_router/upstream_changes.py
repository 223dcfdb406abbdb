"""What one server announces (changed lists, updated resources), heard once for all who listen at this router."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from mcpctl.actors.upstream_router.other_routers import OtherRouters
from mcpctl.actors.upstream_router.site_client import SiteClient
from mcpctl.actors.upstream_router.stdio import StdioClient
from mcpctl.bus.connection import Tasks, cancel
from mcpctl.bus.errors import BadGateway, BusError, DeadlineExceeded
from mcpctl.bus.mcp_client import Answer, McpHttpClient, McpSessionLost, McpTransportError, McpWireError
from mcpctl.bus.mcp_messages import MODERN_MEMBERS, capabilities_of, decode_value, encode

if TYPE_CHECKING:
    from mcpctl.actors.upstream_router.upstreams import Upstream

log = structlog.get_logger()

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"
KINDS = ("tools", "prompts", "resources")
"""Lists of which a change can be announced."""

AGAIN_FIRST, AGAIN_LAST = 0.25, 30.0
"""Seconds before a lost stream is opened again: doubled from the first to the last."""

LASTING = 10.0
"""Seconds after which a stream that is lost counts as one that worked."""

GATHER = 0.05
"""Seconds for which changes are gathered: of equal ones within that time one is told."""

MOST_DUE = 1000
"""Resources whose changes are gathered at once; others that change within that time are not told of."""

BEGIN_SECONDS = 30.0
"""Seconds that a server has to acknowledge a listen."""

OPEN_SECONDS = 1.0
"""Seconds for which the stream of a session is waited for: some servers begin it with their first event."""

FOR_EVER = 10.0 * 365 * 86400
SUBSCRIBE_SECONDS = 5.0
SUBSCRIBE_AT_ONCE = 16

Client = McpHttpClient | StdioClient | SiteClient
Drop = Callable[[Client], Awaitable[None]]


@dataclass(frozen=True)
class Wanted:
    """Lists (`tools`, `prompts`, `resources`) and resources, by the names that the server uses."""

    kinds: frozenset[str] = frozenset()
    uris: frozenset[str] = frozenset()

    def __le__(self, other: "Wanted") -> bool:
        return self.kinds <= other.kinds and self.uris <= other.uris

    def __bool__(self) -> bool:
        return bool(self.kinds or self.uris)

    def of(self, offered: dict[str, Any]) -> "Wanted":
        """Return what of this a server with these capabilities announces."""
        kinds = frozenset(kind for kind in self.kinds if _has(offered, kind, "listChanged"))
        return Wanted(kinds, self.uris if _has(offered, "resources", "subscribe") else frozenset())


NOTHING = Wanted()


class Listener(Protocol):
    """Somebody who hears of changes; it is called for each, and must be quick."""

    def list_changed(self, server: str, kind: str) -> None:
        """Hear that a list is another one now."""

    def updated(self, server: str, uri: str, message: bytes) -> None:
        """Hear of a resource, by the server's name; `message` is the server's own, or b"" where it may have changed."""

    def lost(self) -> None:
        """Hear that the state which the server kept for this caller is gone."""


def kind_of(method: str) -> str:
    """Return which list a `notifications/…/list_changed` is about."""
    return method.split("/")[1]


class UpstreamChanges:
    """Holds one stream of changes to a server while anybody listens, with all that they want together.

    The connections of one server for different capabilities of clients share it: `joined` tells it of each.
    """

    def __init__(self, upstream: "Upstream", others: OtherRouters | None) -> None:
        self._upstream, self._others = upstream, others
        self._wanted: dict[Listener, Wanted] = {}
        self._of_kind: dict[str, dict[Listener, None]] = {kind: {} for kind in KINDS}
        self._of_uri: dict[str, dict[Listener, None]] = {}
        self._honoured: frozenset[str] = frozenset()
        self._held = NOTHING
        self._settled = asyncio.Event()
        self._wake = asyncio.Event()
        self._missed = False
        self._due: dict[tuple[str, str], tuple[bytes, bool]] = {}
        self._tasks = Tasks()
        self._running: asyncio.Task[None] | None = None
        self._known: dict[Client, Drop] = {}
        self._sessions: dict[Client, Standing] = {}
        upstream.on_reachable.append(self._reachable)

    @property
    def listened(self) -> bool:
        """Whether anybody listens: then the connection is not to be closed as idle."""
        return bool(self._wanted)

    # --- those who listen ---

    def put(self, listener: Listener, wanted: Wanted) -> None:
        """Listen, or from now on for something else."""
        self._forget(listener)
        self._wanted[listener] = wanted
        for kind in wanted.kinds:
            self._of_kind[kind][listener] = None
        for uri in wanted.uris:
            self._of_uri.setdefault(uri, {})[listener] = None
        if self._running is None or not wanted <= self._held:
            if self._upstream.fault is None:
                self._settled.clear()
            self._wake.set()
        if self._running is None:
            self._running = self._tasks.start(self._run())
            for client in self._known:
                self._session(client)

    async def settled(self) -> None:
        """Return when all that is wanted has been put to the server, or cannot be now."""
        await self._settled.wait()

    def honoured(self, listener: Listener) -> frozenset[str]:
        """Return which resources the server will tell a listener of."""
        return self._wanted.get(listener, NOTHING).uris & self._honoured

    def remove(self, listener: Listener) -> None:
        """Listen no more; without anybody left the stream is closed."""
        self._forget(listener)
        if not self._wanted and self._running is not None:
            self._running.cancel()
            self._running, self._held, self._missed = None, NOTHING, False
            for session in self._sessions.values():
                session.task.cancel()
            self._sessions = {}
        elif self._upstream.era == "legacy":
            self._wake.set()  # there are subscriptions that can be given up

    def _forget(self, listener: Listener) -> None:
        wanted = self._wanted.pop(listener, NOTHING)
        for kind in wanted.kinds:
            self._of_kind[kind].pop(listener, None)
        for uri in wanted.uris:
            listeners = self._of_uri[uri]
            listeners.pop(listener, None)
            if not listeners:
                del self._of_uri[uri]

    def _union(self) -> Wanted:
        return Wanted(frozenset(kind for kind, who in self._of_kind.items() if who), frozenset(self._of_uri))

    # --- what is heard ---

    def _take(self, alone: bool, method: str, message: bytes) -> None:  # noqa: FBT001 - bound in `joined`
        """Note what the server announced, on whichever stream it came; `alone`: perhaps on no other connection."""
        if method != UPDATED:
            self._note(kind_of(method), "", b"", tell=alone)
            return
        try:
            uri = decode_value(message)["params"]["uri"]
        except (msgspec.DecodeError, KeyError, TypeError):
            return
        if isinstance(uri, str):
            self._note("", uri, message, tell=alone)

    def hear(self, kind: str, uri: str, message: bytes) -> None:
        """Note what another router has heard of the server."""
        if kind in KINDS or (uri and not kind):
            self._note(kind, uri, message, tell=False)

    def _note(self, kind: str, uri: str, message: bytes, *, tell: bool) -> None:
        """Gather a change; with `tell` the other routers hear of it at once, and gather it with what they hear."""
        if not self._due:
            asyncio.get_running_loop().call_later(GATHER, self._tell)
        if uri and len(self._due) >= MOST_DUE:
            return
        told = self._due.get((kind, uri), (b"", False))[1]
        if tell and not told:
            self._tell_others(kind, uri, message)
        self._due[kind, uri] = message, tell or told

    def _tell_others(self, kind: str, uri: str, message: bytes) -> None:
        if self._others is not None:
            self._others.tell(self._upstream.server, kind, uri, message)

    def _tell(self) -> None:
        due, self._due = self._due, {}
        server = self._upstream.server.name
        for (kind, uri), (message, _) in due.items():
            if kind:
                for listener in tuple(self._of_kind[kind]):
                    listener.list_changed(server, kind)
            else:
                for listener in self._about(uri):
                    listener.updated(server, uri, message)

    def _about(self, uri: str) -> Iterable[Listener]:
        """Return who wants to hear of a resource, or of one that it is a part of."""
        found = dict(self._of_uri.get(uri, {}))
        at = len(uri) if self._of_uri else 0
        while (at := uri.rfind("/", 0, at)) > 0:
            for whole in (uri[:at], uri[: at + 1]):
                found |= self._of_uri.get(whole, {})
        return tuple(found)

    def _reachable(self, reachable: bool) -> None:  # noqa: FBT001 - the signature of `on_reachable`
        self._wake.set()
        if not reachable:
            self._settled.set()  # it is not waited for
        elif self._running is not None:
            self._missed = True  # told here once the stream is open again, so that nothing falls in between
            for kind in KINDS:
                self._tell_others(kind, "", b"")
            return
        self._note_lists(tell=True)

    def _note_lists(self, *, tell: bool = False) -> None:
        for kind in KINDS:
            self._note(kind, "", b"", tell=tell)

    def _note_missed(self) -> None:
        if self._missed:
            self._missed = False
            self._note_lists()
            for uri in self._of_uri:
                self._note("", uri, b"", tell=False)

    # --- the stream ---

    async def _run(self) -> None:
        """Hold the stream while anybody listens; a lost one is opened again, and what may have been missed is told."""
        pause = AGAIN_FIRST
        while True:
            if self._upstream.fault is not None:
                self._missed = True
                self._settled.set()
                self._wake.clear()
                await self._wake.wait()
                continue
            began = time.monotonic()
            try:
                await self._hold()
            except (BadGateway, DeadlineExceeded) as error:
                self._upstream.mark_faulty(str(error))
                continue
            except (BusError, McpTransportError, McpWireError, McpSessionLost) as error:
                log.info("changes not heard", server=self._upstream.server.name, reason=str(error))
                self._settled.set()
                if isinstance(error, McpTransportError) and not error.sent:
                    self._upstream.mark_faulty(f"server {self._upstream.server.name}: {error}")
                    continue
            self._missed, self._held = True, NOTHING
            if time.monotonic() - began > LASTING:
                pause = AGAIN_FIRST
            await asyncio.sleep(pause)
            pause = min(pause * 2, AGAIN_LAST)

    async def _hold(self) -> None:
        client = await self._upstream.client()
        assert client.server is not None  # noqa: S101 - it is connected
        offered = capabilities_of(client.server.result)
        if client.server.era == "modern":
            await self._hold_listen(client, offered)
        else:
            await self._hold_session(client, offered)

    def _settle(self, held: Wanted, honoured: frozenset[str]) -> None:
        self._held, self._honoured = held, honoured
        self._note_missed()
        if self._union() <= held:  # else somebody has come meanwhile, whose turn is next
            self._settled.set()

    async def _hold_listen(self, client: Client, offered: dict[str, Any]) -> None:
        """Listen to a stateless server; for more than before by a new stream, and only then without the old one."""
        current: asyncio.Task[Answer] | None = None
        held, honoured, refused = NOTHING, frozenset[str](), False
        try:
            while not _closed(client):
                self._wake.clear()
                union = self._union()
                wanted = union.of(offered)
                if not refused and not wanted <= held:
                    acknowledged: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()
                    older, current = current, asyncio.create_task(self._listen(client, wanted, acknowledged))
                    try:
                        refused = not await _begun(current, acknowledged)
                    finally:
                        if older is not None:
                            await cancel(older)
                    held, honoured = wanted, frozenset() if refused else acknowledged.result()
                    current = None if refused else current
                self._settle(union, honoured)
                await _first_of(self._wake, current)
                if current is not None and current.done():
                    current.result()
                    return
        finally:
            if current is not None:
                await cancel(current)

    async def _listen(self, client: Client, wanted: Wanted, acknowledged: "asyncio.Future[frozenset[str]]") -> Answer:
        def heard(method: str, message: bytes) -> None:
            if method == ACKNOWLEDGED and not acknowledged.done():
                acknowledged.set_result(_honoured(message))

        asked: dict[str, object] = {f"{kind}ListChanged": True for kind in sorted(wanted.kinds)}
        if wanted.uris:
            asked["resourceSubscriptions"] = sorted(wanted.uris)
        params = b'{"_meta":{' + MODERN_MEMBERS + b'},"notifications":' + encode(asked) + b"}"
        return await client.request("subscriptions/listen", params, on_notification=heard, timeout=FOR_EVER)

    async def _hold_session(self, client: Client, offered: dict[str, Any]) -> None:
        """Subscribe to resources in a session with a server of a handshake revision, for as long as it lasts."""
        session = self._session(client)
        subscribed: set[str] = set()
        self._honoured = frozenset()
        await _first_of(session.open, session.task, timeout=OPEN_SECONDS)
        while not session.task.done():
            self._wake.clear()
            union = self._union()
            wanted = union.of(offered).uris
            for uris in _batched(sorted(wanted - subscribed), SUBSCRIBE_AT_ONCE):
                taken = await asyncio.gather(*(_subscribe(client, "resources/subscribe", uri) for uri in uris))
                self._honoured |= {uri for uri, good in zip(uris, taken, strict=True) if good}
            for uri in sorted(subscribed - wanted):
                await _subscribe(client, "resources/unsubscribe", uri)
            subscribed = set(wanted)
            self._settle(union, self._honoured & wanted)
            await _first_of(self._wake, session.task)
        session.task.result()

    # --- connections ---

    def joined(self, client: Client, drop: Drop) -> None:
        """Hear a new connection to the server; `drop` closes it, where the server has forgotten its session.

        While anybody listens, the streams of all sessions with the server are held: some servers announce a change in
        the session that caused it, and there alone.
        """
        handshake = client.server is not None and client.server.era == "legacy"
        client.on_change = partial(self._take, handshake or isinstance(client, StdioClient))
        self._known = {known: told for known, told in self._known.items() if not _closed(known)}
        self._sessions = {known: session for known, session in self._sessions.items() if known in self._known}
        if handshake:
            self._known[client] = drop
            if self._wanted:
                self._session(client)

    def _session(self, client: Client) -> "Standing":
        """Return the stream of a session; it is begun where there is none, or none any more."""
        session = self._sessions.get(client)
        if session is None or (session.task.done() and not _closed(client)):
            session = self._sessions[client] = self._begin(client, self._known[client])
        return session

    def _begin(self, client: Client, drop: Drop) -> "Standing":
        opened = asyncio.Event()
        task = asyncio.create_task(self._stand(client, drop, opened))
        task.add_done_callback(_looked_at)
        return Standing(task, opened)

    async def _stand(self, client: Client, drop: Drop, opened: asyncio.Event) -> None:
        """Hold what comes of a session outside of its calls. Raises where the session is over."""
        if isinstance(client, StdioClient):
            opened.set()
            await client.ended.wait()
            raise McpTransportError("the process ended", sent=True)
        try:
            await client.stand(partial(self._stream_opened, opened))
            opened.set()  # there is no such stream: what it announces comes on the streams of calls
            await client.over.wait()
            raise McpTransportError("the connection was closed", sent=True)
        except McpSessionLost:
            await drop(client)
            raise

    def _stream_opened(self, opened: asyncio.Event, missed: bool) -> None:  # noqa: FBT001 - as `stand` calls it
        opened.set()
        if missed:
            self._missed = True
            self._note_missed()

    async def close(self) -> None:
        """End all streams."""
        self._settled.set()
        if self._upstream.server.isolation == "session":
            for listener in tuple(self._wanted):
                listener.lost()
        await self._tasks.cancel()
        await cancel(*(session.task for session in self._sessions.values()))


@dataclass(frozen=True)
class Standing:
    """The stream of a session: the task that holds it, and whether it is open."""

    task: "asyncio.Task[None]"
    open: asyncio.Event


def _looked_at(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("session with a server is over", reason=str(error))


def _closed(client: Client) -> bool:
    return not client.alive if isinstance(client, StdioClient) else client.over.is_set()


async def _begun(listen: "asyncio.Task[Answer]", acknowledged: "asyncio.Future[frozenset[str]]") -> bool:
    """Wait for the server's word; False where it will not listen. Raises `McpTransportError`."""
    either: tuple[asyncio.Future[Any], ...] = (listen, acknowledged)
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED, timeout=BEGIN_SECONDS)
    if acknowledged.done():
        return True
    if listen.done():
        if listen.result().error is not None:
            return False
        raise McpTransportError("the listen ended before it began", sent=True)
    raise McpTransportError(f"the listen was not acknowledged within {BEGIN_SECONDS:g} s", sent=True)


async def _subscribe(client: Client, method: str, uri: str) -> bool:
    try:
        answer = await client.request(method, encode({"uri": uri}), timeout=SUBSCRIBE_SECONDS)
    except McpWireError:
        return False
    return answer.result is not None


def _batched(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _has(offered: dict[str, Any], capability: str, part: str) -> bool:
    declared = offered.get(capability)
    return isinstance(declared, dict) and declared.get(part) is True


def _honoured(message: bytes) -> frozenset[str]:
    try:
        honoured = decode_value(message)["params"]["notifications"].get("resourceSubscriptions") or ()
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return frozenset()
    return frozenset(map(str, honoured)) if isinstance(honoured, Iterable) else frozenset()


async def _first_of(event: asyncio.Event, task: "asyncio.Task[Any] | None", *, timeout: float | None = None) -> None:
    """Return when the event is set or the task has ended, or after `timeout` seconds."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({waiting, task} if task else {waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=timeout)
    finally:
        waiting.cancel()
