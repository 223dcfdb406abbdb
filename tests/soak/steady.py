"""What stays as it is under load: `python -m tests.soak.steady --minutes 10`.

One system, asked for a share of its peak without waiting for answers; each half minute it prints latencies, and what
each part holds: memory (PSS, MiB) and descriptors. At the end: how much both rose after the first minute.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from tests.bench.overload import HERE, PORT, said_by
from tests.soak.hostile import pss_mib
from tests.system import System

WINDOW = 30


def held(system: System) -> dict[str, tuple[float, int]]:
    """Return the memory and the descriptors of each part."""
    pids = {name: part.process.pid for name, part in system.parts.items()}
    pids["nats-server"] = system.nats._part.process.pid
    return {name: (pss_mib(pid), len(os.listdir(f"/proc/{pid}/fd"))) for name, pid in pids.items()}


async def soak(system: System, url: str, minutes: float, share: float) -> None:
    token = await system.token("steady", "agent", "role:run,resource:servers")
    at = ("--url", f"{url}/projects/steady/mcp", "--token", token)
    peak = (await said_by("load.py", *at, "--protocol", "2026-07-28", "--conc", "64", "--secs", "6"))["rps"]
    rate = share * peak
    print(f"peak {peak:.0f}/s with 64 connections, asked for {rate:.0f}/s")
    found = []
    for number in range(int(minutes * 60 / WINDOW)):
        row = await said_by("open_load.py", *at, "--rate", f"{rate:.0f}", "--secs", str(WINDOW), "--warm", "64")
        holds = held(system)
        found.append((row, holds))
        ms = row["ms"]["200"]
        parts = ", ".join(f"{name} {mib:.1f} ({fds})" for name, (mib, fds) in holds.items())
        print(f"{number * WINDOW:4} s: {row['statuses']} p50 {ms['p50']} p99 {ms['p99']} ms; {parts}", flush=True)
    (_, before), (_, after) = found[min(1, len(found) - 1)], found[-1]
    for name, (mib, fds) in after.items():
        print(f"{name}: {mib / before[name][0] - 1:+.1%} memory, {fds - before[name][1]:+} descriptors")


async def run(folder: Path, minutes: float, share: float) -> None:
    upstream = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "upstream.py"), "--port", str(PORT), stdout=asyncio.subprocess.DEVNULL
    )
    system = System(folder, python=sys.executable)
    try:
        await system.start()
        url = await system.gateway(MCPCTL_ADDRESS_CONNECTIONS="0", MCPCTL_LOG_LEVEL="warning")
        await system.server("upstream", url=f"http://127.0.0.1:{PORT}/mcp")
        await system.project("steady", "upstream")
        await soak(system, url, minutes, share)
    finally:
        upstream.kill()
        await upstream.wait()
        await system.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--share", type=float, default=0.8, help="of the peak")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder), options.minutes, options.share))


if __name__ == "__main__":
    main()
