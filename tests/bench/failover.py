"""What calls feel when a server of the bus dies, freezes or retires: `python -m tests.bench.failover [FAULT ...]`.

Two gateways, two routers, two of each actor and a cluster of three; workers call a tool, one opens old-era sessions.
A line a fault: answers, failures by status, the longest answer, and how long after the fault the last failure was.
"""

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.gateway.peers import http_upstream
from tests.system import CONTROL_PLANE, System

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "x"}}}
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}}
FAULTS = ("kill-meta", "kill-audit", "kill-sessions", "freeze-audit", "retire-audit", "quorum")


@dataclass
class Seen:
    """Requests: `(began, took, status)`, a status of 0 where there was no answer."""

    requests: list[tuple[float, float, int]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    texts: Counter[str] = field(default_factory=Counter)

    def since(self, at: float) -> str:
        told = [request for request in self.requests if request[0] + request[1] > at]
        failed = [request for request in told if request[2] != 200]
        good = [took for _, took, status in told if status == 200] or [0.0]
        last = max((began + took - at for began, took, _ in failed), default=0.0)
        counts = dict(Counter(status for _, _, status in failed))
        return (
            f"{len(told)} answered, failed {counts}, p50 {1000 * statistics.median(good):.0f} ms, "
            f"longest {max(good):.2f} s, last failure after {last:.2f} s"
        )


class Load:
    """Calls of the new era by some workers, and sessions of the old one by another; each with its own connections."""

    def __init__(self, urls: list[str], project: str, bearer: str, tool: str = "echo") -> None:
        self._tool, self._call_body = tool, CALL | {"params": {"name": tool, "arguments": {"text": "x"}}}
        self.urls, self.path, self.calls, self.sessions = urls, f"/projects/{project}/mcp", Seen(), Seen()
        self._headers = {"Authorization": f"Bearer {bearer}", "Accept": "application/json, text/event-stream"}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, workers: int, pause: float = 0.01) -> None:
        for number in range(workers):
            self._tasks.append(asyncio.create_task(self._call(self.urls[number % len(self.urls)], pause)))
        self._tasks.append(asyncio.create_task(self._open()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _call(self, url: str, pause: float) -> None:
        sent = self._headers | {
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": "tools/call",
            "Mcp-Name": self._tool,
        }
        body = CALL | {"params": {"name": self._tool, "arguments": {"text": "x"}, "_meta": META}}
        async with aiohttp.ClientSession(url) as http:
            while True:
                await self._post(http, self.calls, body, sent)
                await asyncio.sleep(pause)

    async def _open(self) -> None:
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
        for number in range(1_000_000):
            async with aiohttp.ClientSession(self.urls[number % len(self.urls)]) as http:
                own = await self._post(http, self.sessions, body, self._headers)
                if own:
                    sent = self._headers | {"Mcp-Session-Id": own, "MCP-Protocol-Version": "2025-06-18"}
                    await self._post(http, self.sessions, self._call_body, sent)
            await asyncio.sleep(0.1)

    async def _post(self, http: aiohttp.ClientSession, seen: Seen, body: object, sent: dict[str, str]) -> str:
        began = time.monotonic()
        status, text, own = 0, "", ""
        try:
            async with http.post(self.path, json=body, headers=sent) as answer:
                status, text, own = answer.status, await answer.text(), answer.headers.get("Mcp-Session-Id", "")
        except aiohttp.ClientError as error:
            text = repr(error)
        if status == 200 and '"result"' not in text:
            status = 500
        if status == 200:
            seen.answers.append(text)
        else:
            seen.texts[f"{status} {text[:160]}"] += 1
        seen.requests.append((began, time.monotonic() - began, status))
        return own


async def start(system: System, stack: AsyncExitStack) -> list[str]:
    """Start two of everything, with the project `p` and one upstream. Returns the gateways' URLs."""
    await system.start()
    await system.run("actors-2", "mcpctl.actors", *CONTROL_PLANE)
    await system.run("router-2", "mcpctl.actors", "router")
    urls = [await system.gateway("gateway"), await system.gateway("gateway-2")]
    upstream = await stack.enter_async_context(http_upstream())
    await system.server("one", url=upstream.url)
    await system.project("p", "one")
    return urls


async def cause(system: System, fault: str) -> float:
    """Cause a fault, and return when; the servers are as before when this returns, and the streams whole."""
    cluster = system.cluster
    assert cluster is not None
    what, _, of = fault.partition("-")
    if what == "quorum":
        first, second = cluster.nodes[:2]
        at = time.monotonic()
        await asyncio.gather(first.kill(), second.kill())
        await asyncio.sleep(20)
        await asyncio.gather(first.start(), second.start())
    else:
        node = await cluster.leader({"meta": None, "audit": "AUDIT", "sessions": "KV_sessions"}[of])
        at = time.monotonic()
        if what == "kill":
            await node.kill()
        elif what == "freeze":
            node.freeze()
        else:
            await node.retire()
        await asyncio.sleep(12)
        if what == "freeze":
            node.resume()
        else:
            await node.start()
    await cluster.whole()
    await asyncio.sleep(2)
    return at


async def main(faults: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    system = System(folder, nodes=3, python=sys.executable)
    try:
        async with AsyncExitStack() as stack:
            urls = await start(system, stack)
            load = Load(urls, "p", await system.token("p", "agent", "role:run,resource:servers"))
            load.start(4)
            await asyncio.sleep(3)
            print("no fault:", load.calls.since(0), flush=True)
            for fault in faults or FAULTS:
                load.calls.texts.clear(), load.sessions.texts.clear()
                at = await cause(system, fault)
                print(f"{fault}: calls {load.calls.since(at)}\n   sessions {load.sessions.since(at)}", flush=True)
                for text, count in (load.calls.texts + load.sessions.texts).most_common(6):
                    print(f"   {count} x {json.dumps(text)}", flush=True)
            await load.stop()
    finally:
        await system.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
