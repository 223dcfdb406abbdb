"""What `MCPCTL_AUDIT_DURABILITY=power` costs: `python -m tests.bench.durability [--folder ON_A_DISK]`.

First appends alone (one after the other, and many at once), then calls through a whole `mcpctl up`, in both modes, from
one run. The folder must be on the disk that is meant: on a memory file system there is nothing to measure.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus
from mcpctl.bus.identity import ActorIdentity
from mcpctl.bus.provision import provision
from mcpctl.cli.nats_server import NatsServer, free_port
from tests.bench.run import HERE, PROJECT, measure, prepare, start, table
from tests.installation import Installation, running

MODES = ("process", "power")
EVENT = {"kind": "call", "outcome": "allow", "project": "web", "principal": "token-ci", "server": "s", "name": "echo"}


async def appends(folder: Path, mode: str, tasks: int, seconds: float) -> tuple[float, float, float]:
    """Return events per second, and p50 and p99 in milliseconds until one is acknowledged."""
    server = NatsServer(folder / mode / str(tasks), free_port(), power_safe=mode == "power")
    await server.start()
    await provision(server.url, server.keys)
    bus = await Bus.connect(server.url, ActorIdentity("router", server.keys))
    writer = AuditWriter(bus)
    took: list[float] = []
    began = time.perf_counter()

    async def append() -> None:
        while (sent := time.perf_counter()) - began < seconds:
            await writer.append(dict(EVENT))
            took.append((time.perf_counter() - sent) * 1000)

    await asyncio.gather(*(append() for _ in range(tasks)))
    elapsed = time.perf_counter() - began
    await writer.close()
    await bus.close()
    await server.stop()
    cuts = statistics.quantiles(took, n=100)
    return len(took) / elapsed, cuts[49], cuts[98]


def calls(folder: Path, args: argparse.Namespace) -> None:
    port = free_port()
    upstream = start(str(HERE / "upstream.py"), "--port", str(port))
    targets: list[dict[str, object]] = [{"label": "direct", "url": f"http://127.0.0.1:{port}/mcp"}]
    started = [Installation(folder / f"up-{mode}", free_port(), "--audit-durability", mode) for mode in MODES]
    try:
        for installation in started:
            installation.folder.mkdir()
        with running(started[0]), running(started[1]):
            for mode, installation in zip(MODES, started, strict=True):
                url = f"{installation.url}/projects/{PROJECT}/mcp"
                token = prepare(installation, port)
                targets.append({"label": mode, "url": url, "token": token, "pids": installation.children()})
            rows = measure(targets, args, folder)
    finally:
        upstream.kill()
    table(rows, [str(target["label"]) for target in targets], [int(c) for c in args.conc.split(",")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", default="/var/tmp")
    parser.add_argument("--conc", default="1,16,64")
    parser.add_argument("--secs", type=float, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        print("| appends | events at once | events/s | p50 ms | p99 ms |\n|---|---|---|---|---|")
        for tasks in (1, 16, 64):
            for mode in MODES:
                rate, middle, late = asyncio.run(appends(Path(name), mode, tasks, args.secs))
                print(f"| {mode} | {tasks} | {rate:.0f} | {middle:.2f} | {late:.2f} |", flush=True)
        print()
        calls(Path(name), args)


if __name__ == "__main__":
    main()
