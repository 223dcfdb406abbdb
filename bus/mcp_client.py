"""The client side of MCP's Streamable HTTP, both eras, bytes in and bytes out."""

import asyncio
import math
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

from mcpctl import __version__
from mcpctl.bus.http1 import BodyStream, HttpError, HttpTimeoutError, HttpTooLargeError, Pool, Response
from mcpctl.bus.http_head import FRAMING, Url, header_lines
from mcpctl.bus.mcp_handshake import (
    agreed_version,
    discover_params,
    initialize_params,
    session_id,
    why_not_modern,
)
from mcpctl.bus.mcp_messages import IMPLEMENTATION, LEGACY, MODERN
from mcpctl.bus.mcp_wire import (
    Answer,
    McpAuthError,
    McpSessionLost,
    McpTooLargeError,
    McpTransportError,
    McpWireError,
    PendingCall,
    ServerInfo,
    encode_value,
    method_json,
    method_line,
    name_line,
    read_body,
)
from mcpctl.bus.networks import Networks
from mcpctl.bus.sse import EventStream, EventTooLargeError

__all__ = [
    "LEGACY",
    "MODERN",
    "Answer",
    "McpAuthError",
    "McpHttpClient",
    "McpSessionLost",
    "McpTooLargeError",
    "McpTransportError",
    "McpWireError",
    "ServerInfo",
    "encode_value",
]

MAX_ANSWER = 64 * 1024 * 1024  # bytes
SIDE_TIMEOUT = 10.0  # seconds for a notification or an answer to the server, which have no deadline of their own
FAREWELL_TIMEOUT = 2.0  # seconds for what close() still says
MAX_SIDE_TASKS = 256
RETRY = 1.0  # seconds before a dropped stream is resumed, if the server names no other time
MIN_RETRY = 0.02  # seconds
LONGEST_RETRY = 30.0  # seconds between two attempts to open a stream that nothing is asked on
MAX_BARREN = 3  # resumptions in a row that bring no event
RESUME_LATER = frozenset((409, 429))  # 409: the server has not noticed yet that the old stream is gone
NOT_MODERN = frozenset((400, 404, 405, 406))  # what a legacy server says to server/discover

_OWN = FRAMING | {
    "accept",
    "content-type",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
}

CHANGES = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)
"""Notifications that concern whoever listens, not the request on whose stream they may come."""

OnNotification = Callable[[str, bytes], None]
OnServerRequest = Callable[[str, bytes], bool]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one server is spoken to: the head that all requests share, but for their last lines."""

    modern: bool
    head: bytes
    post: bytes
    session: bool = False


class McpHttpClient:
    """One MCP server. Any number of requests may run at once; connect() runs alone."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        client_info: bytes = IMPLEMENTATION,
        capabilities: bytes = b"{}",
        max_answer: int = MAX_ANSWER,
        connect_timeout: float = 5.0,
        tls: ssl.SSLContext | None = None,
        networks: Networks | None = None,
        redact: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """`networks` as in `Pool`; `redact` is given each message of the server before it is read.

        Raises ValueError for a URL or a header that cannot be sent safely.
        """
        self.server: ServerInfo | None = None
        self.on_change: OnNotification | None = None
        """Hears of every change that the server announces, on whichever stream it comes."""

        self.over = asyncio.Event()
        """Set when the client is closed."""

        self._url = Url.parse(url)
        own = {"User-Agent": f"mcpctl/{__version__}"}
        if any(name.lower() == "user-agent" for name in headers or {}):
            own = {}
        self._headers = header_lines({**own, **(headers or {})}, _OWN)
        self._client_info = client_info
        self._capabilities = capabilities
        self._max_answer = max_answer
        self._redact = redact
        self._pool = Pool(self._url, connect_timeout=connect_timeout, max_body=max_answer, tls=tls, networks=networks)
        self._dialect: Dialect | None = None
        self._ids = count(1)
        self._side: set[asyncio.Task[None]] = set()
        self._closed = False

    async def connect(
        self,
        *,
        timeout: float,
        era: Literal["auto", "modern", "legacy"] = "auto",
    ) -> ServerInfo:
        """Find out which era the server speaks and begin it (2026-07-28, streamable-http, section 6)."""
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            if era != "legacy":
                found = await self._discover(deadline)
                if isinstance(found, ServerInfo):
                    self.server = found
                    return found
                if era == "modern":
                    raise McpWireError(f"the server does not speak {MODERN}: {found}")
            self.server = await self._initialize(deadline)
        except HttpError as error:
            raise McpTransportError(str(error), sent=error.sent) from error
        return self.server

    async def request(
        self,
        method: str,
        params: bytes | None,
        *,
        name: str | None = None,
        on_notification: OnNotification | None = None,
        on_server_request: OnServerRequest | None = None,
        owner: str = "",  # noqa: ARG002 - of the other transport: here a server asks on the stream of its call
        timeout: float,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask and wait. `params` is sent as it is, so it must be one JSON object.

        `on_server_request` gets the method and message of a legacy server's request; if it returns True the
        caller sends the answer by respond(), otherwise the request is refused.
        """
        dialect = self._spoken()
        call = self._call(dialect, on_notification, on_server_request)
        body = b'{"jsonrpc":"2.0","id":%b,"method":%b%b}' % (call.id, method_json(method), members(params))
        post = post_of(dialect, method, name, extra_headers, body)
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            response = await self._pool.exchange(post, deadline)
            if response.stream is None:
                return answer_in(response, call, session=dialect.session)
            return await self._follow(dialect, call, response.stream, deadline)
        except HttpError as error:
            if isinstance(error, HttpTimeoutError) and error.sent:
                self._cancel(dialect, call, b"timed out")
            large = isinstance(error, HttpTooLargeError)
            raise (McpTooLargeError if large else McpTransportError)(str(error), sent=error.sent) from error
        except asyncio.CancelledError:
            self._cancel(dialect, call, b"cancelled by the client")
            raise

    async def notify(self, method: str, params: bytes | None) -> None:
        """Send a notification; returns when the server has taken it."""
        body = b'{"jsonrpc":"2.0","method":%b%b}' % (method_json(method), members(params))
        await self._tell(self._spoken(), method, body, SIDE_TIMEOUT)

    async def respond(self, message: bytes) -> None:
        """Send the answer to a legacy server's request: a whole JSON-RPC response."""
        await self._tell(self._spoken(), None, message, SIDE_TIMEOUT)

    async def stand(self, opened: Callable[[bool], None]) -> None:
        """Hold the stream of a legacy session on which comes what belongs to no call (2025-11-25, transports).

        Calls `opened` whenever it is open, with whether something may have been missed. Returns where the server has no
        such stream. Raises `McpTransportError` where it is away, and `McpSessionLost`.
        """
        dialect, loop = self._spoken(), asyncio.get_running_loop()
        call, events = self._call(dialect, None, None), EventStream(self._max_answer)
        known = missed = False
        failures = 0
        while True:
            began = loop.time()
            try:
                stream = await self._open_standing(dialect, events.last_event_id, known=known)
                if stream is None:
                    return
                opened(missed)
                known, missed = True, False
                await read_stream(stream, events, call)
            except HttpError as error:
                if not error.sent or failures >= MAX_BARREN:
                    raise McpTransportError(str(error), sent=error.sent) from error
            failures = 0 if loop.time() - began > LONGEST_RETRY else failures + 1
            missed = missed or not events.last_event_id
            events.restart()
            wait = RETRY if events.retry is None else max(events.retry, MIN_RETRY)
            await asyncio.sleep(min(LONGEST_RETRY, wait * 2 ** max(0, failures - 1)))

    async def _open_standing(self, dialect: Dialect, last_event: bytes, *, known: bool) -> BodyStream | None:
        """Open that stream; None where there is none. `known` tells whether there was one in this session.

        Raises `HttpError` where it can be tried again, and `McpSessionLost`.
        """
        last = b"Last-Event-ID: %b\r\n" % last_event if last_event else b""
        get = b"GET%bAccept: text/event-stream\r\n%b\r\n" % (dialect.head, last)
        response = await self._pool.exchange(get, math.inf)
        if response.status in RESUME_LATER or response.status >= 500:
            raise HttpError(f"HTTP {response.status} to a GET", sent=True)
        if known and isinstance(fault := refused(response, session=dialect.session), McpSessionLost):
            raise fault  # of a server that never had a stream, 404 may say no more than that
        return response.stream

    async def close(self) -> None:
        """End a legacy session and close all connections; requests that still run fail."""
        if self._closed:
            return
        self._closed = True
        self.over.set()
        try:
            if self._side:
                await asyncio.wait(self._side, timeout=FAREWELL_TIMEOUT)
            await self._end_session()
        finally:
            for task in self._side:
                task.cancel()
            await asyncio.gather(*self._side, return_exceptions=True)
            await self._pool.close()

    def _spoken(self) -> Dialect:
        if self._dialect is None or self._closed:
            raise McpTransportError("the client is not connected", sent=False)
        return self._dialect

    def _begin(self, lines: Mapping[str, str], *, modern: bool) -> Dialect:
        fixed = header_lines({"Accept-Encoding": "identity", **lines}, frozenset())
        head = f" {self._url.target} HTTP/1.1\r\nHost: {self._url.authority}\r\n".encode("ascii")
        head += self._headers + fixed
        kinds = b"Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
        return Dialect(modern, head, b"POST" + head + kinds, session="Mcp-Session-Id" in lines)

    def _call(
        self,
        dialect: Dialect,
        on_notification: OnNotification | None,
        on_server_request: OnServerRequest | None,
    ) -> PendingCall:
        def noted(method: str, message: bytes) -> None:
            if method in CHANGES:
                if self.on_change is not None:
                    self.on_change(method, message)
            elif on_notification is not None:
                on_notification(method, message)

        if dialect.modern:
            return PendingCall(next(self._ids), noted, None, self._redact)

        def heard(method: str, request_id: bytes, message: bytes) -> None:
            if method == "ping":
                self._reply(dialect, request_id, b'"result":{}')
            elif on_server_request is None or not on_server_request(method, message):
                self._reply(dialect, request_id, b'"error":{"code":-32601,"message":"Method not found"}')

        return PendingCall(next(self._ids), noted, heard, self._redact)

    # The handshake

    async def _discover(self, deadline: float) -> ServerInfo | str:
        """Return what the server is, or why it is taken for a legacy one."""
        dialect = self._begin({"MCP-Protocol-Version": MODERN}, modern=True)
        params = discover_params(self._client_info, self._capabilities)
        try:
            answer, _ = await self._shake(dialect, "server/discover", params, deadline)
        except McpTransportError as error:
            if error.status in NOT_MODERN:
                return str(error)
            raise
        reason = why_not_modern(answer)
        if answer.result is None or reason:
            return reason
        self._dialect = dialect
        return ServerInfo("modern", MODERN, answer.result)

    async def _initialize(self, deadline: float) -> ServerInfo:
        params = initialize_params(self._client_info, self._capabilities)
        answer, response = await self._shake(self._begin({}, modern=False), "initialize", params, deadline)
        version = agreed_version(answer)
        lines = {"MCP-Protocol-Version": version}
        session = response.header(b"mcp-session-id")
        if session:
            lines["Mcp-Session-Id"] = session_id(session)
        dialect = self._begin(lines, modern=False)
        body = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
        remaining = deadline - asyncio.get_running_loop().time()
        try:
            await self._tell(dialect, None, body, remaining)
        except McpSessionLost as error:
            raise McpTransportError("the server forgot the session at once", sent=True, status=404) from error
        self._dialect = dialect
        return ServerInfo("legacy", version, answer.result or b"")

    async def _shake(
        self,
        dialect: Dialect,
        method: str,
        params: bytes,
        deadline: float,
    ) -> tuple[Answer, Response]:
        call = self._call(dialect, None, None)
        body = b'{"jsonrpc":"2.0","id":%b,"method":%b%b}' % (call.id, method_json(method), members(params))
        response = await self._pool.exchange(post_of(dialect, method, None, None, body), deadline)
        if response.status >= 500:
            raise refused(response)
        if response.stream is None:
            return answer_in(response, call, session=False), response
        return await self._follow(dialect, call, response.stream, deadline), response

    # Streams

    async def _follow(
        self,
        dialect: Dialect,
        call: PendingCall,
        stream: BodyStream,
        deadline: float,
    ) -> Answer:
        """Read a stream to its answer; resume it where it was dropped (2025-11-25, Resumability)."""
        events = EventStream(self._max_answer)
        barren = 0
        source: BodyStream | None = stream
        while True:
            seen, lost = events.last_event_id, "the stream ended without an answer"
            try:
                source = source or await self._resume(dialect, events, deadline)
                answer = await read_stream(source, events, call)
            except HttpTimeoutError as error:
                error.sent = True  # the request was, whatever became of its resumption
                raise
            except HttpError as error:
                answer, lost = None, str(error)
            if answer is not None:
                return answer
            source = None
            barren = 0 if events.last_event_id != seen else barren + 1
            if dialect.modern or not events.last_event_id or barren >= MAX_BARREN:
                raise McpTransportError(lost, sent=True)

    async def _resume(self, dialect: Dialect, events: EventStream, deadline: float) -> BodyStream:
        loop = asyncio.get_running_loop()
        wait = RETRY if events.retry is None else max(events.retry, MIN_RETRY)
        await asyncio.sleep(min(wait, max(0.0, deadline - loop.time())))
        events.restart()
        get = b"GET%bAccept: text/event-stream\r\nLast-Event-ID: %b\r\n\r\n" % (
            dialect.head,
            events.last_event_id,
        )
        response = await self._pool.exchange(get, deadline)
        if response.stream is not None:
            return response.stream
        if response.status == 200:
            raise McpWireError("a resumed stream is not text/event-stream")
        if response.status in RESUME_LATER or response.status >= 500:
            raise HttpError(f"HTTP {response.status} to a resumption", sent=True)
        # Not McpSessionLost, even for 404: the request itself was taken and must not be sent again.
        raise refused(response)

    # What is said beside the requests

    async def _tell(self, dialect: Dialect, method: str | None, body: bytes, timeout: float) -> None:
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            response = await self._pool.exchange(post_of(dialect, method, None, None, body), deadline)
        except HttpError as error:
            raise McpTransportError(str(error), sent=error.sent) from error
        if response.stream is not None:
            response.stream.abandon()
        elif not 200 <= response.status < 300:
            raise refused(response, session=dialect.session)

    def _reply(self, dialect: Dialect, request_id: bytes, outcome: bytes) -> None:
        if len(self._side) >= MAX_SIDE_TASKS:
            raise McpWireError("the server sends more requests than it takes answers")
        body = b'{"jsonrpc":"2.0","id":%b,%b}' % (request_id, outcome)
        self._hold(self._tell_quietly(dialect, body))

    def _cancel(self, dialect: Dialect, call: PendingCall, reason: bytes) -> None:
        """Tell a legacy server; for a modern one the closed connection says it."""
        if dialect.modern or self._closed:
            return
        body = (b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%b,"reason":"%b"}}') % (
            call.id,
            reason,
        )
        self._hold(self._tell_quietly(dialect, body))

    async def _tell_quietly(self, dialect: Dialect, body: bytes) -> None:
        try:
            await self._tell(dialect, None, body, SIDE_TIMEOUT)
        except (McpTransportError, McpSessionLost):
            return  # nobody waits for it, and the server's own timeouts cover the loss

    def _hold(self, telling: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(telling)
        self._side.add(task)
        task.add_done_callback(self._side.discard)

    async def _end_session(self) -> None:
        if self._dialect is None or not self._dialect.session:
            return
        deadline = asyncio.get_running_loop().time() + FAREWELL_TIMEOUT
        try:
            response = await self._pool.exchange(b"DELETE%b\r\n" % self._dialect.head, deadline)
        except HttpError:
            return
        if response.stream is not None:
            response.stream.abandon()


def members(params: bytes | None) -> bytes:
    return b"" if params is None else b',"params":' + params


def post_of(
    dialect: Dialect,
    method: str | None,
    name: str | None,
    extra: Mapping[str, str] | None,
    body: bytes,
) -> bytes:
    head = dialect.post
    if dialect.modern and method is not None:
        head += method_line(method)
        if name is not None:
            head += name_line(name)
    if extra:
        head += header_lines(extra, _OWN)
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(body), body)


def answer_in(response: Response, call: PendingCall, *, session: bool) -> Answer:
    """Read a whole response; an HTTP error may carry a JSON-RPC error, which then is the answer."""
    json = response.media_type() == b"application/json"
    if 200 <= response.status < 300:
        if not json:
            kind = response.media_type().decode("ascii", "replace")
            raise McpWireError(f"HTTP {response.status} with {kind or 'no content type'} is not an answer")
        return read_body(call, response.body)
    fault = refused(response, session=session)
    if json and isinstance(fault, McpTransportError) and not isinstance(fault, McpAuthError):
        answer = call.refusal(response.body)
        if answer is not None:
            return answer
    raise fault


def refused(response: Response, *, session: bool = False) -> McpTransportError | McpSessionLost:
    status = response.status
    if status in (401, 403):
        challenge = response.header(b"www-authenticate").decode("latin-1")
        return McpAuthError(f"HTTP {status}", sent=True, status=status, challenge=challenge)
    if status == 404 and session:
        return McpSessionLost("the server does not know the session any more")
    hint = " (redirects are not followed)" if 300 <= status < 400 else ""
    return McpTransportError(f"HTTP {status}{hint}", sent=True, status=status)


async def read_stream(stream: BodyStream, events: EventStream, call: PendingCall) -> Answer | None:
    """Return the answer, or None when the stream ends before it."""
    try:
        while chunk := await stream.read():
            for data in events.feed(chunk):
                answer = call.take(data)
                if answer is not None:
                    stream.detach()
                    return answer
    except EventTooLargeError as error:
        stream.abandon()
        raise McpTooLargeError(str(error), sent=True) from error
    except BaseException:
        stream.abandon()
        raise
    return None
