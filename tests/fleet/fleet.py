"""The topology of `compose/compose.yaml` as processes, with an administrator, and a project whose server counts."""

import asyncio
import importlib.util
import json
import os
import secrets
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from tests.gateway.peers import http_upstream

ROOT = Path(__file__).parents[2]
RECORDING = str(ROOT / "tests" / "upstreams" / "recording.py")
PROJECT, TOOL = "fleet", "record"


def _local():
    spec = importlib.util.spec_from_file_location("compose_local", ROOT / "compose" / "local.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


local = _local()


class RunningFleet(local.Fleet):
    """A fleet that an operator has set up."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        super().__init__(folder, environment={"MCPCTL_UPSTREAM_NETWORKS": "loopback"}, tell=self.said.append)
        self.executed = folder / "executed"
        self.bearer = self.token = ""

    async def mcpctl(self, *arguments: str, stdin: str = "", code: int | None = 0) -> str:
        """Run the CLI as an operator does, and return what it prints; it ends with `code`, if that is not None."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MCPCTL_")} | {
            "MCPCTL_CONFIG": str(self.folder / "config.yaml"),
            "MCPCTL_NATS_URL": self.nats_url,
            "MCPCTL_NATS_CA": str(self.secrets / "ca.pem"),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mcpctl.cli.main", *arguments),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin.encode())
        assert code in (None, process.returncode), (
            f"{arguments}: exit code {process.returncode}: {err.decode()}{out.decode()}"
        )
        return out.decode()

    async def set_up(self, upstream: str) -> None:
        """Do what the first operator does."""
        password = f"{secrets.token_urlsafe(12)}\n"
        given = ("--secret-file", str(self.secrets / "bootstrap" / "secret"), "--password-stdin")
        await self.mcpctl("admin", "bootstrap", *given, stdin=password)
        await self.mcpctl("login", "--user", "admin", "--password-stdin", stdin=password)
        await self.mcpctl("create", "project", PROJECT)
        await self.mcpctl("create", "server", "recording", "--url", upstream, "--project", PROJECT)
        bind = ("--bind", "role:run,resource:servers")
        self.token = (await self.mcpctl("create", "mcptoken", "agent", "-p", PROJECT, *bind, "-o", "token")).strip()
        await self.mcpctl("create", "serviceaccount", "writer")
        grant = ("--roleBindings", "role:edit,resource:mcptokens", "--roleBindings", "role:run,resource:servers")
        see = ("--roleBindings", "role:view,resource:audit", "--roleBindings", "role:view,resource:projects")
        await self.mcpctl("create", "rbac", "writer", "--subject", "ServiceAccount:writer", *grant, *see)
        self.bearer = (await self.mcpctl("create", "serviceaccount-token", "writer", "-o", "token")).strip()

    async def status(self) -> None:
        """Return when every part answers, and all copies of the streams are current."""
        async with asyncio.timeout(60):
            while "error" in await self.mcpctl("status", code=None):
                await asyncio.sleep(0.5)

    async def ledger(self) -> list[dict[str, object]]:
        """Return all events of the project."""
        out = await self.mcpctl("audit", "export", "-p", PROJECT, "--format", "json")
        return [json.loads(line) for line in out.splitlines()]


@asynccontextmanager
async def running_fleet(folder: Path):
    fleet = RunningFleet(folder)
    log = folder / "executed"
    folder.mkdir(parents=True, exist_ok=True)
    async with http_upstream("--log", str(log), program=RECORDING) as upstream, fleet:
        await fleet.set_up(upstream.url)
        yield fleet
