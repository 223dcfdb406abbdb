"""How long a part is without the bus once its server is gone: `python -m tests.bench.bus_failover [--repeats 5]`.

On a cluster of three, the server that a gateway process is connected to is killed (`kill -9`) or frozen (SIGSTOP), and
with it the connections of a gateway, an actor and an operator's CLI in this process. Each asks all the time, one
request after the other: the time from the fault to the first answer to what was asked after it. The actors that answer
may be on that server too, as may be the router.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import aiohttp

from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BusError
from mcpctl.bus.identity import ActorIdentity, AdmittedIdentity
from tests.gateway.test_edge import headers, modern
from tests.nats_cluster import Node
from tests.system import System

PAUSE = 0.005
GIVE_UP = 60.0

Ask = Callable[[], Awaitable[bool]]


def server_of(system: System, part: str) -> Node:
    """Return the server that a process is connected to."""
    assert system.cluster is not None
    sockets = set()
    for file in Path(f"/proc/{system.parts[part].process.pid}/fd").iterdir():
        with suppress(OSError):
            sockets.add(str(file.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {int(row[2].partition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in sockets}
    return next(node for node in system.cluster.nodes if node.port in ports)


async def connected_to(system: System, node: Node, identity: AdmittedIdentity | ActorIdentity) -> Bus:
    """Connect until chance leads to this server."""
    while True:
        bus = await Bus.connect(system.nats.url, identity)
        if bus.client.connected_url.port == node.port:
            return bus
        await bus.close(grace=0)


def asking(bus: Bus, bearer: str) -> Ask:
    async def ask() -> bool:
        with suppress(BusError):
            return bool(await bus.call(token.resolve, token.ResolveBearer(bearer=bearer)))
        return False

    return ask


def calling(http: aiohttp.ClientSession, bearer: str) -> Ask:
    async def ask() -> bool:
        with suppress(aiohttp.ClientError):
            async with http.post("/projects/p/mcp", json=modern(), headers=headers(bearer)) as answer:
                return answer.status == 200 and '"result"' in await answer.text()
        return False

    return ask


async def back(ask: Ask, fault: "asyncio.Future[float]") -> float:
    """Ask the whole time. Returns the seconds from the fault to the first answer to what was asked after it."""
    while not fault.done() or time.monotonic() < fault.result() + GIVE_UP:
        began = time.monotonic()
        if await ask() and fault.done() and began > fault.result():
            return time.monotonic() - fault.result()
        await asyncio.sleep(PAUSE)
    return GIVE_UP


async def measure(system: System, http: aiohttp.ClientSession, bearer: str, what: str) -> dict[str, float]:
    """Cause one fault and wait it out; all is as before when this returns."""
    assert system.cluster is not None
    node = server_of(system, "gateway")
    who: dict[str, AdmittedIdentity | ActorIdentity] = {
        "gateway": AdmittedIdentity("gateway", ca=system.ca),
        "actor": ActorIdentity("router", system.nats.keys, ca=system.ca),
        "operator": AdmittedIdentity("operator", system.bearer, ca=system.ca),
    }
    buses = {name: await connected_to(system, node, identity) for name, identity in who.items()}
    asks = {name: asking(bus, bearer) for name, bus in buses.items() if name != "operator"}

    async def ask_as_operator() -> bool:
        with suppress(BusError):
            return bool(await buses["operator"].call(token.whoami, token.WhoAmI(bearer=system.bearer)))
        return False

    asks |= {"operator": ask_as_operator, "a list through the gateway": calling(http, bearer)}
    fault: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    running = {name: asyncio.create_task(back(ask, fault)) for name, ask in asks.items()}
    await asyncio.sleep(1)
    at = time.monotonic()
    if what == "kill":
        node._send(9)  # not waited for
    else:
        node.freeze()
    fault.set_result(at)
    took = {name: await task for name, task in running.items()}
    if what == "kill":
        await node.kill()
        await node.start()
    else:
        node.resume()
    await system.cluster.whole()
    for bus in buses.values():
        await bus.close(grace=0)
    await asyncio.sleep(3)
    return took


async def main(repeats: int) -> None:
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    system = System(folder, nodes=3)
    try:
        await system.start()
        url = await system.gateway()
        await system.project("p")
        bearer = await system.token("p", "agent", "role:run,resource:servers")
        async with aiohttp.ClientSession(url) as http:
            for what in ("kill", "freeze"):
                rows: dict[str, list[float]] = defaultdict(list)
                for number in range(repeats):
                    for name, seconds in (await measure(system, http, bearer, what)).items():
                        rows[name].append(seconds)
                    print(f"{what} {number + 1} of {repeats}", file=sys.stderr, flush=True)
                for name, values in rows.items():
                    print(
                        f"{what}: {name}: median {statistics.median(values):.2f} s, worst {max(values):.2f} s",
                        flush=True,
                    )
    finally:
        await system.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    asyncio.run(main(parser.parse_args().repeats))
