"""A server that is placed on a site, as one caller sees it from another router: a server of 2026-07-28 over the bus.

Each request carries that caller's bearer, and is decided by the site's router like any other.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

import msgspec

from mcpctl.bus.connection import Delivery
from mcpctl.bus.contracts.catalog import UpstreamServer
from mcpctl.bus.errors import BusError, TooLarge, Unavailable
from mcpctl.bus.frames import FIRST_FRAME_WITHIN, PRESENT_EVERY, Reply, Request, decode_reply, encode
from mcpctl.bus.mcp_client import CHANGES, Answer, McpTransportError, McpWireError, ServerInfo
from mcpctl.bus.mcp_messages import MODERN, MODERN_MEMBERS, decode_envelope

LONGEST = 64 * 1024 * 1024
"""Bytes of frames that one request may hold."""

LONG_ENOUGH = 86_400.0
"""Seconds: the budget of a listen has no meaning."""

Notify = Callable[[str, bytes], None]


class Exchange:
    """One request to a router of a site, and the numbered frames that come for it.

    `body` is the result, or the JSON-RPC error, at the end.
    """

    def __init__(self, site: str, message: bytes, notify: Callable[[bytes], None]) -> None:
        self.site, self.message = site, message
        self.body, self.is_error = b"", False
        self.taken = True
        """Unless nobody was there when the request came: then nothing of it was carried out."""
        self._notify = notify
        self._frames: asyncio.Queue[Delivery] = asyncio.Queue()
        self._router, self._number, self._size = "", 0, 0
        self._parts: list[bytes] = []

    def begin(self, router: str) -> None:
        """Begin (anew) at a router."""
        self.taken, self._router, self._number, self._parts = True, router, 0, []

    def put(self, msg: Delivery) -> None:
        """Take a frame."""
        if self._size <= LONGEST:
            self._size += len(msg.data)
            self._frames.put_nowait(msg)

    async def frames(self, is_there: Callable[[], bool]) -> str | None:
        """Read to the end; return the router that is to be asked instead, if one is. Raises `BusError`."""
        while True:
            head, body = await self._next(is_there)
            if head.kind == "moved":
                return head.router or ""
            if head.fault is not None:
                raise BusError.of(*head.fault)
            if head.kind == "part":
                self._parts.append(body)
            elif head.kind == "end":
                self.body, self.is_error = b"".join([*self._parts, body]), head.error
                return None
            elif head.kind == "msg":
                message, self._parts = b"".join([*self._parts, body]), []
                self._size -= len(message)
                self._notify(message)

    async def _next(self, is_there: Callable[[], bool]) -> tuple[Reply, bytes]:
        while True:
            try:
                async with asyncio.timeout(PRESENT_EVERY if self._number else FIRST_FRAME_WITHIN):
                    msg = await self._frames.get()
                break
            except TimeoutError:
                if not (self._number and is_there()):
                    raise self._not_reached() from None
        if self._size > LONGEST:
            raise TooLarge(f"site {self.site} answers with more than {LONGEST} bytes")
        if (msg.headers or {}).get("Status") == "503":
            self.taken = False
            raise self._not_reached()
        head, body = decode_reply(msg.data)
        if head.number != self._number + 1:
            raise Unavailable(f"site {self.site}: frames of the answer were lost")
        self._number = head.number
        return head, body

    def _not_reached(self) -> Unavailable:
        return Unavailable(f"site {self.site} is not reached: its router {self._router} does not answer")


class SiteClient:
    """One server at a site, for one caller. `ask` sends an exchange to one of the site's routers."""

    alive = True

    def __init__(self, ask: Callable[[Exchange], Awaitable[None]], server: UpstreamServer, head: Request) -> None:
        self.server: ServerInfo | None = None
        self.on_change: Notify | None = None
        self.over = asyncio.Event()
        self._ask, self._site = ask, server.placement
        self._head = msgspec.structs.replace(head, server=server.name, request_id=None, headers=None)

    async def connect(self, *, timeout: float, era: Literal["auto", "modern", "legacy"] = "auto") -> ServerInfo:
        """Ask what the server is. Raises `BusError` where the site is not reached."""
        del era  # the site's router translates
        answer = await self.request("server/discover", b'{"_meta":{' + MODERN_MEMBERS + b"}}", timeout=timeout)
        if answer.result is None:
            raise McpWireError(f"the router of site {self._site} does not describe it")
        self.server = ServerInfo("modern", MODERN, answer.result)
        return self.server

    async def request(
        self,
        method: str,
        params: bytes | None,
        *,
        name: str | None = None,
        on_notification: Notify | None = None,
        on_server_request: Callable[[str, bytes], bool] | None = None,
        owner: str = "",
        timeout: float,
        extra_headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask and wait, as `McpHttpClient` does. Raises `BusError`, and `McpTransportError` after `timeout`."""
        del name, on_server_request, owner, extra_headers  # what they are for is done by the site's router

        def noted(message: bytes) -> None:
            said = str(decode_envelope(message).method)
            if said in CHANGES:
                if self.on_change is not None:
                    self.on_change(said, message)
            elif on_notification is not None:
                on_notification(said, message)

        head = msgspec.structs.replace(
            self._head,
            method=method,
            budget=int(min(timeout, LONG_ENOUGH) * 1000),
            correlation=f"{random.getrandbits(96):024x}",
        )
        exchange = Exchange(self._site, encode(head, params or b"{}"), noted)
        try:
            async with asyncio.timeout(timeout):
                await self._ask(exchange)
        except TimeoutError:
            raise McpTransportError(f"no answer within {timeout:g} s", sent=True) from None
        if exchange.is_error:
            return Answer(result=None, error=exchange.body)
        return Answer(result=exchange.body, error=None)

    async def respond(self, message: bytes) -> None:
        """Refuse: on the bus no server asks its client anything in the middle of a call."""
        raise McpTransportError(f"nothing asked for {message[:100]!r}", sent=False)

    async def stand(self, opened: Callable[[bool], None]) -> None:
        """Return at once: there is no stream beside those of requests."""
        del opened

    async def close(self) -> None:
        """Note that the client is not to be used any more."""
        self.over.set()
