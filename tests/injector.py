"""A reverse proxy for test clients that cannot send a bearer: it adds one, and sends each request to the next target.

One connection carries one request, in raw bytes: nothing is buffered or rewritten in either direction but the head of
the request, and whoever hangs up takes the other side along.
"""

import asyncio
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from urllib.parse import urlsplit

from tests.wire_tap import Tap

PIECE = 65536


class Injector:
    """Listens on `url`; `tap` has seen every exchange that is over. Without a token, the client's own is passed on."""

    def __init__(self, targets: list[str], token: str = "") -> None:
        self._targets = cycle([urlsplit(target).netloc for target in targets])
        self._token = token
        self.tap = Tap()
        self.served = 0
        self.standing = asyncio.Event()
        """Set when a GET is being answered: a legacy client has its stream for what no request asked for."""
        self._open: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._authority = f"localhost:{self._server.sockets[0].getsockname()[1]}"
        self.url = f"http://{self._authority}"

    async def stop(self) -> None:
        """Hang up on everybody; afterwards the tap has seen everything."""
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent, received = bytearray(), bytearray()
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                target = next(self._targets)
                self.served += 1
                await self._carry(self._rewritten(head, target), target, (reader, writer), (sent, received))
        finally:
            writer.close()
            self.tap.exchange(bytes(sent), bytes(received))

    def _rewritten(self, head: bytes, target: str) -> bytes:
        """Put the bearer in, if there is one, and the target in the place of this listener's own name."""
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        ours = ["Connection: close", *([f"Authorization: Bearer {self._token}"] if self._token else ())]
        replaced = {line.partition(":")[0].lower() for line in ours} | {"keep-alive"}
        renamed = {("host", self._authority): target, ("origin", self.url): f"http://{target}"}
        kept = []
        for line in lines:
            name, _, value = line.partition(":")
            instead = renamed.get((name.lower(), value.strip()))
            if name.lower() not in replaced:
                kept.append(line if instead is None else f"{name}: {instead}")
        return "\r\n".join([first, *kept, *ours, "", ""]).encode("latin-1")

    async def _carry(self, head, target, client, seen) -> None:
        (reader, writer), (sent, received) = client, seen
        host, _, port = target.rpartition(":")
        target_reader, target_writer = await asyncio.open_connection(host, int(port))
        try:
            sent += head
            target_writer.write(head)
            ways = {
                asyncio.create_task(_pump(reader, target_writer, sent)),
                asyncio.create_task(
                    _pump(target_reader, writer, received, self.standing if head[:4] == b"GET " else None)
                ),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            target_writer.close()


async def _pump(reader, writer, seen, flowing=None) -> None:
    while data := await reader.read(PIECE):
        seen += data
        writer.write(data)
        await writer.drain()
        if flowing is not None:
            flowing.set()


@asynccontextmanager
async def injecting(targets: list[str], token: str = "", violations: list[str] | None = None):
    """Run an injector; at its end, fail if a message was not as the protocol's schema says, or list what was wrong."""
    injector = Injector(targets, token)
    await injector.start()
    try:
        yield injector
    finally:
        await injector.stop()
    if violations is None:
        assert not injector.tap.violations, "\n".join(injector.tap.violations)
    else:
        violations += injector.tap.violations
