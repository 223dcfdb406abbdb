"""Server-sent events: one JSON-RPC message an event, flushed at once, and comments while nothing happens.

Each write asks first whether the gateway may still vouch for its client: a process that was stopped, while a token was
revoked, learns of that only after it has gone on.
"""

from collections.abc import Callable
from typing import Self

import msgspec
from aiohttp import web

from mcpctl.bus import measured

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}

VOUCHES: web.AppKey[Callable[[], bool]] = web.AppKey("vouches", Callable[[], bool])  # type: ignore[arg-type]
"""Of the application: whether what is known of bearers may be believed now."""

RETRY_MS = 500
"""How long a client is asked to wait before it comes back for the rest of a stream."""


class EventStream:
    """An open stream to one client.

    A client that has gone is a `ConnectionError` at the next write, and so is one that nobody can vouch for any more:
    its connection is closed without a further byte.
    """

    def __init__(self, request: web.BaseRequest, http: web.StreamResponse, vouches: Callable[[], bool]) -> None:
        self.http = http
        self._request, self._vouches = request, vouches

    @classmethod
    async def open(cls, request: web.Request) -> Self:
        """Begin the answer to a request. Raises `ConnectionError`."""
        stream = cls(request, web.StreamResponse(headers=HEADERS), request.app[VOUCHES])
        stream._demand_vouched()
        await stream.http.prepare(request)
        return stream

    def _demand_vouched(self) -> None:
        if not self._vouches():
            cut = cut_off(self._request)
            if cut is not None:
                cut()
            raise ConnectionAbortedError("what the client may do can no longer be confirmed")

    async def _write(self, data: bytes) -> None:
        self._demand_vouched()
        measured.STREAM_BYTES.add(by=len(data))
        await self.http.write(data)

    async def prime(self, event_id: str) -> None:
        """Say by which id the client may come back before the first message."""
        await self._write(f"id: {event_id}\nretry: {RETRY_MS}\ndata: \n\n".encode())

    async def send(self, message: bytes, event_id: str = "") -> None:
        """Write a message as one event."""
        if b"\n" in message or b"\r" in message:  # an event ends at a newline; JSON needs none
            message = msgspec.json.format(message, indent=-1)
        line = f"id: {event_id}\n".encode() if event_id else b""
        await self._write(b"event: message\n" + line + b"data: " + message + b"\n\n")

    async def keep_alive(self) -> None:
        """Write a comment: proxies cut a connection on which nothing passes."""
        await self._write(b": still working\n\n")

    async def close(self) -> None:
        self._demand_vouched()
        await self.http.write_eof()


def cut_off(request: web.BaseRequest) -> Callable[[], None] | None:
    """Return what closes a client's connection, whatever it has not read yet."""
    return request.transport.abort if request.transport is not None else None
