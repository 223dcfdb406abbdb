"""Server-sent events: one JSON-RPC message an event, flushed at once, and comments while nothing happens."""

from collections.abc import Callable
from typing import Self

import msgspec
from aiohttp import web

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

RETRY_MS = 500
"""How long a client is asked to wait before it comes back for the rest of a stream."""


class EventStream:
    """An open stream to one client. A client that has gone is a `ConnectionError` at the next write."""

    def __init__(self, http: web.StreamResponse) -> None:
        self.http = http

    @classmethod
    async def open(cls, request: web.BaseRequest) -> Self:
        http = web.StreamResponse(headers=HEADERS)
        await http.prepare(request)
        return cls(http)

    async def prime(self, event_id: str) -> None:
        """Say by which id the client may come back before the first message."""
        await self.http.write(f"id: {event_id}\nretry: {RETRY_MS}\ndata: \n\n".encode())

    async def send(self, message: bytes, event_id: str = "") -> None:
        """Write a message as one event."""
        if b"\n" in message or b"\r" in message:  # an event ends at a newline; JSON needs none
            message = msgspec.json.format(message, indent=-1)
        line = f"id: {event_id}\n".encode() if event_id else b""
        await self.http.write(b"event: message\n" + line + b"data: " + message + b"\n\n")

    async def keep_alive(self) -> None:
        """Write a comment: proxies cut a connection on which nothing passes."""
        await self.http.write(b": still working\n\n")

    async def close(self) -> None:
        await self.http.write_eof()


def cut_off(request: web.BaseRequest) -> Callable[[], None] | None:
    """Return what closes a client's connection, whatever it has not read yet."""
    return request.transport.abort if request.transport is not None else None
