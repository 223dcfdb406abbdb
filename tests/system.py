"""A whole system of real processes for tests: nats-server, actors, routers, gateways, and an operator's connection."""

import asyncio
import os
import secrets
import signal
from contextlib import suppress
from pathlib import Path

from nats.errors import Error

from mcpctl.bus import provision
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import catalog, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.cli.nats_server import NatsServer, free_port
from mcpctl.cli.supervisor import Part as SupervisedPart
from tests import forked
from tests.nats_cluster import NatsCluster
from tests.postgres import database_url

START_SECONDS = 20
CONTROL_PLANE = ("token", "rbac", "catalog", "session", "audit")


class WebsocketServer(NatsServer):
    """A nats-server with one door more, for whatever speaks TLS in front of it."""

    def part(self, log: Path) -> SupervisedPart:
        part = super().part(log)
        self.websocket_port = free_port()
        with (self.folder / "nats.conf").open("a") as config:
            config.write(f'websocket {{ listen: "127.0.0.1:{self.websocket_port}", no_tls: true }}\n')
        return part


class Part:
    """One process of the system."""

    def __init__(self, name: str, process: forked.Process | asyncio.subprocess.Process, metrics: str) -> None:
        self.name, self.process, self.metrics = name, process, metrics

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            return await self.process.wait()


class System:
    """Parts by name; `operator` is the admin's connection, `bearer` the admin's session.

    `nats` is one server, or a cluster of `nodes`, which speaks TLS.
    """

    def __init__(self, folder: Path, nodes: int = 1, *, python: str = "") -> None:
        self.folder = folder
        self.cluster = NatsCluster(folder / "nats", nodes) if nodes > 1 else None
        self.nats = self.cluster or NatsServer(folder / "nats", free_port())
        self.ca = self.cluster.ca if self.cluster else None
        self.database = database_url()
        self.python = python
        """The interpreter that starts parts from nothing; without one, they are forked from what is imported."""
        self.parts: dict[str, Part] = {}
        self._started: list[Part] = []
        self.operator: Bus
        self.bearer = ""

    async def start(self, *actors: str) -> None:
        """Start nats-server, the named actors (default: all) in one process and a router; log in as the first user."""
        await self.nats.start()
        if self.cluster is None:  # a cluster has provided for itself
            await provision.provision(self.nats.url, self.nats.keys)
        secret = self.folder / "bootstrap"
        secret.write_text(secrets.token_hex(16))
        secret.chmod(0o600)
        await self.run("actors", "mcpctl.actors", *(actors or CONTROL_PLANE), MCPCTL_BOOTSTRAP_FILE=str(secret))
        await self.run("router", "mcpctl.actors", "router")
        login = await Bus.connect(self.nats.url, AdmittedIdentity("login", ca=self.ca))
        one_time = secret.read_text()
        await login.call(token.bootstrap, token.Bootstrap(secret=one_time, user="admin", password="correct horse"))
        session = await login.call(token.login, token.Login(user="admin", password="correct horse"))
        await login.close()
        self.bearer = session.bearer
        self.operator = await Bus.connect(self.nats.url, AdmittedIdentity("operator", self.bearer, ca=self.ca))

    async def run(self, name: str, module: str, *args: str, **env: str) -> Part:
        """Start a process and return when it says that it is ready."""
        read, write = os.pipe()
        environment = os.environ | {
            "MCPCTL_NATS_URL": self.nats.url,
            "MCPCTL_NATS_KEYS": str(self.nats.keys),
            "MCPCTL_DATA_DIR": str(self.folder / "data"),
            "MCPCTL_BUS_ANONYMOUS_EDGE": "true",
            "MCPCTL_UPSTREAM_NETWORKS": "loopback",
            "MCPCTL_STDIO_COMMANDS": "*",
            "MCPCTL_LOG_LEVEL": "debug",
            "MCPCTL_LIST_TIMEOUT_MS": "2000",
            "MCPCTL_METRICS_PORT": str(free_port()),
        }
        if self.ca is not None:
            environment["MCPCTL_NATS_CA"] = str(self.ca)
        if self.database is not None:
            environment["MCPCTL_DATABASE_URL"] = self.database
        with (self.folder / f"{name}.log").open("ab") as log, Path(os.devnull).open() as nothing:
            argv, given = (module, *args), environment | env
            if self.python:
                process: forked.Process | asyncio.subprocess.Process = await asyncio.create_subprocess_exec(
                    self.python,
                    "-m",
                    *argv,
                    env=given | {"MCPCTL_READY_FD": str(write)},
                    pass_fds=(write,),
                    stdin=nothing,
                    stderr=log,
                )
            else:
                process = await asyncio.to_thread(forked.start, forked.PART, argv, given, nothing, log, log, write)
        os.close(write)
        try:
            async with asyncio.timeout(START_SECONDS):
                said = await asyncio.to_thread(os.read, read, 16)
        finally:
            os.close(read)
        assert said == b"ready\n", (self.folder / f"{name}.log").read_text()[-2000:]
        metrics = f"http://127.0.0.1:{(environment | env)['MCPCTL_METRICS_PORT']}"
        part = self.parts[name] = Part(name, process, metrics)
        self._started.append(part)
        return part

    async def gateway(self, name: str = "gateway", **env: str) -> str:
        """Start a gateway and return its URL."""
        port = free_port()
        await self.run(name, "mcpctl.gateway", MCPCTL_HTTP_PORT=str(port), **env)
        return f"http://127.0.0.1:{port}"

    async def server(self, name: str, *, project: str | None = None, **spec: object) -> None:
        projects = (project,) if project else ()
        create = catalog.CreateServer(
            bearer=self.bearer, spec=catalog.ServerSpec.model_validate({"name": name, **spec}), projects=projects
        )
        await self.operator.call(catalog.create_server, create)

    async def project(self, name: str, *servers: str, **more: object) -> None:
        spec = catalog.ProjectSpec.model_validate({"name": name, "servers": servers, **more})
        await self.operator.call(catalog.create_project, catalog.CreateProject(bearer=self.bearer, spec=spec))

    async def token(self, project: str, name: str, *bindings: str, **more: object) -> str:
        given = tuple(Binding.parse(b) for b in bindings)
        issue = token.IssueToken.model_validate(
            {"bearer": self.bearer, "project": project, "name": name, "bindings": given, **more}
        )
        return (await self.operator.call(token.issue, issue)).bearer

    async def wake(self) -> None:
        """Return when the operator's connection works: the server cuts one whose loop has not run for two seconds."""
        async with asyncio.timeout(10):
            while True:
                with suppress(Error, TimeoutError):
                    return await self.operator.client.flush(timeout=1)

    async def stop(self) -> None:
        with suppress(AttributeError):
            await self.operator.close()
        for part in reversed(self._started):
            if part.process.returncode is None:
                await part.stop()
        await self.nats.stop()
