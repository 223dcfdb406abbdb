"""A fleet with faults, for some minutes: `python -m tests.soak.fleet --minutes 10`.

The topology of `compose/compose.yaml`, mixed traffic of both eras, changes of the control plane, and every few seconds
one process that gets `kill -9`, stands still, or is restarted. Prints counts; ends with 1 where a promise is broken.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

from tests.fleet.changes import Changes
from tests.fleet.faults import Faults
from tests.fleet.fleet import PROJECT, TOOL, RunningFleet, running_fleet
from tests.fleet.traffic import Traffic
from tests.fleet.verdict import Verdict, judge

CALM = 6.0
"""Seconds without faults before the first and after the last."""


async def disturb(fleet: RunningFleet, seconds: float, seed: int, only: str = "") -> Verdict:
    """Let faults happen to a fleet in use, and judge it."""
    traffic = Traffic(fleet.url, PROJECT, fleet.token, TOOL, wait_ms=(0, 0, 30, 400))
    changes = Changes(fleet.url, PROJECT, fleet.bearer, TOOL)
    chosen = [p for p in fleet.parts.values() if p.service != "balancer" and (not only or p.service in only.split(","))]
    faults = Faults(chosen, random.Random(seed))
    async with traffic.running(raw=3, legacy=3, sdk=1, streams=2):
        changes.start()
        await asyncio.sleep(CALM)
        await faults.run(seconds)
        await asyncio.sleep(CALM)
        await changes.stop()
    return await judge(fleet, traffic, changes, faults)


async def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        async with running_fleet(Path(name)) as fleet:
            try:
                verdict = await disturb(fleet, args.minutes * 60, args.seed, args.only)
            finally:
                for line in fleet.said:
                    print(line)
    for name, figure in verdict.figures.items():
        print(f"{name}: {json.dumps(figure)}")
    for promise, found in verdict.broken.items():
        print(f"BROKEN: {promise}: {found}")
    return 1 if verdict.broken else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="services that may be disturbed, comma separated (default: all)")
    parser.add_argument("--folder", help="where the fleet's files are (default: a temporary folder)")
    sys.exit(asyncio.run(run(parser.parse_args())))
