"""A connection to nats-server that does whatever it is told: what somebody with a stolen credential has.

No client library stands between: any subject, any reply, and each refusal of the server is seen as it came.
"""

import asyncio
import base64
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import nkeys

from mcpctl.bus.identity import AdmittedIdentity


class Heard(NamedTuple):
    """A message as it came; `headers` as they stand there."""

    subject: str
    reply: str
    payload: bytes
    headers: str = ""

    @property
    def code(self) -> str | None:
        """The code of the error that it is, as our actors say it."""
        found = re.search(r"^Nats-Service-Error-Code: ?(\S+)", self.headers, re.MULTILINE)
        return found[1] if found else "no_responders" if self.headers.startswith("NATS/1.0 503") else None


class RawNats:
    """`refused` are the server's refusals since the last `barrier`, `heard` the messages that nobody has read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.refused: list[str] = []
        self.heard: list[Heard] = []
        self._sids = 0

    @classmethod
    async def connect(cls, url: str, who: AdmittedIdentity | Path | None = None) -> "RawNats":
        """Connect with an nkey seed, by auth callout, or as nobody. Raises `ConnectionRefusedError`."""
        host, port = url.removeprefix("nats://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 24)
        info = json.loads((await reader.readline()).removeprefix(b"INFO "))
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "raw"}
        if isinstance(who, Path):
            key = nkeys.from_seed(who.read_bytes().strip())
            signed = base64.urlsafe_b64encode(key.sign(info["nonce"].encode())).rstrip(b"=").decode()
            options |= {"nkey": key.public_key.decode(), "sig": signed}
        elif who is not None:
            given = who.options()
            options |= {"user": given["user"], "pass": given["password"](), "name": given["name"]}
        writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\n")
        raw = cls(reader, writer)
        try:
            await raw.barrier()
        except (EOFError, ConnectionError) as error:
            await raw.close()
            raise ConnectionRefusedError(raw.refused) from error
        return raw

    def publish(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        self._writer.write(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def subscribe(self, subject: str, queue: str = "") -> int:
        self._sids += 1
        self._writer.write(f"SUB {subject} {queue} {self._sids}\r\n".encode())
        return self._sids

    def unsubscribe(self, sid: int) -> None:
        self._writer.write(f"UNSUB {sid}\r\n".encode())

    async def barrier(self) -> list[str]:
        """Return the refusals of all that was sent, once the server has taken it."""
        self._writer.write(b"PING\r\n")
        await self._writer.drain()
        while (line := await self._next()) != "PONG":
            if line.startswith("-ERR"):
                self.refused.append(line.removeprefix("-ERR ").strip("'"))
        refused, self.refused = self.refused, []
        return refused

    async def ask(self, subject: str, payload: bytes, reply: str) -> Heard:
        """Return the answer; `reply` is in an inbox to which this connection has subscribed."""
        self.publish(subject, payload, reply)
        while True:
            for heard in self.heard:
                if heard.subject == reply:
                    self.heard.remove(heard)
                    return heard
            await self._next()

    async def next(self) -> Heard:
        """Return the next message."""
        while not self.heard:
            await self._next()
        return self.heard.pop(0)

    async def _next(self) -> str:
        """Take what the server says next; answer its PING, keep a message."""
        line = await self._reader.readuntil(b"\r\n")
        words = line.decode().split()
        if words[0] == "PING":
            self._writer.write(b"PONG\r\n")
        elif words[0] in ("MSG", "HMSG"):
            payload, headers = (await self._reader.readexactly(int(words[-1]) + 2))[:-2], ""
            if words[0] == "HMSG":
                size = int(words.pop(-2))
                payload, headers = payload[size:], payload[:size].decode()
            self.heard.append(Heard(words[1], words[3] if len(words) > 4 else "", payload, headers))
        return line.decode().strip() if words[0] in ("-ERR", "PONG") else words[0]

    async def ended(self) -> None:
        """Return when the server has ended the connection."""
        try:
            while True:
                await self._next()
        except (EOFError, ConnectionError):
            return

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()
