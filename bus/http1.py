"""HTTP/1.1 to one origin: kept connections, bounded answers, nothing followed and nothing sent twice."""

import asyncio
import math
import socket
import ssl
from functools import lru_cache
from typing import cast

import httptools

from mcpctl.bus.http_head import Url
from mcpctl.bus.networks import Networks

MAX_OVERHEAD = 65_536  # bytes of head, trailers and chunk framing between two pieces of a body
HIGH_WATER = 262_144  # bytes of a streamed body that wait for their reader before the socket is paused
IDLE_LIMIT = 4.0  # seconds; uvicorn and Node close after 5, and a request that crosses that close is lost
DRAIN_GRACE = 1.0  # seconds for a stream to end after its last wanted byte
DRAIN_LIMIT = 65_536  # bytes
PROBES = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""How soon a peer that is gone without a word is noticed, by a stream on which nothing is expected: seconds, times."""


class HttpError(Exception):
    """No usable response; `sent` is whether the request may have reached the server."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


class HttpTimeoutError(HttpError):
    """The deadline passed first."""


class HttpTooLargeError(HttpError):
    """The answer is larger than its reader allows."""


class Response:
    """A final (not 1xx) response; an event stream arrives with its head, any other with its whole body."""

    __slots__ = ("body", "headers", "status", "stream")

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.stream: BodyStream | None = None

    def header(self, name: bytes) -> bytes:
        """Find a header by its lower-case name; b"" when there is none."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return b""

    def media_type(self) -> bytes:
        return self.header(b"content-type").partition(b";")[0].strip().lower()


class BodyStream:
    """A body that is read while it arrives; the socket is paused when its reader falls behind."""

    __slots__ = ("_chunks", "_connection", "_discard", "_ended", "_error", "_size", "_waiter")

    def __init__(self, connection: "Connection") -> None:
        self._connection: Connection | None = connection
        self._chunks: list[bytes] = []
        self._size = 0
        self._discard = False
        self._ended = False
        self._error: HttpError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """Return what has come since the last read; b"" after the end. One reader at a time."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._ended:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if self._connection is not None:
            self._connection.resume()
        return data

    def detach(self) -> None:
        """Want no more of it; the connection is kept if the body ends soon."""
        if self._connection is not None:
            self._discard, self._size = True, 0
            self._connection.hurry(DRAIN_GRACE)

    def abandon(self) -> None:
        """Close the connection unless the body has ended."""
        if self._connection is not None:
            self._connection.fail(HttpError("abandoned", sent=True))

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._discard:
            if self._size > DRAIN_LIMIT:
                self.abandon()
            return
        self._chunks.append(data)
        if self._size > HIGH_WATER and self._connection is not None:
            self._connection.pause()
        self._wake()

    def end(self, error: HttpError | None) -> None:
        self._connection, self._ended, self._error = None, True, error
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One request at a time; goes back to its pool when the response ended cleanly."""

    __slots__ = (
        "_body",
        "_final",
        "_loop",
        "_overhead",
        "_parser",
        "_paused",
        "_pool",
        "_response",
        "_size",
        "_timer",
        "_transport",
        "_waiter",
        "idle_since",
    )

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._waiter: asyncio.Future[Response] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._body: list[bytes] = []
        self._size = self._overhead = 0
        self._final = self._paused = False
        self.idle_since = 0.0

    def start(self, request: bytes, deadline: float) -> asyncio.Future[Response]:
        """Write a request (one write). `deadline` is in the loop's time."""
        self._response = Response()
        self._waiter = waiter = self._loop.create_future()
        self._body = []
        self._size = self._overhead = 0
        self._final = False
        if deadline < math.inf:  # uvloop's timers do not take an infinity
            self._timer = self._loop.call_at(deadline, self._expire)
        self._transport.write(request)
        return waiter

    def closing(self) -> bool:
        return self._transport.is_closing()

    def abandon(self, waiter: asyncio.Future[Response]) -> None:
        """Close, but only if the connection still works for this waiter and not for the next one."""
        if self._waiter is waiter and self._response is not None:
            self.fail(HttpError("abandoned", sent=True))

    def fail(self, error: HttpError) -> None:
        """Close the connection; whoever waits for it gets the error."""
        response, self._response = self._response, None
        self._body = []  # the parser refers back to this: what is kept here would wait for the garbage collector
        self._stop_timer()
        self._transport.abort()
        if response is None:
            return
        if not self._waiter.done():
            self._waiter.set_exception(error)
        if response.stream is not None:
            response.stream.end(error)

    def pause(self) -> None:
        if not self._paused and not self.closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if not self.closing():
                self._transport.resume_reading()

    def hurry(self, seconds: float) -> None:
        """Give the rest of the response only so much time."""
        self.resume()
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.fail(HttpTimeoutError("no answer in time", sent=True))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self, response: Response, *, keep: bool) -> None:
        self._response = None
        self._stop_timer()
        self.resume()
        if keep:
            self._pool.keep(self)
        else:
            self._transport.abort()
        if response.stream is not None:
            response.stream.end(None)
        else:
            response.body, self._body = b"".join(self._body), []
            if not self._waiter.done():
                self._waiter.set_result(response)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.opened(self)
        peer = transport.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in PROBES:
                peer.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        if self._response is None:
            self._transport.abort()
            return
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(HttpError(f"not HTTP: {error}", sent=True))
        else:
            if self._overhead > MAX_OVERHEAD and self._response is not None:
                self.fail(HttpError("the response's head is too large", sent=True))

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self)
        response = self._response
        if response is not None and exc is None and self._final and ends_with_connection(response):
            self._finish(response, keep=False)
        else:
            reason = f": {exc}" if exc else ""
            self.fail(HttpError(f"connection lost before the answer was complete{reason}", sent=True))

    # httptools' side

    def on_message_begin(self) -> None:
        if self._response is None:
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is not None and not self._final:
            self._response.headers.append((name, value))

    def on_headers_complete(self) -> None:
        response = self._response
        if response is None:
            return
        response.status = status = self._parser.get_status_code()
        if status == 101:
            self.fail(HttpError("the server switched protocols", sent=True))
        elif status < 200:
            response.headers.clear()
        elif response.header(b"content-encoding").lower() not in (b"", b"identity"):
            self.fail(HttpError("the answer is compressed, which was not asked for", sent=True))
        else:
            self._final = True
            if status == 200 and response.media_type() == b"text/event-stream":
                response.stream = BodyStream(self)
                if not self._waiter.done():
                    self._waiter.set_result(response)

    def on_body(self, data: bytes) -> None:
        self._overhead = 0
        response = self._response
        if response is None:
            return
        if response.stream is not None:
            response.stream.feed(data)
            return
        self._size += len(data)
        if self._size > self._pool.max_body:
            self.fail(HttpTooLargeError(f"the answer is larger than {self._pool.max_body} bytes", sent=True))
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        response = self._response
        if response is None or not self._final:
            return
        # An answer that came before the request was fully written leaves the rest of it in the way.
        keep = self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
        self._finish(response, keep=keep)


def ends_with_connection(response: Response) -> bool:
    """Whether the body has no length of its own (RFC 9112 section 6.3, rule 8)."""
    return not response.header(b"content-length") and not response.header(b"transfer-encoding")


class Pool:
    """The connections to one origin, the last used first; those idle for long are closed."""

    def __init__(
        self,
        url: Url,
        *,
        connect_timeout: float,
        max_body: int,
        idle_limit: float = IDLE_LIMIT,
        tls: ssl.SSLContext | None = None,
        networks: Networks | None = None,
    ) -> None:
        """`networks` are the addresses that may be reached; without them all may, as the user of a CLI may anyway."""
        self.max_body = max_body
        self._networks = networks
        self._idle_limit = idle_limit
        self._url = url
        self._connect_timeout = connect_timeout
        self._tls = (tls or default_tls()) if url.tls else None
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._all_lost: asyncio.Future[None] | None = None
        self._closed = False

    async def exchange(self, request: bytes, deadline: float) -> Response:
        """Send one whole request and return its response; cancelling this closes the connection.

        A request goes to a second connection only if the first was closed before its first byte.
        """
        while True:
            connection = self._take()
            fresh = connection is None
            if connection is None:
                connection = await self._connect(deadline)
            waiter = connection.start(request, deadline)
            if not connection.closing():
                break
            connection.abandon(waiter)
            waiter.exception()
            if fresh:
                raise HttpError(f"{self._url.authority} closed the new connection at once", sent=False)
        try:
            return await waiter
        except asyncio.CancelledError:
            connection.abandon(waiter)
            raise

    async def close(self) -> None:
        """Close all connections; requests that still run fail."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._open):
            connection.fail(HttpError("the client was closed", sent=True))
        if self._open:
            self._all_lost = asyncio.get_running_loop().create_future()
            await self._all_lost

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._all_lost is not None and not self._open and not self._all_lost.done():
            self._all_lost.set_result(None)

    def keep(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None and not self._closed:
            self._sweep = loop.call_later(self._idle_limit, self._close_idle)

    def _take(self) -> Connection | None:
        oldest = asyncio.get_running_loop().time() - self._idle_limit
        while self._idle:
            connection = self._idle.pop()
            if connection.closing():
                continue
            if connection.idle_since > oldest:
                return connection
            connection.fail(HttpError("idle", sent=False))
        return None

    def _close_idle(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._idle_limit
        for connection in self._idle:
            if connection.idle_since <= oldest:
                connection.fail(HttpError("idle", sent=False))
        self._idle = [connection for connection in self._idle if not connection.closing()]
        self._sweep = loop.call_later(self._idle_limit, self._close_idle) if self._idle else None

    async def _connect(self, deadline: float) -> Connection:
        if self._closed:
            raise HttpError("the client is closed", sent=False)
        loop, url = asyncio.get_running_loop(), self._url
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + self._connect_timeout)):
                connection = await self._connect_to_one()
        except TimeoutError as error:
            raise HttpTimeoutError(f"{url.authority} did not accept the connection in time", sent=False) from error
        except (OSError, UnicodeError) as error:
            raise HttpError(f"cannot connect to {url.authority}: {error}", sent=False) from error
        if self._closed:
            connection.fail(HttpError("the client was closed", sent=False))
            raise HttpError("the client was closed", sent=False)
        return connection

    async def _connect_to_one(self) -> Connection:
        """Connect to the first address that answers; to those alone that were checked. Raises `OSError`."""
        loop, url = asyncio.get_running_loop(), self._url
        hosts = [url.host] if self._networks is None else await self._networks.addresses(url.host, url.port)
        failed = OSError("it has no address")
        for host in hosts:
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(self),
                    host,
                    url.port,
                    ssl=self._tls,
                    server_hostname=url.host if self._tls else None,
                )
            except OSError as error:
                failed = error
            else:
                return connection
        raise failed


@lru_cache(1)
def default_tls() -> ssl.SSLContext:
    """Build the system's trust once: it takes milliseconds."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
