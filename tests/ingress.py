"""An ingress before the bus: it speaks TLS, passes on what is said, and can swallow all of it, both ways."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.certificates import Certificates


class Ingress:
    """`url` is what a part connects to, `ca` whose certificate it believes; `accepted` counts connections."""

    def __init__(self, folder: Path, port: int) -> None:
        self._certificates, self._port = Certificates(folder), port
        self.ca = self._certificates.ca
        self.url = ""
        self.accepted = 0
        self.open = asyncio.Event()
        self.open.set()
        """Nothing passes while this is not set; what came meanwhile is lost, and its connection ends afterwards."""

    @classmethod
    @asynccontextmanager
    async def before(cls, port: int, folder: Path) -> "AsyncIterator[Ingress]":
        ingress = cls(folder, port)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ingress._certificates.certificate, ingress._certificates.key)
        server = await asyncio.start_server(ingress._accept, "127.0.0.1", 0, ssl=context)
        ingress.url = f"wss://localhost:{server.sockets[0].getsockname()[1]}"
        try:
            yield ingress
        finally:
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        behind, to_bus = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._pump(reader, to_bus), self._pump(behind, writer))

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError, ssl.SSLError):
            while data := await source.read(65536):
                if not self.open.is_set():
                    await self.open.wait()
                    break
                sink.write(data)
                await sink.drain()
        sink.close()
