"""Everything hostile at once against one gateway, until SIGTERM: `python -m tests.soak.attackers URL`.

`$BEARER` is a good token of project `dual`, for what needs one; `$KINDS` names some kinds, where not all are wanted.
Each comes from an address of its own. In the end it prints as JSON how often each was carried out, and which HTTP
statuses it got.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mcpctl.bus.bearer import mint
from tests.gateway.test_edge import modern
from tests.gateway.test_hostile_http import request, where

PAUSE = 0.05
"""Seconds between two attempts of one attacker that is answered at once."""


class Attack:
    """One kind of attack: `once` is carried out by so many attackers, again and again."""

    def __init__(self, url: str, bearer: str, sender: str) -> None:
        self.url, self.bearer, self.sender = url, bearer, sender
        self.seen: Counter[str] = Counter()

    async def connect(self):
        self.seen["attempts"] += 1
        return await asyncio.open_connection(*where(self.url), local_addr=(self.sender, 0))

    async def status(self, reader) -> None:
        line = await reader.readline()
        self.seen[line.split()[1].decode() if line else "closed"] += 1

    async def send(self, *pieces: bytes, every: float = 0.0, reads: bool = True) -> None:
        """Send pieces on a new connection, one every so many seconds, and read a status or nothing."""
        reader, writer = await self.connect()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(every)
            if reads:
                async with asyncio.timeout(40):
                    await self.status(reader)
        finally:
            writer.transport.abort()

    def called(self, tool: str, **arguments: object) -> bytes:
        body = json.dumps(modern("tools/call", name=tool, arguments=arguments)).encode()
        sent = request(self.bearer, f"Mcp-Name: {tool}", body=body)
        return sent.replace(b"tools/list\r\n", b"tools/call\r\n", 1)


async def bad_bearers(attack: Attack) -> None:
    """One connection, on which bearer after bearer is tried as fast as answers come."""
    reader, writer = await attack.connect()
    try:
        for _ in range(1000):
            attack.seen["attempts"] += 1
            writer.write(request(random.choice((mint("pat"), "nonsense"))))
            head = await reader.readuntil(b"\r\n\r\n")
            attack.seen[head.split()[1].decode()] += 1
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
    finally:
        writer.transport.abort()


async def too_much(attack: Attack) -> None:
    head = request(attack.bearer, "Transfer-Encoding: chunked", body=b"").replace(b"Content-Length: 0\r\n", b"")
    await attack.send(head, *[b"80000\r\n" + b" " * 0x80000 + b"\r\n"] * 9)
    await asyncio.sleep(0.5)


async def slow_head(attack: Attack) -> None:
    await attack.send(request(attack.bearer)[:60], *[b"x"] * 60, every=1.0)


async def slow_body(attack: Attack) -> None:
    await attack.send(request(attack.bearer)[:-100], *[b" "] * 60, every=1.0)


async def silence(attack: Attack) -> None:
    await attack.send(b"")


async def hang_up(attack: Attack) -> None:
    """Leave in the middle of a call."""
    await attack.send(attack.called("wait_forever", key=f"soak-{random.random()}"), every=0.2, reads=False)


async def read_nothing(attack: Attack) -> None:
    """Ask for a long answer, and take none of it."""
    reader, writer = await attack.connect()
    try:
        writer.transport.pause_reading()
        writer.write(attack.called("big", size=4_000_000))
        await asyncio.sleep(20)
    finally:
        writer.transport.abort()
    del reader


async def streams(attack: Attack) -> None:
    """Open more streams than a bearer may have, and drop them all."""
    body = json.dumps(modern("subscriptions/listen", notifications={"toolsListChanged": True})).encode()
    sent = request(attack.bearer, "Accept: text/event-stream", body=body)
    sent = sent.replace(b"tools/list\r\n", b"subscriptions/listen\r\n", 1)
    opened = []
    try:
        for _ in range(40):
            reader, writer = await attack.connect()
            opened.append(writer)
            writer.write(sent)
            await attack.status(reader)
        await asyncio.sleep(1)
    finally:
        for writer in opened:
            writer.transport.abort()


async def garbage(attack: Attack) -> None:
    noise = random.randbytes(random.randint(1, 5000))
    kinds = (noise, b"\x16\x03\x01" + noise, b"GET " + noise, request("")[:-50] + noise, b"POST / HTTP/1.1\r\n" + noise)
    await attack.send(random.choice(kinds) + b"\r\n\r\n")


async def odd_json(attack: Attack) -> None:
    deep, digits = b"[" * 100_000, b"1" * 100_000
    await attack.send(request(attack.bearer, body=random.choice((deep, digits, b'{"a":' * 50_000, b"[[]," * 100_000))))


KINDS: dict[Callable[[Attack], Awaitable[None]], int] = {
    bad_bearers: 16,
    too_much: 1,
    slow_head: 10,
    slow_body: 10,
    silence: 10,
    hang_up: 3,
    read_nothing: 2,
    streams: 1,
    garbage: 3,
    odd_json: 1,
}
"""The kinds, and how many attackers of each there are."""


async def again_and_again(once: Callable[[Attack], Awaitable[None]], attack: Attack) -> None:
    while True:
        try:
            await once(attack)
        except (ConnectionError, asyncio.IncompleteReadError, TimeoutError, OSError) as error:
            attack.seen[type(error).__name__] += 1
        await asyncio.sleep(PAUSE)


async def main(url: str, bearer: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    attacks = {once: Attack(url, bearer, f"127.0.1.{number}") for number, once in enumerate(KINDS, 1)}
    chosen = os.environ.get("KINDS", "").split()
    crowd = [once for once, many in KINDS.items() for _ in range(many) if not chosen or once.__name__ in chosen]
    tasks = [asyncio.create_task(again_and_again(once, attacks[once])) for once in crowd]
    print("begun", flush=True)
    await stop.wait()
    for task in tasks:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps({once.__name__: dict(attack.seen) for once, attack in attacks.items()}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], os.environ["BEARER"]))
