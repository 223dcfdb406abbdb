"""A cluster of real nats-servers as it is shipped: TLS for clients and routes, the routes' secret, three copies."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from nats.aio.client import Client

from mcpctl.bus import nats_config, provision
from mcpctl.bus.connection import connect_nats
from mcpctl.bus.identity import believing
from mcpctl.bus.nats_config import PROVISIONER, Listen, Tls
from mcpctl.cli import nats_check
from mcpctl.cli.certificates import Certificates
from mcpctl.cli.nats_server import binary
from mcpctl.cli.ports import free_port

START_SECONDS = 30
META_LEADER = "JetStream cluster new metadata leader: "


class Node:
    """One server: its `name`, and `url`, where it listens for clients."""

    def __init__(self, name: str, config: Path, port: int) -> None:
        self.name, self.config, self.port = name, config, port
        self.url, self.log = f"nats://127.0.0.1:{port}", config.with_suffix(".log")
        self.process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was never started"
        return self.process.pid

    async def start(self) -> None:
        """Start it, and return when clients can connect."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(binary(), "-c", str(self.config), stderr=log)
        async with asyncio.timeout(START_SECONDS):
            while True:
                assert self.process.returncode is None, self.log.read_text()[-2000:]
                with suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    greeting = await reader.readline()
                    writer.close()
                    await writer.wait_closed()
                    if greeting.startswith(b"INFO"):
                        return
                await asyncio.sleep(0.02)

    def freeze(self) -> None:
        """Stop it as it stands: its connections stay open, and nothing moves on them."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it in order, at once."""
        await self._end(signal.SIGTERM)

    async def retire(self) -> None:
        """End it as an operator does, `nats-server --signal ldm`: its clients are told first, and go elsewhere."""
        await asyncio.to_thread(subprocess.run, [binary(), "--signal", f"ldm={self.pid}"], check=True)
        assert self.process is not None
        async with asyncio.timeout(60):
            await self.process.wait()

    async def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self._send(signal.SIGCONT)
            self._send(number)
            async with asyncio.timeout(START_SECONDS):
                await self.process.wait()

    def _send(self, number: signal.Signals) -> None:
        assert self.process is not None, f"{self.name} was never started"
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


class NatsCluster:
    """Servers `n1`, `n2`, … of one cluster in `folder`; `url`, `keys` and `ca` are what a part needs to know."""

    def __init__(self, folder: Path, size: int = 3) -> None:
        self.folder, self.keys = folder, folder / "keys"
        made = Certificates(folder)
        made.make(("localhost", "127.0.0.1"), 2, rotate=False)
        self.ca, self.tls = made.ca, Tls(made.certificate, made.key, made.ca)
        nats_config.write_keys(self.keys)
        ports: list[int] = []
        while len(ports) < 2 * size:
            ports += {free_port()}.difference(ports)
        self.routes = tuple(f"127.0.0.1:{port}" for port in ports[size:])
        self.nodes = []
        for number, (port, route) in enumerate(zip(ports[:size], ports[size:], strict=True), 1):
            name = f"n{number}"
            store, at = folder / "streams" / name, ("127.0.0.1", route)
            listen = Listen(port, store, tls=self.tls, name=name, routes=self.routes, cluster=at)
            config = nats_config.write(folder, listen, self.keys)
            assert nats_check.check(config) == []
            self.nodes.append(Node(name, config, port))
        self.url = ",".join(node.url for node in self.nodes)

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    async def start(self, *, replicas: int | None = None) -> None:
        """Start all, and return when the streams are there, in as many copies as there are servers."""
        await asyncio.gather(*(node.start() for node in self.nodes))
        await provision.provision(self.url, self.keys, replicas=replicas or len(self.nodes), ca=self.ca)

    async def leader(self, stream: str | None = None) -> Node:
        """Return the server that leads a stream, or (None) all of JetStream."""
        if stream is None:
            said = (line for node in self.nodes for line in node.log.read_text().splitlines())
            told = [line.partition("] ")[2] for line in said if META_LEADER in line]  # from its time on
            return self[max(told).partition(META_LEADER)[2].split("/")[0]]
        async with self.provisioner() as client:
            reply = await client.request(f"$JS.API.STREAM.INFO.{stream}", timeout=5)
            return self[json.loads(reply.data)["cluster"]["leader"]]

    async def lead(self, stream: str, node: Node) -> None:
        """Have a stream led by a server; returns when it is."""
        wish = json.dumps({"placement": {"preferred": node.name}}).encode()
        async with self.provisioner() as client, asyncio.timeout(START_SECONDS):
            while await self.leader(stream) is not node:
                await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{stream}", wish, timeout=5)
                await asyncio.sleep(0.2)

    @asynccontextmanager
    async def provisioner(self) -> AsyncIterator[Client]:
        """Connect as the one user who may do anything with streams."""
        client = await connect_nats(
            self.url,
            on_closed=lambda: None,
            nkeys_seed=str(self.keys / f"{PROVISIONER}.nk"),
            inbox_prefix=f"_INBOX.{PROVISIONER}".encode(),
            **believing(self.ca),
        )
        try:
            yield client
        finally:
            await client.close()

    async def whole(self) -> None:
        """Return when every stream has all its copies, and they are current."""
        await provision.provision(self.url, self.keys, ca=self.ca)

    async def stop(self) -> None:
        await asyncio.gather(*(node.kill() for node in self.nodes))
