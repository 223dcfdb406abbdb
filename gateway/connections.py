"""What a client's connection may cost before there is a request to decide on: bytes, time, and company.

aiohttp has no time for a head or a body, takes no notice of a client that does not read, repeats what it cannot parse
(a bearer may be in it) in its answer and its log, and reads the body of a declined `Upgrade` as another request.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Literal, cast

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage

from mcpctl.bus import measured, metrics
from mcpctl.gateway.addresses import Addresses, site_of
from mcpctl.gateway.settings import GatewaySettings
from mcpctl.gateway.shedding import Shedding
from mcpctl.gateway.wire import JSON

log = structlog.get_logger()

PROGRESS = 16 * 1024
"""Bytes that a client must take of what waits for it, in the time that it has for that."""

LINGERING = 2.0
"""Seconds for which the rest of a body is read whose request was answered before its end."""

Awaited = Literal["head", "body", "reader"]


class Connections:
    """All open connections: makes each, counts them by address, and ends those that keep the gateway waiting."""

    def __init__(self, server: web.Server, settings: GatewaySettings, addresses: Addresses, shedding: Shedding) -> None:
        self._server, self._addresses, self.shedding = server, addresses, shedding
        self.header_limit, self._most = settings.header_limit, settings.address_connections
        self._seconds: dict[Awaited, float] = {
            "head": settings.header_timeout_ms / 1000,
            "body": settings.body_timeout_ms / 1000,
            "reader": settings.write_timeout_ms / 1000,
        }
        self._idle_seconds, self._header_count = settings.idle_timeout_ms / 1000, settings.header_count
        self._open: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        metrics.watch(self)

    def measures(self) -> Iterator[metrics.Measured]:
        """Yield what metrics tell of connections."""
        yield measured.CONNECTIONS, len(self._open), ()

    def make(self) -> "Connection":
        """Return the protocol of a new connection."""
        return Connection(
            self,
            self._server,
            access_log=None,
            auto_decompress=False,  # a body with a coding is refused, so nobody unpacks it
            loop=asyncio.get_running_loop(),
            keepalive_timeout=self._idle_seconds,
            lingering_time=LINGERING,
            max_line_size=self.header_limit,
            max_field_size=self.header_limit,
            max_headers=self._header_count,
        )

    def enter(self, connection: "Connection", peer: str) -> bool:
        """Count a connection. Returns False where its address has too many."""
        if self._most and not self._addresses.trusts(peer):
            address = site_of(peer)
            if self._by_address[address] >= self._most:
                return False
            self._by_address[address] += 1
            connection.counted = address
        self._open.add(connection)
        return True

    def leave(self, connection: "Connection") -> None:
        self._open.discard(connection)
        address, connection.counted = connection.counted, ""
        if address:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    async def sweep(self) -> None:
        """End those that have used up their time, for ever. Times are exact to a fraction of themselves."""
        clock = asyncio.get_running_loop().time
        pause = min(1.0, min(self._seconds.values()) / 5)
        while True:
            await asyncio.sleep(pause)
            for connection in list(self._open):
                awaited = connection.keeps_waiting(clock())
                if awaited is not None and clock() - connection.since > self._seconds[awaited]:
                    connection.cut(awaited)


class Connection(web.RequestHandler):
    """One connection, from the first byte to the last. `since` is the loop's time from which on it keeps us waiting."""

    __slots__ = ("_all", "_awaited", "_head_size", "_mark", "_wire", "counted", "since")

    def __init__(self, connections: Connections, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._all = connections
        self._wire: asyncio.Transport | None = None
        self._head_size = self._mark = 0
        self._awaited: tuple[Awaited, int] | None = None
        self.counted = ""
        self.since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if self._all.enter(self, peer[0] if isinstance(peer, tuple) else ""):
            super().connection_made(transport)
        else:
            self.refuse(429, "too many connections from this address (MCPCTL_ADDRESS_CONNECTIONS)")

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_shed(data):
            return
        count = self._request_count
        super().data_received(data)
        if self._is_idle():  # nothing but a part of a head has come
            self._head_size += len(data)
            if self._head_size > self._all.header_limit:
                self.refuse(431, "the request's head is too long")
        elif count != self._request_count:
            if self._head_size + len(data) > self._all.header_limit and self._newest_head_is_too_long():
                self.refuse(431, "the request's head is too long")
            self._head_size = 0
        if self._upgraded:  # what follows could be read as another request
            self.refuse(400, "an Upgrade is not served")

    def _is_shed(self, data: bytes) -> bool:
        """Answer a request that is refused unread, if it is all that has come."""
        if self._head_size or self._wire is None or not self._is_idle():
            return False
        answer = self._all.shedding.answer(data)
        if answer is not None:
            self._wire.write(answer)
        return answer is not None

    def _is_idle(self) -> bool:
        """Tell whether there is no request, or none yet."""
        return not self._request_count or (self._waiter is not None and not self._waiter.done())

    def _newest_head_is_too_long(self) -> bool:
        head = self._messages[-1][0] if self._messages else None
        if not isinstance(head, RawRequestMessage):
            return False
        fields = sum(len(name) + len(value) + 4 for name, value in head.raw_headers)
        return len(head.path) + fields > self._all.header_limit

    def keeps_waiting(self, now: float) -> Awaited | None:
        """Return what the client is waited for, having noted in `since` from when on; None while it is our turn."""
        awaited = self._awaits()
        if awaited != self._awaited:
            self._awaited, self.since = awaited, now
            self._mark = 0
        if awaited is None:
            return None
        if awaited[0] == "reader":
            waiting = self._unread()
            if waiting < self._mark - PROGRESS:
                self.since, self._mark = now, waiting
            self._mark = max(self._mark, waiting)
        return awaited[0]

    def _awaits(self) -> tuple[Awaited, int] | None:
        if self._unread():
            return "reader", 0
        if self._is_idle():
            # Between two requests it may be idle, for which aiohttp has a time.
            return ("head", self._request_count) if self._head_size or not self._request_count else None
        request = self._current_request
        if request is not None and not request.content.is_eof():
            return "body", self._request_count
        return None

    def _unread(self) -> int:
        return self._wire.get_write_buffer_size() if self._wire is not None else 0

    def cut(self, awaited: Awaited) -> None:
        """End a connection whose client took too long."""
        log.debug("a client took too long", awaited=awaited)
        if awaited == "reader":
            if self._wire is not None:
                self._wire.abort()
        elif awaited == "head" and not self._head_size:
            self.force_close()
        else:
            self.refuse(408, f"the request's {awaited} took too long")

    def refuse(self, status: int, text: str) -> None:
        """Answer whatever was sent, and close. No word of what was sent is in it."""
        wire = self._wire
        if wire is not None and not wire.is_closing():
            body = orjson.dumps({"error": text})
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {JSON}\r\nConnection: close\r\n"
            retry = "Retry-After: 1\r\n" if status == 429 else ""
            wire.write(f"{head}{retry}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if self._task_handler is not None:  # it may have been given the request already
            self._task_handler.cancel()
        self.force_close()
        if wire is not None:
            wire.close()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what cannot be parsed. aiohttp's own answer and log line repeat it."""
        del message
        log.log(40 if status >= 500 else 10, "no request", status=status, reason=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun")
        if isinstance(exc, LineTooLong):
            status = 431
        text = "internal error" if status >= 500 else "not an HTTP/1.1 request that is served here"
        answer = web.Response(status=status, body=orjson.dumps({"error": text}), content_type=JSON)
        answer.force_close()
        return answer
