"""The hostile mix for some minutes beside good clients: `python -m tests.soak.hostile --minutes 10`.

Afterwards the memory and the descriptors of every part must be back where they were once the mix had run for a while (a
Python process keeps what it once needed, so the first seconds tell nothing), and no good client may have seen an error.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import aiohttp
from mcp.shared.exceptions import MCPError

from mcpctl.bus.mcp_messages import INTERNAL_ERROR
from tests.gateway.peers import http_upstream, sdk_client
from tests.gateway.test_edge import headers, modern
from tests.system import System

ROOM_MIB = 16.0
"""What a part may hold more than before, in MiB of proportional set size."""

ROOM_DESCRIPTORS = 4
SETTLED_WITHIN = 90.0
"""Seconds that the last of what was begun may take to end."""

GOOD = 4
RETRIES = 10
EVERY = 0.05
"""Seconds between two calls of one good client."""


class GoodClients:
    """Go on calling; `errors` are all that went wrong, `seconds` how long each call took."""

    def __init__(self, url: str, bearer: str) -> None:
        self._url, self._bearer = url, bearer
        self.errors: list[str] = []
        self.retried = 0
        """How often a call was sent again, as one is told to (503): some part did not get to run for a second."""
        self.seconds: list[float] = []

    async def call(self) -> None:
        """One raw client, statelessly."""
        async with aiohttp.ClientSession() as http:
            sent = headers(self._bearer, "tools/call", Mcp_Name="echo")
            while True:
                text = f"good {time.monotonic()}"
                began = time.monotonic()
                try:
                    status, said = await self._ask(http, sent, text)
                    for _ in range(RETRIES):
                        if status != 503:
                            break
                        self.retried += 1
                        await asyncio.sleep(1)
                        status, said = await self._ask(http, sent, text)
                    if status != 200 or text not in said:
                        self.errors.append(f"{status}: {said[:200]}")
                except (aiohttp.ClientError, TimeoutError) as error:
                    self.errors.append(repr(error))
                self.seconds.append(time.monotonic() - began)
                await asyncio.sleep(EVERY)

    async def _ask(self, http: aiohttp.ClientSession, sent: dict[str, str], text: str) -> tuple[int, str]:
        body = modern("tools/call", name="echo", arguments={"text": text})
        async with http.post(self._url, json=body, headers=sent) as answer:
            return answer.status, await answer.text()

    async def converse(self, mode: str) -> None:
        """The SDK's client, in one session."""
        try:
            async with sdk_client(self._url, self._bearer, mode) as client:
                while True:
                    try:
                        result = await client.call_tool("echo", {"text": "x"})
                    except MCPError as error:
                        if error.error.code != INTERNAL_ERROR:
                            raise
                        self.retried += 1
                        await asyncio.sleep(1)
                        continue
                    if result.content[0].text != "x":
                        self.errors.append(f"{mode}: {result}")
                    await asyncio.sleep(EVERY)
        except Exception as error:  # noqa: BLE001 - whatever it is, a good client has seen it
            self.errors.append(f"{mode}: {error!r}")

    def taken(self) -> dict[str, float]:
        """Return p50 and p99 in milliseconds since the last time, and how many calls that were."""
        seconds, self.seconds = sorted(self.seconds), []
        p99 = seconds[int(len(seconds) * 0.99)]
        return {"calls": len(seconds), "p50": statistics.median(seconds) * 1000, "p99": p99 * 1000}


def held(system: System) -> dict[str, tuple[float, int]]:
    """Return the memory (PSS, MiB) and the open descriptors of each part."""
    parts = {name: part.process.pid for name, part in system.parts.items() if part.process.returncode is None}
    return {name: (pss_mib(pid), len(os.listdir(f"/proc/{pid}/fd"))) for name, pid in parts.items()}


def pss_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024


def exceeding(before: dict[str, tuple[float, int]], now: dict[str, tuple[float, int]]) -> dict[str, object]:
    """Return the parts that hold more than they may."""
    return {
        name: (before[name], now[name])
        for name in before
        if now[name][0] > before[name][0] + ROOM_MIB or now[name][1] > before[name][1] + ROOM_DESCRIPTORS
    }


async def attack(url: str, bearer: str, seconds: float) -> dict[str, dict[str, int]]:
    """Have the attackers at it, and return what came of it."""
    process = await asyncio.create_subprocess_exec(
        *("nice", sys.executable, "-m", "tests.soak.attackers", url),
        env=os.environ | {"BEARER": bearer},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"begun\n"
        await asyncio.sleep(seconds)
        process.terminate()
        async with asyncio.timeout(30):
            return json.loads(await process.stdout.read())
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def settled(system: System, before: dict[str, tuple[float, int]]) -> dict[str, object]:
    """Wait until nothing is held any more; return what is, where that takes too long."""
    until = time.monotonic() + SETTLED_WITHIN
    while (more := exceeding(before, held(system))) and time.monotonic() < until:
        await asyncio.sleep(0.5)
    return more


async def run(system: System, url: str, *, warm: float, seconds: float) -> dict[str, object]:
    """Let the mix run on project `dual` of a system; return the figures. `more` and `errors` must be empty."""
    endpoint = f"{url}/projects/dual/mcp"
    good, bad = [await system.token("dual", name, "role:run,resource:servers") for name in ("soak-good", "soak-bad")]
    clients = GoodClients(endpoint, good)
    tasks = [asyncio.create_task(clients.call()) for _ in range(GOOD)]
    tasks += [asyncio.create_task(clients.converse(mode)) for mode in ("legacy", "2026-07-28")]
    figures: dict[str, object] = {}
    try:
        await asyncio.sleep(min(10, warm))
        figures["alone"], figures["at first"] = clients.taken(), held(system)
        await attack(url, bad, warm)
        await settled(system, held(system))
        await asyncio.sleep(min(15, warm))
        clients.taken()
        before = figures["before"] = held(system)
        figures["attacks"] = await attack(url, bad, seconds)
        figures["beside the mix"] = clients.taken()
        figures["more"] = await settled(system, before)
        figures["after"] = held(system)
        figures["errors"], figures["retried"] = list(clients.errors), clients.retried  # what cancelling breaks is none
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return figures


async def main(minutes: float) -> int:
    with tempfile.TemporaryDirectory() as folder:
        system = System(Path(folder), python=sys.executable)
        try:
            await system.start()
            url = await system.gateway(
                MCPCTL_TRUSTED_PROXIES="", MCPCTL_LOG_LEVEL="info"
            )  # loopback counts as others do
            async with http_upstream() as upstream:
                await system.server("dual", url=upstream.url)
                await system.project("dual", "dual")
                figures = await run(system, url, warm=60, seconds=minutes * 60)
        finally:
            await system.stop()
    for name, figure in figures.items():
        print(f"{name}: {json.dumps(figure)}")
    return 1 if figures["more"] or figures["errors"] else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    sys.exit(asyncio.run(main(parser.parse_args().minutes)))
