"""The stream of a legacy session on which come changes that belong to no call: `GET` (2025-11-25, basic/transports).

There is one for each session, on any gateway; a newer one takes its place. It is a listen on the bus, for everything
whose list may change, and for the resources to which the session subscribes.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from aiohttp import web

from mcpctl.bus.connection import Tasks, cancel
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts.session import FoundSession, Session
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError, Cancelled, NotFound
from mcpctl.bus.mcp_messages import encode
from mcpctl.gateway import legacy
from mcpctl.gateway.admission import Exchange
from mcpctl.gateway.dataplane import LISTEN
from mcpctl.gateway.event_log import EventId
from mcpctl.gateway.listening import Listening, honoured_by
from mcpctl.gateway.live_call import LiveCall
from mcpctl.gateway.sessions import Sessions
from mcpctl.gateway.streaming import EventStream, cut_off

log = structlog.get_logger()

Ask = Callable[[Exchange, str, bytes], Awaitable[LiveCall]]

HEARD = 50_000
"""Sessions of which the number of the latest change is remembered."""

RENEWALS = 65536

HEARS_WITHIN = 0.5
"""Seconds that the answer to a GET may wait for the listen behind it: from then on no change is missed."""


def listen_params(session: Session) -> bytes:
    """Return the params of a listen for all that a session may hear of."""
    wanted: dict[str, object] = {
        "toolsListChanged": True,
        "promptsListChanged": True,
        "resourcesListChanged": True,
    }
    if session.subscriptions:
        wanted["resourceSubscriptions"] = sorted(session.subscriptions)
    return b'{"notifications":' + encode(wanted) + b',"_meta":{' + legacy.meta_members(session) + b"}}"


class GetStream:
    """One open stream."""

    def __init__(self, exchange: Exchange, ask: Ask, found: FoundSession, gateway: str) -> None:
        self.exchange, self.seq = exchange, found.seq
        self.principal: Principal = exchange.principal
        session = exchange.session = found.session
        self.listening = Listening(
            lambda params: ask(exchange, LISTEN, params), listen_params(session), cut_off=cut_off(exchange.http)
        )
        resumable = session.version == legacy.RESUMABLE
        self._prefix = EventId.prefix(gateway, secrets.token_hex(8)) if resumable else ""
        self._count = 0

    async def run(self, *, resumed: bool) -> web.StreamResponse:
        """Write what is heard until the stream is ended, or the client hangs up. Raises `BusError` if refused."""
        if resumed:
            self.listening.hint()
        http: web.StreamResponse | None = None
        begun = asyncio.create_task(self.listening.begin())
        try:
            await asyncio.wait((begun,), timeout=HEARS_WITHIN)
            if begun.done():
                begun.result()
            stream = await EventStream.open(self.exchange.http)
            http = stream.http
            if self._prefix:
                await stream.prime(self._event_id())
            else:
                await stream.keep_alive()
            await self._write(stream, begun)
        except BusError as error:
            if http is None:
                raise
            log.debug("session stream ended", reason=str(error))
            with suppress(ConnectionError):
                await stream.close()
        except ConnectionError:
            pass
        finally:
            await cancel(begun)
            await self.listening.close()
        return http if http is not None else web.Response(status=499)

    async def _write(self, stream: EventStream, begun: Awaitable[None]) -> None:
        await begun
        while True:
            frame = await self.listening.next()
            if frame is None:
                await stream.keep_alive()
            elif frame.kind == "end":
                await self.listening.begin_again()
            elif honoured_by(frame.body) is None:  # what is honoured, only a stateless client is told
                await stream.send(frame.body, self._event_id())

    def _event_id(self) -> str:
        if not self._prefix:
            return ""
        self._count += 1
        return f"{self._prefix}{self._count}"


class GetStreams:
    """All such streams of one gateway, by the keys of their sessions."""

    def __init__(self, gateway: str, sessions: Sessions, ask: Ask) -> None:
        self._gateway, self._sessions, self._ask = gateway, sessions, ask
        self._streams: dict[str, GetStream] = {}
        self._heard: OrderedDict[str, int] = OrderedDict()
        self._renewals = Tasks(RENEWALS)
        sessions.follower.on_change.append(self._session_changed)
        sessions.follower.on_reset.append(self._renew_all)

    async def open(self, exchange: Exchange, *, resumed: bool) -> web.StreamResponse:
        """Be the stream of a session until it ends. Raises `BusError` where it cannot be taken over."""
        found = await self._sessions.take_stream(exchange.session_id, exchange.bearer)
        key = found.session.key
        opened = GetStream(exchange, self._ask, found, self._gateway)
        self._enter(key, opened)
        if self._heard.get(key, 0) > found.seq:
            self._renewals.start(self._renew_quietly(opened))
        try:
            return await opened.run(resumed=resumed)
        finally:
            if self._streams.get(key) is opened:
                del self._streams[key]

    def _enter(self, key: str, opened: GetStream) -> None:
        """Note the newer of two streams, and end the older: their answers may have overtaken each other."""
        other = self._streams.get(key)
        older, newer = (opened, other) if other is not None and other.seq > opened.seq else (other, opened)
        if older is not None:
            older.listening.end(Cancelled("a newer stream of the session took its place"))
        self._streams[key] = newer

    async def renew(self, key: str) -> None:
        """Have a session's stream listen to what it subscribes to now; return when it does. Raises `BusError`."""
        stream = self._streams.get(key)
        if stream is not None:
            await self._renew(stream)

    async def _renew(self, stream: GetStream) -> None:
        exchange = stream.exchange
        try:
            found = await self._sessions.ask(exchange.session_id, exchange.bearer)
        except NotFound as error:
            stream.listening.end(error)
            return
        stream.seq = found.seq
        exchange.session = found.session
        if found.session.stream != self._gateway:
            stream.listening.end(Cancelled("a newer stream of the session took its place"))
        else:
            await stream.listening.change(listen_params(found.session))

    async def _renew_quietly(self, stream: GetStream) -> None:
        try:
            await self._renew(stream)
        except BusError as error:
            log.info("session stream not renewed", error=str(error))

    def _session_changed(self, change: Change) -> None:
        if change.kind != "session":
            return
        self._heard[change.key] = change.seq
        self._heard.move_to_end(change.key)
        if len(self._heard) > HEARD:
            self._heard.popitem(last=False)
        stream = self._streams.get(change.key)
        if stream is None or change.seq <= stream.seq:
            return
        if change.action == "removed":
            stream.listening.end(NotFound("the session is closed"))
        else:
            self._renewals.start(self._renew_quietly(stream))

    def _renew_all(self) -> None:
        self._heard.clear()
        self._renewals.start(self._renew_each(list(self._streams.values())))

    async def _renew_each(self, streams: list[GetStream]) -> None:
        for stream in streams:
            await self._renew_quietly(stream)

    def end_where(self, concerns: Callable[[Principal], bool], failure: BusError) -> None:
        for stream in list(self._streams.values()):
            if concerns(stream.principal):
                stream.listening.end(failure)

    def stop(self) -> None:
        """End all streams: their clients find another gateway."""
        for stream in self._streams.values():
            stream.listening.end(Cancelled("the gateway is stopping"))

    async def close(self) -> None:
        await self._renewals.cancel()
