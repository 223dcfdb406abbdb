"""How cost grows: `python -m tests.bench.scale` makes one system larger step by step and measures it after each.

Each row: the same call in the same small project (alone, from 16 connections), the list of that project and that of the
large one, what each part holds, and how long the actors take to be back. Everything comes on top of what the rows
above it brought. Needs 12,000 file descriptors (`ulimit -n`) for the last row; `--only` leaves steps out.
"""

import argparse
import asyncio
import json
import os
import secrets
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import aiohttp

from tests.gateway.test_edge import headers, modern
from tests.soak.hostile import pss_mib
from tests.system import CONTROL_PLANE, System

HERE = Path(__file__).parent
SERVERS, TOOLS = 200, 10
STEPS = ("small", "projects", "tokens", "tools", "sessions", "streams")
BATCH = 32


@dataclass
class Bench:
    """One system, which grows."""

    system: System
    url: str
    token: str
    large: str = ""
    """a token of the project with all servers"""

    async def load(self, *options: str, token: str = "", project: str = "small") -> dict[str, float]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(HERE / "load.py"), "--url", f"{self.url}/projects/{project}/mcp"),
            *("--token", token or self.token, "--protocol", "2026-07-28", "--timeout", "60", *options),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        row = json.loads(out)
        assert row["errors"] == 0, row["error_samples"]
        return row

    async def row(self, step: str, note: str) -> None:
        alone = await self.load("--conc", "1", "--secs", "3")
        many = await self.load("--conc", "16", "--secs", "4")
        small = await self.load("--conc", "1", "--secs", "2", "--method", "tools/list")
        listed = "-"
        if self.large:
            options = ("--conc", "1", "--secs", "4", "--method", "tools/list", "--expect-tools", str(SERVERS * TOOLS))
            listed = f"{(await self.load(*options, token=self.large, project='large'))['p50_ms']:.1f}"
        parts = {name: pss_mib(part.process.pid) for name, part in self.system.parts.items()}
        parts["nats-server"] = pss_mib(self.system.nats._part.process.pid)
        back = await self.restart()
        held = " | ".join(f"{parts[name]:.0f}" for name in ("gateway", "router", "actors", "nats-server"))
        print(
            f"| {step} | {note} | {alone['p50_ms']:.2f} / {alone['p99_ms']:.2f} | {many['rps']:.0f} | "
            f"{many['p50_ms']:.1f} / {many['p99_ms']:.1f} | {small['p50_ms']:.2f} | {listed} | {held} | {back:.2f} |",
            flush=True,
        )

    async def restart(self) -> float:
        """Return the seconds that the actors take to answer again."""
        await self.system.parts["actors"].stop()
        began = time.monotonic()
        await self.system.run("actors", "mcpctl.actors", *CONTROL_PLANE)
        return time.monotonic() - began

    # --- what grows ---

    async def projects(self, count: int) -> str:
        began = time.monotonic()
        for start in range(0, count, BATCH):
            names = [f"project-{n}" for n in range(start, min(start + BATCH, count))]
            await asyncio.gather(*(self.system.project(name, "upstream") for name in names))
        return f"{count} projects, made in {time.monotonic() - began:.0f} s"

    async def tokens(self, count: int) -> str:
        """Write rows as the registry does: to issue them one by one would measure something else."""
        await self.system.parts["actors"].stop()
        with closing(sqlite3.connect(self.system.folder / "data" / "sql" / "token.sqlite")) as database, database:
            database.row_factory = sqlite3.Row
            known = dict(database.execute("SELECT * FROM bearers WHERE project = 'small'").fetchone())
            columns = ", ".join(known)
            database.executemany(
                f"INSERT INTO bearers ({columns}) VALUES ({', '.join(':' + name for name in known)})",
                (
                    known
                    | {
                        "sha": sha256(secrets.token_bytes(16)).hexdigest(),
                        "name": f"agent-{n}",
                        "project": f"project-{n % 1000}",
                        "active_name": f"project-{n % 1000}/agent-{n}",
                    }
                    for n in range(count)
                ),
            )
        await self.system.run("actors", "mcpctl.actors", *CONTROL_PLANE)
        return f"and {count} tokens"

    async def tools(self, first_port: int) -> str:
        names = [f"up-{n}" for n in range(SERVERS)]
        for n, name in enumerate(names):
            await self.system.server(name, url=f"http://127.0.0.1:{first_port + n}/mcp")
        await self.system.project("large", *names, naming="prefix")
        self.large = await self.system.token("large", "agent", "role:run,resource:servers")
        return f"and {SERVERS} servers with {SERVERS * TOOLS} tools, all in one project"

    async def sessions(self, count: int) -> str:
        ask = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "scale", "version": "1"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": ask}
        sent = {"Authorization": f"Bearer {self.token}", "Accept": "application/json, text/event-stream"}
        began = time.monotonic()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=BATCH)) as http:

            async def begin() -> None:
                async with http.post(f"{self.url}/projects/small/mcp", json=body, headers=sent) as answer:
                    assert answer.status == 200, await answer.text()

            for _ in range(0, count, BATCH):
                await asyncio.gather(*(begin() for _ in range(BATCH)))
        return f"and {count} sessions, opened in {time.monotonic() - began:.0f} s"

    async def streams(self, count: int, http: aiohttp.ClientSession) -> tuple[str, list[aiohttp.ClientResponse]]:
        body = modern("subscriptions/listen", notifications={"toolsListChanged": True})
        sent = headers(self.token, "subscriptions/listen")

        async def listen() -> aiohttp.ClientResponse:
            answer = await http.post(f"{self.url}/projects/small/mcp", json=body, headers=sent)
            assert answer.status == 200, await answer.text()
            return answer

        began, opened = time.monotonic(), []
        for _ in range(0, count, BATCH):
            opened += await asyncio.gather(*(listen() for _ in range(BATCH)))
        return f"and {len(opened)} idle streams, opened in {time.monotonic() - began:.0f} s", opened


async def run(folder: Path, only: list[str], size: float) -> None:
    upstream = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "upstream.py"), "--port", "21000"),
        *("--count", str(SERVERS), "--tools", str(TOOLS)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    system = System(folder, python=sys.executable)
    try:
        await system.start()
        await system.parts["router"].stop()
        await system.run("router", "mcpctl.actors", "router", MCPCTL_LIST_TIMEOUT_MS="5000", MCPCTL_LOG_LEVEL="warning")
        url = await system.gateway(MCPCTL_TOKEN_STREAMS="0", MCPCTL_LOG_LEVEL="warning")
        await system.server("upstream", url="http://127.0.0.1:21000/mcp")
        await system.project("small", "upstream")
        bench = Bench(system, url, await system.token("small", "agent", "role:run,resource:servers"))
        print("| step | what there is | a lone call p50 / p99 ms | 16 connections: req/s | p50 / p99 ms |", end="")
        print(" list p50 ms | list of 2,000 p50 ms | gateway MiB | router | actors | nats-server | actors back s |")
        print("|---" * 12 + "|", flush=True)
        count = {"projects": 1000, "tokens": 100_000, "sessions": 10_000, "streams": 10_000}
        if "small" in only:
            await bench.row("small", "one project, server and token")
        if "projects" in only:
            await bench.row("projects", await bench.projects(int(count["projects"] * size)))
        if "tokens" in only:
            await bench.row("tokens", await bench.tokens(int(count["tokens"] * size)))
        if "tools" in only:
            await bench.row("tools", await bench.tools(21000))
        if "sessions" in only:
            await bench.row("sessions", await bench.sessions(int(count["sessions"] * size)))
        if "streams" in only:
            timeout = aiohttp.ClientTimeout(total=None)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as http:
                note, opened = await bench.streams(int(count["streams"] * size), http)
                await bench.row("streams", note)
                for answer in opened:
                    answer.close()
    finally:
        upstream.kill()
        await upstream.wait()
        await system.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(STEPS), help="the steps, comma separated")
    parser.add_argument("--size", type=float, default=1.0, help="a part of the full numbers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        asyncio.run(run(Path(folder), args.only.split(","), args.size))


if __name__ == "__main__":
    main()
