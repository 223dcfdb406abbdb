"""How long `mcpctl up` takes, and what it needs when it rests: `python -m tests.bench.cold_start [--repeats 5]`.

Each repetition: `up` on an empty folder until it says that it is ready; the memory of all of its processes some
seconds later (PSS: what they share is counted once); `mcpctl get projects` as a process; `up` once more on the data
that are there, until it says so, and until a call of a tool through the gateway has been answered. Medians are printed.
"""

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mcpctl.cli.nats_server import free_port
from tests.bench.proc import tree
from tests.bench.run import HERE, PROJECT, prepare, start
from tests.gateway.test_edge import headers, modern
from tests.installation import PROGRAM, READY, Installation, running

REST = 5.0
"""Seconds after the start in which what is done once is done."""

GETS = 5


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def pss(pid: int) -> float:
    """Return the MiB of a process and of its children."""
    found = 0
    for each in tree(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            found += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return found / 1024


def memory(installation: Installation) -> dict[str, float]:
    parts = {part: pss(pid) for part, pid in installation.children().items()}
    return parts | {"supervisor": pss(installation.process.pid) - sum(parts.values())}


def call(installation: Installation, token: str) -> None:
    """Return when a call of a tool has been answered."""
    body = json.dumps(modern("tools/call", name="echo", arguments={"text": "x"}))
    sent = headers(token, "tools/call", Mcp_Name="echo") | {"Content-Type": "application/json"}
    give_up, said = time.monotonic() + 60, b""
    while time.monotonic() < give_up:
        connection = http.client.HTTPConnection(installation.url.removeprefix("http://"), timeout=5)
        with suppress(OSError, http.client.HTTPException):
            connection.request("POST", f"/projects/{PROJECT}/mcp", body, sent)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status == 200 and b'"result"' in said:
                return
        connection.close()
        time.sleep(0.01)
    raise TimeoutError(said.decode())


def repetition(folder: Path, upstream: int) -> dict[str, float]:
    installation = Installation(folder, free_port())
    began = time.perf_counter()
    with running(installation):
        found = {"first start: ready, s": time.perf_counter() - began}
        token = prepare(installation, upstream)
        time.sleep(REST)
        parts = memory(installation)
        found |= {f"PSS of {part}, MiB": mib for part, mib in sorted(parts.items())}
        found["PSS of all, MiB"] = sum(parts.values())
        get = [*PROGRAM, "get", "projects"]
        once = [
            seconds(lambda: subprocess.run(get, env=installation.environment, check=True, capture_output=True))
            for _ in range(GETS)
        ]
        found["mcpctl get, ms"] = 1000 * statistics.median(once)
    began = time.perf_counter()
    installation.launch()
    try:
        call(installation, token)
        found["second start: first good call, s"] = time.perf_counter() - began
        installation.wait_for(READY)
        found["second start: ready, s"] = time.perf_counter() - began
    finally:
        installation.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows: dict[str, list[float]] = defaultdict(list)
    port = free_port()
    upstream = start(str(HERE / "upstream.py"), "--port", str(port))
    try:
        for number in range(args.repeats):
            with tempfile.TemporaryDirectory() as name:
                for what, value in repetition(Path(name), port).items():
                    rows[what].append(value)
            print(f"{number + 1} of {args.repeats}", file=sys.stderr)
    finally:
        upstream.kill()
    for what, values in rows.items():
        print(f"{what}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main()
