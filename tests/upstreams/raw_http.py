"""A server that answers with whatever bytes a test gives it, and remembers what it was asked."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mcpctl.bus.http_head import Url


@dataclass
class Request:
    verb: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self):
        return json.loads(self.body)

    @property
    def method(self) -> str | None:
        """The method of the JSON-RPC message, if there is one."""
        return self.message.get("method") if self.body else None


@dataclass
class Peer:
    """One accepted connection."""

    server: "RawServer"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self) -> Request | None:
        """Read one whole request; None when the client closed."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            self.server.hung_up.set()
            return None
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        verb, target, _ = first.split(" ")
        request = Request(verb, target, headers, body)
        self.server.requests.append(request)
        return request

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_hung_up(self) -> None:
        while await self.reader.read(65536):
            pass
        self.server.hung_up.set()


@dataclass
class RawServer:
    """`requests` holds what came, `hung_up` is set when a client closed a connection."""

    url: str = ""
    connections: int = 0
    requests: list[Request] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def parsed(self) -> Url:
        return Url.parse(self.url)


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def serving(script: Script, *, tls=None) -> AsyncIterator[RawServer]:
    """Run the script for each connection; close the connection after it."""
    server, writers = RawServer(), []

    async def accept(reader, writer):
        server.connections += 1
        writers.append(writer)
        try:
            await script(Peer(server, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            server.hung_up.set()
        finally:
            writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    server.url = f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/mcp?key=1"
    try:
        yield server
    finally:
        listener.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


def whole(body: bytes, *, status: str = "200 OK", kind: str = "application/json", more: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def always(response: bytes | Callable[[Request], bytes]) -> Script:
    """Answer each request on each connection with these bytes."""

    async def script(peer: Peer) -> None:
        while (request := await peer.request()) is not None:
            await peer.send(response(request) if callable(response) else response)

    return script
