"""What one server announces (changed lists, updated resources), heard once for all who listen at this router."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
import structlog

from mcpctl.actors.upstream_router.stdio import StdioClient
from mcpctl.bus.connection import Tasks, cancel
from mcpctl.bus.errors import BusError
from mcpctl.bus.mcp_client import Answer, McpHttpClient, McpSessionLost, McpTransportError, McpWireError
from mcpctl.bus.mcp_messages import MODERN_MEMBERS, capabilities_of, decode_value, encode

if TYPE_CHECKING:
    from mcpctl.actors.upstream_router.upstreams import Upstream

log = structlog.get_logger()

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"
KINDS = ("tools", "prompts", "resources")
"""Lists of which a change can be announced."""

AGAIN_FIRST, AGAIN_LAST = 0.5, 30.0
"""Seconds before a lost stream is opened again: doubled from the first to the last."""

FOR_EVER = 10.0 * 365 * 86400
SUBSCRIBE_SECONDS = 10.0


class CannotListen(Exception):  # a fact, not a failure
    """The server has no stream of changes."""


@dataclass(frozen=True)
class Wanted:
    """Lists (`tools`, `prompts`, `resources`) and resources, by the names that the server uses."""

    kinds: frozenset[str] = frozenset()
    uris: frozenset[str] = frozenset()

    def __or__(self, other: "Wanted") -> "Wanted":
        return Wanted(self.kinds | other.kinds, self.uris | other.uris)

    def __le__(self, other: "Wanted") -> bool:
        return self.kinds <= other.kinds and self.uris <= other.uris

    def __bool__(self) -> bool:
        return bool(self.kinds or self.uris)


NOTHING = Wanted()


class Listener(Protocol):
    """Somebody who hears of changes; it is called for each, and must be quick."""

    def list_changed(self, kind: str) -> None:
        """Hear that a list is another one now."""

    def updated(self, server: str, uri: str, message: bytes) -> None:
        """Hear of a resource, by the server's name; `message` is the server's own, or b"" where it may have changed."""


def kind_of(method: str) -> str:
    """Return which list a `notifications/…/list_changed` is about."""
    return method.split("/")[1]


class UpstreamChanges:
    """Holds one stream of changes to a server while anybody listens, with all that they want together."""

    def __init__(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        self._listeners: dict[Listener, Wanted] = {}
        self._held = NOTHING
        self._honoured: frozenset[str] = frozenset()
        self._holding = False
        self._waiting: list[asyncio.Future[None]] = []
        self._grown = asyncio.Event()
        self._tasks = Tasks()
        self._running: asyncio.Task[None] | None = None
        self._others: dict[McpHttpClient, asyncio.Task[None] | None] = {}
        upstream.on_reachable.append(self._reachable)

    # --- those who listen ---

    async def add(self, listener: Listener, wanted: Wanted) -> frozenset[str]:
        """Begin to listen, or for something else; return which of the resources the server will tell of."""
        self._listeners[listener] = wanted
        if not (self._holding and wanted <= self._held):
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            self._grown.set()
            if self._running is None or self._running.done():
                self._running = self._tasks.start(self._run())
                for client in self._others:
                    self._stand(client)
            await waiting
        return wanted.uris & self._honoured

    def remove(self, listener: Listener) -> None:
        """Listen no more; without anybody left the stream is closed."""
        self._listeners.pop(listener, None)
        if not self._listeners and self._running is not None:
            self._running.cancel()
            self._running, self._holding = None, False
            self._release()
            for client, standing in self._others.items():
                if standing is not None:
                    standing.cancel()
                    self._others[client] = None

    def _union(self) -> Wanted:
        kinds: set[str] = set()
        uris: set[str] = set()
        for wanted in self._listeners.values():
            kinds |= wanted.kinds
            uris |= wanted.uris
        return Wanted(frozenset(kinds), frozenset(uris))

    # --- what is heard ---

    def take(self, method: str, message: bytes) -> None:
        """Pass on what the server announced, on whichever stream it came."""
        if method == UPDATED:
            self._updated(message)
        else:
            self._list_changed(kind_of(method))

    def _updated(self, message: bytes) -> None:
        try:
            uri = str(decode_value(message)["params"]["uri"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return
        for listener, wanted in list(self._listeners.items()):
            if uri in wanted.uris:
                listener.updated(self._upstream.server.name, uri, message)

    def _list_changed(self, *kinds: str) -> None:
        for listener, wanted in list(self._listeners.items()):
            for kind in kinds:
                if kind in wanted.kinds:
                    listener.list_changed(kind)

    def _reachable(self, _reachable: bool) -> None:  # noqa: FBT001 - the signature of `on_reachable`
        self._list_changed(*KINDS)  # the lists of its projects have more in them, or less

    def _may_have_missed(self) -> None:
        self._list_changed(*KINDS)
        for listener, wanted in list(self._listeners.items()):
            for uri in wanted.uris & self._honoured:
                listener.updated(self._upstream.server.name, uri, b"")

    # --- the stream ---

    async def _run(self) -> None:
        """Hold the stream while anybody listens; a lost one is opened again, and what may have been missed is told."""
        pause, lost = AGAIN_FIRST, False
        while True:
            try:
                with self._upstream.busy():
                    client = await self._upstream.client()
                    if lost:
                        self._may_have_missed()
                    pause = AGAIN_FIRST
                    if self._upstream.era == "modern":
                        await self._hold_listen(client)
                    else:
                        await self._hold_session(client)
            except CannotListen:
                self._settle(self._union(), frozenset())
                await self._grown.wait()
            except (BusError, McpTransportError, McpWireError, McpSessionLost) as error:
                log.info("changes not heard", server=self._upstream.server.name, reason=str(error))
            lost, self._holding = True, False
            await asyncio.sleep(pause)
            pause = min(pause * 2, AGAIN_LAST)

    def _settle(self, held: Wanted, honoured: frozenset[str]) -> None:
        self._held, self._honoured, self._holding = held, honoured, True
        self._release()

    def _release(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def _hold_listen(self, client: McpHttpClient | StdioClient) -> None:
        """Listen to a stateless server; for more than before by a new stream, and only then without the old one."""
        current: asyncio.Task[Answer] | None = None
        try:
            while True:
                self._grown.clear()
                wanted = self._union()
                acknowledged: asyncio.Future[frozenset[str]] = asyncio.get_running_loop().create_future()
                opened = asyncio.create_task(self._listen(client, wanted, acknowledged))
                older, current = current, opened
                either: tuple[asyncio.Future[Any], ...] = (opened, acknowledged)
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if older is not None:
                    await cancel(older)
                if not acknowledged.done():
                    if opened.result().error is not None:
                        raise CannotListen
                    return
                self._settle(wanted, acknowledged.result())
                await _first_of(opened, self._grown)
                if opened.done():
                    opened.result()
                    return
        finally:
            if current is not None:
                await cancel(current)

    async def _listen(
        self, client: McpHttpClient | StdioClient, wanted: Wanted, acknowledged: "asyncio.Future[frozenset[str]]"
    ) -> Answer:
        def heard(method: str, message: bytes) -> None:
            if method == ACKNOWLEDGED and not acknowledged.done():
                acknowledged.set_result(_honoured(message))

        asked: dict[str, object] = {f"{kind}ListChanged": True for kind in sorted(wanted.kinds)}
        if wanted.uris:
            asked["resourceSubscriptions"] = sorted(wanted.uris)
        params = b'{"_meta":{' + MODERN_MEMBERS + b'},"notifications":' + encode(asked) + b"}"
        return await client.request("subscriptions/listen", params, on_notification=heard, timeout=FOR_EVER)

    async def _hold_session(self, client: McpHttpClient | StdioClient) -> None:
        """Hold the stream of a session with a server of a handshake revision, and subscribe to resources in it."""
        standing = asyncio.create_task(_stand(client))
        subscribed: set[str] = set()
        honoured: set[str] = set()
        try:
            while True:
                self._grown.clear()
                wanted = self._union()
                if client.server is not None and _subscribes(client.server.result):
                    for uri in sorted(wanted.uris - subscribed):
                        if await _subscribe(client, "resources/subscribe", uri):
                            honoured.add(uri)
                    for uri in sorted(subscribed - wanted.uris):
                        await _subscribe(client, "resources/unsubscribe", uri)
                        honoured.discard(uri)
                    subscribed = set(wanted.uris)
                self._settle(wanted, frozenset(honoured))
                await _first_of(standing, self._grown)
                if standing.done():
                    standing.result()
                    return
        finally:
            await cancel(standing)

    # --- other connections to the same server ---

    def joined(self, client: McpHttpClient) -> None:
        """Hear a further session with the server too: it may announce a change in the session that caused it alone."""
        self._others = {known: task for known, task in self._others.items() if not known.closed}
        self._others[client] = None
        if self._listeners:
            self._stand(client)

    def _stand(self, client: McpHttpClient) -> None:
        async def stand() -> None:
            try:
                await _stand(client)
            except (McpTransportError, McpWireError, McpSessionLost) as error:
                log.debug("changes of a further session not heard", reason=str(error))

        self._others[client] = self._tasks.start(stand())

    async def close(self) -> None:
        """End all streams."""
        self._release()
        await self._tasks.cancel()


async def _stand(client: McpHttpClient | StdioClient) -> None:
    """Return, or raise, when nothing more can come outside of calls."""
    if isinstance(client, StdioClient):
        await client.ended.wait()
        raise McpTransportError("the process ended", sent=False)
    try:
        await client.stand()
    except McpTransportError as error:
        if error.status != 405:
            raise
        await asyncio.Event().wait()  # it has no such stream: what it announces comes on the streams of calls


async def _subscribe(client: McpHttpClient | StdioClient, method: str, uri: str) -> bool:
    answer = await client.request(method, encode({"uri": uri}), timeout=SUBSCRIBE_SECONDS)
    return answer.result is not None


def _subscribes(info: bytes) -> bool:
    resources = capabilities_of(info).get("resources")
    return isinstance(resources, dict) and bool(resources.get("subscribe"))


def _honoured(message: bytes) -> frozenset[str]:
    try:
        honoured = decode_value(message)["params"]["notifications"].get("resourceSubscriptions") or ()
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return frozenset()
    return frozenset(map(str, honoured)) if isinstance(honoured, Iterable) else frozenset()


async def _first_of(task: "asyncio.Task[Answer] | asyncio.Task[None]", event: asyncio.Event) -> None:
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
