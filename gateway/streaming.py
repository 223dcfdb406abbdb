"""Server-sent events: one JSON-RPC message an event, flushed at once, and comments while nothing happens."""

from typing import Self

import msgspec
from aiohttp import web

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class EventStream:
    """An open stream to one client. A client that has gone is a `ConnectionError` at the next write."""

    def __init__(self, http: web.StreamResponse) -> None:
        self.http = http

    @classmethod
    async def open(cls, request: web.BaseRequest) -> Self:
        http = web.StreamResponse(headers=HEADERS)
        await http.prepare(request)
        return cls(http)

    async def send(self, message: bytes) -> None:
        """Write a message as one event."""
        if b"\n" in message or b"\r" in message:  # an event ends at a newline; JSON needs none
            message = msgspec.json.format(message, indent=-1)
        await self.http.write(b"event: message\ndata: " + message + b"\n\n")

    async def keep_alive(self) -> None:
        """Write a comment: proxies cut a connection on which nothing passes."""
        await self.http.write(b": still working\n\n")

    async def close(self) -> None:
        await self.http.write_eof()
