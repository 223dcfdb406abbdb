"""A whole system of real processes for tests: nats-server, actors, routers, gateways, and an operator's connection."""

import asyncio
import os
import secrets
import signal
import sys
from contextlib import suppress
from pathlib import Path

from nats.errors import Error

from mcpctl.bus import provision
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import catalog, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.cli.nats_server import NatsServer, free_port
from tests.postgres import database_url

START_SECONDS = 20
CONTROL_PLANE = ("token", "rbac", "catalog", "session", "audit")


class Part:
    """One process of the system."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name, self.process = name, process

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            return await self.process.wait()


class System:
    """Parts by name; `operator` is the admin's connection, `bearer` the admin's session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nats = NatsServer(folder / "nats", free_port())
        self.database = database_url()
        self.parts: dict[str, Part] = {}
        self.operator: Bus
        self.bearer = ""

    async def start(self, *actors: str) -> None:
        """Start nats-server, the named actors (default: all) in one process and a router; log in as the first user."""
        await self.nats.start()
        await provision.provision(self.nats.url, self.nats.keys)
        secret = self.folder / "bootstrap"
        secret.write_text(secrets.token_hex(16))
        secret.chmod(0o600)
        await self.run("actors", "mcpctl.actors", *(actors or CONTROL_PLANE), MCPCTL_BOOTSTRAP_FILE=str(secret))
        await self.run("router", "mcpctl.actors", "router")
        login = await Bus.connect(self.nats.url, AdmittedIdentity("login"))
        one_time = secret.read_text()
        await login.call(token.bootstrap, token.Bootstrap(secret=one_time, user="admin", password="correct horse"))
        session = await login.call(token.login, token.Login(user="admin", password="correct horse"))
        await login.close()
        self.bearer = session.bearer
        self.operator = await Bus.connect(self.nats.url, AdmittedIdentity("operator", self.bearer))

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
            "MCPCTL_READY_FD": str(write),
            "MCPCTL_LOG_LEVEL": "debug",
            "MCPCTL_LIST_TIMEOUT_MS": "2000",
        }
        if self.database is not None:
            environment["MCPCTL_DATABASE_URL"] = self.database
        log = (self.folder / f"{name}.log").open("ab")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, *args, env=environment | env, pass_fds=(write,), stderr=log
        )
        os.close(write)
        log.close()
        try:
            async with asyncio.timeout(START_SECONDS):
                said = await asyncio.to_thread(os.read, read, 16)
        finally:
            os.close(read)
        assert said == b"ready\n", (self.folder / f"{name}.log").read_text()[-2000:]
        part = self.parts[name] = Part(name, process)
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

    async def token(self, project: str, name: str, *bindings: str) -> str:
        issue = token.IssueToken(
            bearer=self.bearer, project=project, name=name, bindings=tuple(Binding.parse(b) for b in bindings)
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
        for part in reversed(self.parts.values()):
            if part.process.returncode is None:
                await part.stop()
        await self.nats.stop()
