"""What a second gateway and a second router cost on the same cores: `python -m tests.bench.replicas`.

Two load generators with 32 connections each: both at one gateway, then each at its own, with two routers behind them.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench.overload import HERE, PORT, said_by
from tests.system import System

EACH = "32"


async def load(urls: list[str], token: str, secs: float) -> float:
    """Return the requests a second of all together."""
    asked = ("--token", token, "--protocol", "2026-07-28", "--conc", EACH, "--secs", str(secs))
    rows = await asyncio.gather(*(said_by("load.py", "--url", f"{url}/projects/web/mcp", *asked) for url in urls))
    if any(row["errors"] for row in rows):
        print("errors:", [row["error_samples"] for row in rows])
    return sum(row["rps"] for row in rows)


async def run(folder: Path, secs: float, repeats: int) -> None:
    upstream = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "upstream.py"), "--port", str(PORT), stdout=asyncio.subprocess.DEVNULL
    )
    system = System(folder, python=sys.executable)
    quiet = {"MCPCTL_ADDRESS_CONNECTIONS": "0", "MCPCTL_LOG_LEVEL": "warning"}
    try:
        await system.start()
        first = await system.gateway(**quiet)
        await system.server("upstream", url=f"http://127.0.0.1:{PORT}/mcp")
        await system.project("web", "upstream")
        token = await system.token("web", "agent", "role:run,resource:servers")
        found: dict[str, list[float]] = {"1 + 1": [], "2 + 2": []}
        for number in range(repeats):
            found["1 + 1"].append(await load([first, first], token, secs))
            second = await system.gateway(f"gateway-{number}", **quiet)
            await system.run(f"router-{number}", "mcpctl.actors", "router", MCPCTL_LOG_LEVEL="warning")
            found["2 + 2"].append(await load([first, second], token, secs))
            await system.parts[f"gateway-{number}"].stop()
            await system.parts[f"router-{number}"].stop()
        middle = {name: statistics.median(rates) for name, rates in found.items()}
        for name, rate in middle.items():
            print(f"{name}: {rate:.0f} requests a second, of {[round(each) for each in found[name]]}")
        print(f"ratio: {middle['2 + 2'] / middle['1 + 1']:.3f}")
    finally:
        upstream.kill()
        await upstream.wait()
        await system.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--secs", type=float, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder), options.secs, options.repeats))


if __name__ == "__main__":
    main()
