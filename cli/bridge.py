"""`mcpctl mcp`: a project over stdio, for clients that speak nothing else.

Messages pass as they are; what the Streamable HTTP transport wants beside them (headers, the session's id, the closed
connection that cancels) is added here. (2025-11-25 and 2026-07-28, basic/transports.)
"""

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import orjson
import typer

from mcpctl.bus.connection import Tasks, cancel
from mcpctl.bus.http1 import BodyStream, HttpError, Pool, Response
from mcpctl.bus.http_head import Url, header_lines
from mcpctl.bus.mcp_messages import MODERN, PROTOCOL_VERSION
from mcpctl.bus.mcp_wire import method_line, name_line
from mcpctl.bus.sse import EventStream
from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.gateway import as_agent, endpoint
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import note

FOREVER = 24 * 3600.0
"""Seconds that a call may take: its client decides when to give up."""

FAREWELL = 2.0
"""Seconds for what still runs when the client has gone."""

LARGEST = 64 * 1024 * 1024
AT_ONCE = 512
NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

SERVER_ERROR = -32000
PARSE_ERROR = -32700

ADVICE = {
    401: "the gateway does not accept the bearer: it is unknown, expired or revoked",
    403: "this bearer may not use this project",
    404: "the gateway does not know this session any more: start again",
    503: "the gateway or a part behind it is away: try again",
}


def mcp(
    *,
    project: Annotated[str, typer.Option("-p", "--project", metavar="PROJECT", help="Project to serve.")],
    server: Annotated[str | None, typer.Option(metavar="SERVER", help="Only this server of it.")] = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN", help="Bearer, or @FILE (default: $MCPCTL_TOKEN, or your login session)."),
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
    found, bearer = as_agent(context, token)
    try:
        bridge = Bridge(endpoint(found, project, server), bearer)
    except ValueError as error:
        raise CliError(str(error), USAGE) from error
    asyncio.run(bridge.run())


class Bridge:
    """One client on stdin and stdout, one endpoint behind."""

    def __init__(self, url: str, bearer: str) -> None:
        """Raise `ValueError` for a URL or bearer that cannot be sent safely."""
        self._url = Url.parse(url)
        self._pool = Pool(self._url, connect_timeout=5.0, max_body=LARGEST, tls=None)
        self._fixed = header_lines({"Authorization": f"Bearer {bearer}"})
        self._session = b""
        """Header lines of the legacy session."""
        self._running: dict[str, asyncio.Task[None]] = {}
        self._tasks = Tasks(AT_ONCE)

    async def run(self) -> None:
        """Carry messages until the client closes stdin, or SIGTERM."""
        reading = asyncio.create_task(self._read())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, reading.cancel)
        with suppress(asyncio.CancelledError):
            await reading
        await self._tasks.finish(FAREWELL)
        if self._session:
            with suppress(HttpError):
                await self._exchange(b"DELETE", self._session, None, FAREWELL)
        await self._pool.close()

    async def _read(self) -> None:
        async for line in stdin_lines():
            try:
                message = orjson.loads(line)
            except orjson.JSONDecodeError:
                message = None
            if not isinstance(message, dict):
                say(failure(None, PARSE_ERROR, "a line must be one JSON-RPC message"))
                continue
            await self._take(message, line)

    async def _take(self, message: dict[str, Any], line: bytes) -> None:
        if "method" in message and "id" in message:
            task = self._tasks.start(self._request(message, line))
            key = key_of(message["id"])
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
            if message["method"] == "initialize":
                await asyncio.wait({task})  # what follows belongs to its session
            return
        if message.get("method") == "notifications/cancelled":
            params = message.get("params")
            asked = self._running.get(key_of(params.get("requestId"))) if isinstance(params, dict) else None
            if asked is not None and not self._session:
                await cancel(asked)  # 2026-07-28: the closed connection says it
                return
        await self._tell(line)

    async def _tell(self, line: bytes) -> None:
        """Send what has no answer: a notification, or an answer to the server."""
        try:
            response = await self._exchange(b"POST", self._session, line, FOREVER)
        except HttpError as error:
            note(f"mcpctl mcp: not delivered: {error}")
            return
        if response.stream is not None:
            response.stream.abandon()
        elif response.status >= 400:
            note(f"mcpctl mcp: not delivered: {ADVICE.get(response.status, f'HTTP {response.status}')}")

    async def _request(self, message: dict[str, Any], line: bytes) -> None:
        answered = False
        try:
            response = await self._exchange(b"POST", self._head_of(message), line, FOREVER)
            if message["method"] == "initialize":
                self._begin(response, message)
            if response.stream is not None:
                answered = await self._relay(response.stream, message["id"])
            else:
                say(answer_of(response, message["id"]))
                answered = True
        except HttpError as error:
            say(failure(message["id"], SERVER_ERROR, f"the gateway cannot be reached: {error}"))
            return
        if not answered:
            say(failure(message["id"], SERVER_ERROR, "the gateway ended the stream without an answer"))

    def _head_of(self, message: dict[str, Any]) -> bytes:
        """Return the header lines that mirror a message (2026-07-28), or those of the session."""
        params = message.get("params")
        meta = params.get("_meta") if isinstance(params, dict) else None
        version = meta.get(PROTOCOL_VERSION) if isinstance(meta, dict) else None
        if version != MODERN:
            return b"" if message["method"] == "initialize" else self._session
        head = header_lines({"MCP-Protocol-Version": MODERN}) + method_line(message["method"])
        named = params.get(NAMED_BY.get(message["method"], "")) if isinstance(params, dict) else None
        return head + (name_line(named) if isinstance(named, str) else b"")

    def _begin(self, response: Response, message: dict[str, Any]) -> None:
        """Note the session that an answer to `initialize` opens, and listen to what the server says of itself."""
        session = response.header(b"mcp-session-id")
        if not session:
            return
        params = message.get("params")
        version = params.get("protocolVersion") if isinstance(params, dict) else None
        if response.stream is None:
            with suppress(orjson.JSONDecodeError, KeyError, TypeError):
                version = orjson.loads(response.body)["result"]["protocolVersion"]
        self._session = header_lines({"Mcp-Session-Id": session.decode("ascii"), "MCP-Protocol-Version": str(version)})
        self._tasks.start(self._listen())

    async def _listen(self) -> None:
        """Relay what comes outside of any request, where the gateway offers it."""
        with suppress(HttpError):
            response = await self._exchange(b"GET", self._session, None, FOREVER)
            if response.stream is not None:
                await self._relay(response.stream, None)

    async def _relay(self, stream: BodyStream, awaited: Any) -> bool:
        """Write each message of a stream; return whether the awaited answer was among them."""
        events = EventStream(LARGEST)
        try:
            while chunk := await stream.read():
                for data in events.feed(chunk):
                    say(data)
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


async def stdin_lines() -> AsyncIterator[bytes]:
    """Yield the lines of stdin that are not empty, until it is closed."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended
            for line in sys.stdin.buffer:
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, b"")

    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        if line.strip():
            yield line.strip()


def say(message: bytes) -> None:
    """Write a message as one line."""
    if b"\n" in message or b"\r" in message:
        with suppress(msgspec.DecodeError):
            message = msgspec.json.format(message, indent=-1)
    sys.stdout.buffer.write(message + b"\n")
    sys.stdout.buffer.flush()


def key_of(request_id: object) -> str:
    return f"{type(request_id).__name__}:{request_id}"


def failure(request_id: object, code: int, text: str) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}})


def answer_of(response: Response, request_id: object) -> bytes:
    """Return the JSON-RPC message that a whole response is, or stands for."""
    try:
        body = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        body = None
    if isinstance(body, dict) and ("result" in body or isinstance(body.get("error"), dict)):
        if body.get("id") == request_id:
            return response.body
        if "error" in body:  # refused before the gateway had read whose it is
            return orjson.dumps(body | {"id": request_id})
    return failure(request_id, SERVER_ERROR, ADVICE.get(response.status, f"the gateway answers HTTP {response.status}"))


def is_answer(data: bytes, request_id: object) -> bool:
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and "method" not in message and message.get("id") == request_id
