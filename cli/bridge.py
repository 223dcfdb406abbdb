"""`mcpctl mcp`: a project over stdio, for clients that speak nothing else.

Messages pass as they are; what the Streamable HTTP transport wants beside them (headers, the session's id, the closed
connection that cancels) is added here. (2025-11-25 and 2026-07-28, basic/transports.)
"""

import asyncio
import logging
import signal
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import structlog
import typer

from mcpctl.bus.connection import Tasks, cancel
from mcpctl.bus.http1 import BodyStream, HttpError, Pool, Response
from mcpctl.bus.http_head import Url, header_lines
from mcpctl.bus.mcp_messages import INVALID_REQUEST, PARSE_ERROR
from mcpctl.bus.sse import EventStream, EventTooLargeError
from mcpctl.cli.bridge_messages import (
    ADVICE,
    SERVER_ERROR,
    answer_of,
    failure,
    is_answer,
    key_of,
    stateless_head,
    version_of,
)
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.gateway import as_agent, endpoint, trusted
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import note
from mcpctl.cli.stdio_lines import stdin_lines, write_line

FOREVER = 24 * 3600.0
"""Seconds that a call may take: its client decides when to give up."""

PATIENCE = 30.0
"""Seconds for what has no answer that a client waits for."""

FAREWELL = 2.0
"""Seconds for what still runs when the client has gone."""

LARGEST = 64 * 1024 * 1024
INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


@dataclass(eq=False)
class Asked:
    """A request of the client that has no answer yet."""

    message: dict[str, Any]
    version: str | None
    """The revision that it names itself: that of a stateless request."""
    task: asyncio.Task[None] | None = None
    cancelled: bool = False

    @property
    def id(self) -> Any:
        return self.message["id"]

    @property
    def method(self) -> str:
        return str(self.message["method"])


def mcp(
    *,
    project: Annotated[str, typer.Option("-p", "--project", metavar="PROJECT", help="Project to serve.")],
    server: Annotated[str | None, typer.Option(metavar="SERVER", help="Only this server of it.")] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="@FILE", help="File with the bearer (default: $MCPCTL_TOKEN, or your login session)."),
    ] = None,
    gateway_url: Annotated[
        str | None, typer.Option(metavar="URL", help="The gateway, such as http://host:3200 (default: the context's).")
    ] = None,
    context: ContextName = None,
) -> None:
    """Serve a project over stdio: for MCP clients that can only start a command.

    \b
    Examples:
      mcpctl mcp -p demo
      MCPCTL_TOKEN=... mcpctl mcp -p demo --server time
      {"mcpServers": {"demo": {"command": "mcpctl", "args": ["mcp", "-p", "demo"]}}}
    """  # noqa: D301 - \b keeps the examples' lines apart
    if token == "-":  # noqa: S105 - stdin, not a secret
        raise CliError("stdin carries the messages here: give the token by $MCPCTL_TOKEN or @FILE", USAGE)
    found, bearer = as_agent(context, token, gateway_url)
    # stdout belongs to the messages, and a library's log would go there
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        bridge = Bridge(endpoint(found, project, server), bearer, tls=trusted(found))
    except ValueError as error:
        raise CliError(str(error), USAGE) from error
    asyncio.run(bridge.run())


class Bridge:
    """One client on stdin and stdout, one endpoint behind."""

    def __init__(self, url: str, bearer: str, *, tls: ssl.SSLContext | None) -> None:
        """Raise `ValueError` for a URL or bearer that cannot be sent safely."""
        self._url = Url.parse(url)
        self._pool = Pool(self._url, connect_timeout=5.0, max_body=LARGEST, tls=tls)
        self._fixed = header_lines({"Authorization": f"Bearer {bearer}"})
        self._hello: Asked | None = None
        self._session = b""
        """Header lines of the legacy session."""
        self._renewing = asyncio.Lock()
        self._asked: dict[str, Asked] = {}
        self._tasks = Tasks()
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Carry messages until the client closes stdin or stdout, or SIGTERM."""
        self._reading = asyncio.create_task(self._read())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._reading.cancel)
        with suppress(asyncio.CancelledError):
            await self._reading
        await self._tasks.finish(FAREWELL)
        if self._session:
            with suppress(HttpError):
                await self._exchange(b"DELETE", self._session, None, FAREWELL)
        await self._pool.close()

    def _say(self, message: bytes) -> None:
        try:
            write_line(message)
        except OSError:  # the client has gone
            if self._reading is not None:
                self._reading.cancel()

    # --- from the client ---

    async def _read(self) -> None:
        async for line in stdin_lines():
            try:
                message = orjson.loads(line)
            except orjson.JSONDecodeError:
                self._say(failure(None, PARSE_ERROR, "the line is not JSON"))
                continue
            if not isinstance(message, dict) or not isinstance(message.get("method", ""), str):
                self._say(failure(None, INVALID_REQUEST, "a line must be one JSON-RPC message"))
            else:
                await self._take(message, line)

    async def _take(self, message: dict[str, Any], line: bytes) -> None:
        if "method" not in message or "id" not in message:
            await self._pass_on(message, line)
            return
        asked = Asked(message, version_of(message))
        key = key_of(message["id"])
        self._asked[key] = asked
        asked.task = self._tasks.start(self._request(asked, line))
        asked.task.add_done_callback(lambda _: self._forget(key, asked))
        if asked.method == "initialize":
            await asyncio.wait({asked.task})  # what follows belongs to its session

    def _forget(self, key: str, asked: Asked) -> None:
        if self._asked.get(key) is asked:
            del self._asked[key]

    async def _pass_on(self, message: dict[str, Any], line: bytes) -> None:
        """Send what has no answer: a notification, or an answer to the server."""
        params = message.get("params")
        if message.get("method") == "notifications/cancelled" and isinstance(params, dict):
            asked = self._asked.get(key_of(params.get("requestId")))
            if asked is not None:
                asked.cancelled = True
            if asked is not None and asked.version is not None and asked.task is not None:
                await cancel(asked.task)  # 2026-07-28: the closed connection says it
                return
        if self._session:  # a stateless request has nothing beside it that a server would wait for
            await self._tell(line)

    async def _tell(self, line: bytes) -> None:
        try:
            response = await self._exchange(b"POST", self._session, line, PATIENCE)
        except HttpError as error:
            note(f"mcpctl mcp: not delivered: {error}")
            return
        if response.stream is not None:
            response.stream.abandon()
        elif response.status >= 400:
            note(f"mcpctl mcp: not delivered: {ADVICE.get(response.status, f'HTTP {response.status}')}")

    # --- to the gateway, and back ---

    async def _request(self, asked: Asked, line: bytes) -> None:
        """Ask, and write what comes back; whatever happens, a request that nobody cancelled gets an answer."""
        try:
            answer = await self._ask(asked, line)
        except HttpError as error:
            answer = failure(asked.id, SERVER_ERROR, f"no answer from the gateway: {error} (see mcpctl status)")
        except EventTooLargeError as error:
            answer = failure(asked.id, SERVER_ERROR, str(error))
        except ValueError as error:  # no header can carry it
            answer = failure(asked.id, INVALID_REQUEST, str(error))
        if answer is not None and not asked.cancelled:
            self._say(answer)

    async def _ask(self, asked: Asked, line: bytes) -> bytes | None:
        """Return the answer that is still to be written. Raises `HttpError`, `EventTooLargeError`, `ValueError`."""
        async with self._renewing:  # while a session is opened anew, there is none to ask in
            session = self._session
        response = await self._post(asked, line)
        if response.status == 404 and asked.version is None and session and await self._renew(session):
            response = await self._post(asked, line)
        if asked.method == "initialize":
            self._begin(response, asked)
        if response.stream is None:
            return answer_of(response, asked.id)
        if await self._relay(response.stream, asked.id):
            return None
        return failure(asked.id, SERVER_ERROR, "the gateway ended the stream without an answer")

    async def _post(self, asked: Asked, line: bytes) -> Response:
        if asked.version is not None:
            head = stateless_head(asked.message, asked.version)
        else:
            head = b"" if asked.method == "initialize" else self._session
        return await self._exchange(b"POST", head, line, FOREVER)

    def _begin(self, response: Response, hello: Asked) -> None:
        """Note the session that an answer to `initialize` opens, and listen to what the server says of itself."""
        session = response.header(b"mcp-session-id")
        if not session:
            return
        params = hello.message.get("params")
        version = params.get("protocolVersion") if isinstance(params, dict) else None
        if response.stream is None:
            with suppress(orjson.JSONDecodeError, KeyError, TypeError):
                version = orjson.loads(response.body)["result"]["protocolVersion"]
        self._hello = hello
        self._session = header_lines({"Mcp-Session-Id": session.decode("ascii"), "MCP-Protocol-Version": str(version)})
        self._tasks.start(self._listen())

    async def _renew(self, lost: bytes) -> bool:
        """Open a session in place of one that the gateway has forgotten; its client need not know of it."""
        async with self._renewing:
            if self._session != lost or self._hello is None:
                return bool(self._session)
            self._session = b""
            response = await self._exchange(b"POST", b"", orjson.dumps(self._hello.message), PATIENCE)
            if response.stream is not None:
                response.stream.abandon()
            self._begin(response, self._hello)
            if self._session:
                await self._tell(INITIALIZED)
            return bool(self._session)

    async def _listen(self) -> None:
        """Relay what comes outside of any request, where the gateway offers it."""
        with suppress(HttpError, EventTooLargeError):
            response = await self._exchange(b"GET", self._session, None, FOREVER)
            if response.stream is not None:
                await self._relay(response.stream, None)

    async def _relay(self, stream: BodyStream, awaited: Any) -> bool:
        """Write each message of a stream; return whether the awaited answer was among them."""
        events = EventStream(LARGEST)
        try:
            while chunk := await stream.read():
                for data in events.feed(chunk):
                    self._say(data)
                    if awaited is not None and is_answer(data, awaited):
                        stream.detach()
                        return True
        except BaseException:
            stream.abandon()
            raise
        return False

    async def _exchange(self, method: bytes, lines: bytes, body: bytes | None, seconds: float) -> Response:
        url = self._url
        head = method + f" {url.target} HTTP/1.1\r\nHost: {url.authority}\r\nAccept-Encoding: identity\r\n".encode()
        head += self._fixed + lines
        if method != b"DELETE":
            head += b"Accept: " + (b"" if method == b"GET" else b"application/json, ") + b"text/event-stream\r\n"
        if body is not None:
            head += b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        deadline = asyncio.get_running_loop().time() + seconds
        return await self._pool.exchange(head + b"\r\n" + (body or b""), deadline)
