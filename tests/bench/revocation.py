"""Measure how soon a revoked token's streams end: `python -m tests.bench.revocation` prints the table.

Three gateways, each with running calls of the token and of others, whose upstream sends a notification again and again.
Milliseconds count from the sending of the command, so the right to it and its commit are in them; where the bus
itself is stopped no command can be given, and they count from the stop.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from mcpctl.bus.contracts import token
from tests.gateway.peers import http_upstream
from tests.gateway.test_edge import META, headers, modern
from tests.system import System
from tests.upstreams import ticking

GATEWAYS = 3
EVENT = b"MSG mcpctl.v1.event.token."


class Wire:
    """A TCP proxy before nats-server: it can lose the token actor's broadcasts, or all that goes one way."""

    def __init__(self) -> None:
        self.url = ""
        self.deaf = self.mute = self.lossy = False
        """Lose all that comes from the server; all that goes to it; broadcasts of changed tokens."""
        self._peers: set[asyncio.StreamWriter] = set()

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> "AsyncIterator[Wire]":
        wire, port = cls(), urlsplit(url).port

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            behind, to_server = await asyncio.open_connection("127.0.0.1", port)
            wire._peers |= {writer, to_server}
            await asyncio.gather(
                _pump(wire._frames(behind), writer, lambda: wire.deaf),
                _pump(_chunks(reader), to_server, lambda: wire.mute),
            )
            wire._peers -= {writer, to_server}

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        wire.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield wire
        finally:
            server.close()
            wire.heal()

    def heal(self) -> None:
        """Lose nothing any more, and have the client connect again."""
        self.deaf = self.mute = self.lossy = False
        for peer in self._peers:
            peer.transport.abort()

    async def _frames(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        """Yield the server's messages one by one, without those to be lost."""
        while line := await reader.readline():
            body = b""
            if line.startswith((b"MSG ", b"HMSG ")):
                body = await reader.readexactly(int(line.split()[-1]) + 2)
            if not (self.lossy and line.removeprefix(b"H").startswith(EVENT)):
                yield line + body


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while data := await reader.read(65536):
        yield data


async def _pump(source: AsyncIterator[bytes], writer: asyncio.StreamWriter, lost: Callable[[], bool]) -> None:
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        async for data in source:
            if not lost():
                writer.write(data)
                await writer.drain()
    writer.close()


class Stream:
    """One call of `tick`: when the last byte of it came, and when its connection was over."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer, self.latest = answer, 0.0
        self.first = asyncio.Event()
        self.over = asyncio.create_task(self._read())

    async def _read(self) -> float:
        with suppress(aiohttp.ClientError):
            async for _ in self.answer.content.iter_any():
                self.latest = time.monotonic()
                self.first.set()
        return time.monotonic()


class Bench:
    """A system with its gateways and a router, each behind a wire of its own."""

    def __init__(self, system: System, streams: int, pause_ms: int) -> None:
        self.system, self.streams, self.pause_ms = system, streams, pause_ms
        self.wires: list[Wire] = []
        self.urls: list[str] = []
        self._tokens = 0

    async def start(self, opened: AsyncExitStack) -> None:
        system = self.system
        await system.start()
        await system.parts["router"].stop()
        for number in range(GATEWAYS + 1):
            wire = await opened.enter_async_context(Wire.before(system.nats.url))
            self.wires.append(wire)
            if number < GATEWAYS:
                self.urls.append(await system.gateway(f"gateway-{number}", MCPCTL_NATS_URL=wire.url))
            else:
                await system.run("router", "mcpctl.actors", "router", MCPCTL_NATS_URL=wire.url)
        upstream = await opened.enter_async_context(http_upstream(program=ticking.__file__))
        await system.server("ticking", url=upstream.url)
        await system.project("ticking", "ticking")

    async def open(self, opened: AsyncExitStack, name: str) -> list[list[Stream]]:
        """Open the streams of a new token, and return them by gateway."""
        bearer = await self.system.token("ticking", name, "role:run,resource:servers")
        call = modern("tools/call", meta=META | {"progressToken": "p"}, name="tick", arguments={})
        call["params"]["arguments"] = {"pause_ms": self.pause_ms}
        sent = headers(bearer, "tools/call", Mcp_Name="tick")
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        http = await opened.enter_async_context(session)
        found: list[list[Stream]] = []
        for url in self.urls:
            found.append([])
            for _ in range(self.streams):
                while (answer := await http.post(f"{url}/projects/ticking/mcp", json=call, headers=sent)).status == 503:
                    answer.close()  # a part is still on its way back from the case before
                    await asyncio.sleep(0.2)
                if answer.status != 200:
                    raise RuntimeError(await answer.text())
                found[-1].append(Stream(answer))
        for stream in (stream for each in found for stream in each):
            await stream.first.wait()
        return found

    async def measure(
        self,
        what: str,
        before: Callable[[], None],
        after: Callable[[], None],
        *,
        of: int = GATEWAYS,
        revokes: bool = True,
    ) -> None:
        """Print the row of one case; `of` is how many gateways it concerns."""
        self._tokens += 1
        mine, other = f"mine-{self._tokens}", f"other-{self._tokens}"
        async with AsyncExitStack() as opened:
            streams, others = await self.open(opened, mine), await self.open(opened, other)
            before()
            began = time.monotonic()
            try:
                if revokes:
                    revoke = token.RevokeToken(bearer=self.system.bearer, project="ticking", name=mine)
                    await self.system.operator.call(token.revoke, revoke)
                concerned = [stream for each in streams[:of] for stream in each]
                ended = await asyncio.wait_for(asyncio.gather(*(stream.over for stream in concerned)), 20)
                cut = sum(stream.over.done() for each in others for stream in each)
            finally:
                after()
                for stream in (stream for each in (*streams, *others) for stream in each):
                    stream.over.cancel()
            last = _spread(stream.latest - began for stream in concerned)
            over = _spread(moment - began for moment in ended)
            print(
                f"| {what} | {len(concerned)} | {last} | {over} | {cut} of {len(others) * self.streams} |", flush=True
            )
        await self.system.wake()
        await self._ready()

    async def _ready(self) -> None:
        async with aiohttp.ClientSession() as http, asyncio.timeout(60):
            for url in self.urls:
                while True:
                    async with http.get(f"{url}/readyz") as answer:
                        if answer.status == 200:
                            break
                    await asyncio.sleep(0.2)


def _spread(seconds: Iterable[float]) -> str:
    """Return p50, p99 and the largest, in milliseconds; what came before the command counts as 0."""
    found = sorted(max(each, 0.0) * 1000 for each in seconds)
    return f"{found[len(found) // 2]:.0f} / {found[int(len(found) * 0.99)]:.0f} / {found[-1]:.0f}"


async def run(streams: int, pause_ms: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        system = System(Path(folder), python=sys.executable)
        async with AsyncExitStack() as opened:
            opened.push_async_callback(system.stop)
            bench = Bench(system, streams, pause_ms)
            await bench.start(opened)
            first, nats = bench.wires[0], system.nats._part.process
            print("| case | streams | last byte p50 / p99 / max ms | over p50 / p99 / max ms | others cut |")
            print("|---|---|---|---|---|")

            def lose() -> None:
                for wire in bench.wires:
                    wire.lossy = True

            def heal() -> None:
                for wire in bench.wires:
                    wire.heal()

            def part(*, deaf: bool, mute: bool) -> Callable[[], None]:
                def cut() -> None:
                    first.deaf, first.mute = deaf, mute

                return cut

            await bench.measure("connected", lambda: None, lambda: None)
            await bench.measure("broadcast lost", lose, heal)
            await bench.measure("gateway hears nothing", part(deaf=True, mute=False), first.heal, of=1)
            await bench.measure("gateway is not heard", part(deaf=False, mute=True), first.heal, of=1)
            await bench.measure("gateway cut off both ways", part(deaf=True, mute=True), first.heal, of=1)
            stop = partial(nats.send_signal, signal.SIGSTOP)
            go_on = partial(nats.send_signal, signal.SIGCONT)
            await bench.measure("nats-server stopped", stop, go_on, revokes=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200, help="of the token, and of another, at each gateway")
    parser.add_argument("--pause-ms", type=int, default=1000, help="between two notifications of a stream")
    args = parser.parse_args()
    asyncio.run(run(args.streams, args.pause_ms))


if __name__ == "__main__":
    main()
