"""More than the system can do: `python -m tests.bench.overload` finds its peak, then asks for twice as much.

Peak: the best of closed loops with 64 and 256 connections. Then an open loop at twice that rate: what is answered
(goodput), how soon the rest is refused, and what memory that takes. Then the same from one project, while another asks
20 times a second: alone, beside a project at half the peak, and beside the one that asks for twice the peak.
Last, what a quota costs that nobody reaches, with two routers: one of them has to ask the other.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.soak.hostile import pss_mib
from tests.system import System

HERE = Path(__file__).parent
PORT = 21300


async def said_by(script: str, *options: str) -> dict:
    """Run a load generator; its last line is what it found."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / script), *options, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    return json.loads(out.decode().strip().splitlines()[-1])


def memory(system: System) -> str:
    parts = {name: pss_mib(part.process.pid) for name, part in system.parts.items()}
    parts["nats-server"] = pss_mib(system.nats._part.process.pid)
    return ", ".join(f"{name} {held:.0f}" for name, held in parts.items())


def told(row: dict) -> str:
    cells = [f"{row['ok_per_second']:.0f} answered a second"]
    for status, ms in row["ms"].items():
        cells.append(f"{status}: {row['statuses'][status]} in {ms['p50']} / {ms['p99']} / {ms['max']} ms")
    left = {name: row[name] for name in ("unsent", "unanswered", "without_retry_after") if row[name]}
    return "; ".join(cells) + f"; {row['open']} connections" + (f"; {left}" if left else "")


async def measure(system: System, gateways: list[str], secs: float) -> None:
    tokens = {name: await system.token(name, "agent", "role:run,resource:servers") for name in ("noisy", "quiet")}

    def at(project: str, gateway: int = 0) -> tuple[str, ...]:
        return ("--url", f"{gateways[gateway]}/projects/{project}/mcp", "--token", tokens[project])

    print(f"memory before, MiB: {memory(system)}")
    peak, warm = 0.0, ("--warm", "1500")
    for connections in ("64", "256", "1000"):
        options = ("--protocol", "2026-07-28", "--timeout", "30", "--conc", connections, "--secs", str(secs))
        row = await said_by("load.py", *at("noisy"), *options)
        print(
            f"closed loop, {connections} connections: {row['rps']:.0f}/s, p50 {row['p50_ms']} p99 {row['p99_ms']} ms,",
            f"{row['errors']} errors {row.get('error_samples', '')}",
        )
        peak = max(peak, row["rps"])
    for factor in (0.8, 2.0, 4.0):
        row = await said_by("open_load.py", *at("noisy"), "--rate", f"{factor * peak:.0f}", "--secs", str(secs), *warm)
        print(f"open loop, {factor} x the peak: {told(row)}; goodput {row['ok_per_second'] / peak:.0%} of the peak")
        print(f"  memory, MiB: {memory(system)}")
    slow = ("--rate", "20", "--secs", str(secs))
    print(f"the quiet project alone: {told(await said_by('open_load.py', *at('quiet'), *slow))}")
    for factor in (0.5, 2.0):
        quiet, noisy = await asyncio.gather(
            said_by("open_load.py", *at("quiet"), *slow),
            said_by("open_load.py", *at("noisy"), "--rate", f"{factor * peak:.0f}", "--secs", str(secs), *warm),
        )
        print(f"the quiet project beside {factor} x the peak: {told(quiet)}")
        print(f"  the other: {told(noisy)}")


async def quotas(system: System, url: str, secs: float) -> None:
    """Measure the same calls without a quota, with a rate, and with everything."""
    await system.run("router-2", "mcpctl.actors", "router", MCPCTL_LOG_LEVEL="warning")
    rate = {"requests_per_second": 1_000_000, "burst": 1_000_000}
    for name, quota in (("no", None), ("rate", rate), ("all", rate | {"concurrent_calls": 100_000})):
        await system.project(f"quota-{name}", "upstream", quota=quota)
        bearer = await system.token(f"quota-{name}", "agent", "role:run,resource:servers")
        for connections in ("1", "64"):
            row = await said_by(
                "load.py",
                *("--url", f"{url}/projects/quota-{name}/mcp", "--token", bearer),
                *("--protocol", "2026-07-28", "--conc", connections, "--secs", str(secs)),
            )
            print(f"quota {name}, {connections} connections: {row['rps']:.0f}/s, p50 {row['p50_ms']} ms")


async def run(folder: Path, secs: float) -> None:
    upstream = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "upstream.py"), "--port", str(PORT), stdout=asyncio.subprocess.DEVNULL
    )
    system = System(folder, python=sys.executable)
    try:
        await system.start()
        await system.parts["router"].stop()
        await system.run("router", "mcpctl.actors", "router", MCPCTL_LOG_LEVEL="warning")
        gateways = [await system.gateway(MCPCTL_ADDRESS_CONNECTIONS="0", MCPCTL_LOG_LEVEL="warning")]
        await system.server("upstream", url=f"http://127.0.0.1:{PORT}/mcp")
        for project in ("noisy", "quiet"):
            await system.project(project, "upstream")
        await measure(system, gateways, secs)
        await quotas(system, gateways[0], secs)
    finally:
        upstream.kill()
        await upstream.wait()
        await system.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--secs", type=float, default=8, help="seconds of each measurement")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        asyncio.run(run(Path(folder), options.secs))


if __name__ == "__main__":
    main()
