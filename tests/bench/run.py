"""Measure one `mcpctl up` against the upstream itself and a bare proxy: `python -m tests.bench.run` prints the table.

Requests per second, latency and CPU by process at several numbers of connections, all from one run on one
machine; then the cold start and the idle memory. Nothing here is a test: figures are compared by people.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mcpctl.cli.nats_server import free_port
from tests.bench.proc import usage
from tests.installation import PROGRAM, Installation, running

HERE = Path(__file__).parent
PROJECT = "bench"


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)


def prepare(installation: Installation, upstream: int) -> str:
    """Define the project and return a token for it."""
    installation.ok("create", "project", PROJECT)
    installation.ok("create", "server", "upstream", "--url", f"http://127.0.0.1:{upstream}/mcp", "--project", PROJECT)
    bind = ("--bind", "role:run,resource:servers")
    return installation.ok("create", "mcptoken", "bench", "-p", PROJECT, *bind, "-o", "token").strip()


def measure(targets: list[dict[str, object]], args: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    described, rows = folder / "targets.json", folder / "rows.jsonl"
    described.write_text(json.dumps(targets))
    options = ["--conc", args.conc, "--repeats", str(args.repeats), "--secs", str(args.secs), "--out", str(rows)]
    subprocess.run(
        [sys.executable, str(HERE / "compare.py"), str(described), *options], check=True, stdout=subprocess.DEVNULL
    )
    return [json.loads(line) for line in rows.read_text().splitlines()]


def table(rows: list[dict[str, object]], labels: list[str], concurrencies: list[int]) -> None:
    parts = ("gateway", "router", "nats-server", "actors")
    print(
        "| connections | target | req/s | x direct | p50 ms | p99 ms | "
        + " | ".join(f"{p} µs" for p in parts)
        + " | errors |"
    )
    print("|---" * (7 + len(parts)) + "|")
    for concurrency in concurrencies:
        base = middle(rows, labels[0], concurrency, "rps")
        for label in labels:
            mine = [r for r in rows if (r["label"], r["conc"]) == (label, concurrency)]
            cpu = [
                statistics.median([r["procs"][p]["us_per_req"] for r in mine]) if p in mine[0]["procs"] else None
                for p in parts
            ]
            shown = " | ".join("-" if value is None else f"{value:.0f}" for value in cpu)
            rps = middle(rows, label, concurrency, "rps")
            print(
                f"| {concurrency} | {label} | {rps:.0f} | {rps / base:.3f} "
                f"| {middle(rows, label, concurrency, 'p50_ms'):.2f} "
                f"| {middle(rows, label, concurrency, 'p99_ms'):.2f} | {shown} | {sum(r['errors'] for r in mine)} |"
            )


def middle(rows: list[dict[str, object]], label: str, concurrency: int, member: str) -> float:
    return statistics.median(r[member] for r in rows if (r["label"], r["conc"]) == (label, concurrency))


def cold_start(installation: Installation, token: str) -> float:
    """Return the seconds from the start of `mcpctl up`, on existing data, to the first good call."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [*PROGRAM, "up", *installation.options], env=installation.environment, stdout=subprocess.DEVNULL
    )
    try:
        call = [sys.executable, str(HERE / "load.py"), "--url", f"{installation.url}/projects/{PROJECT}/mcp"]
        call += ["--token", token, "--conc", "1", "--secs", "0.01", "--warmup", "0", "--timeout", "5"]
        while subprocess.run(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
            pass
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conc", default="1,16,64")
    parser.add_argument("--secs", type=float, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    upstream_port, proxy_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream = start(str(HERE / "upstream.py"), "--port", str(upstream_port))
        direct = f"http://127.0.0.1:{upstream_port}/mcp"
        proxy = start(str(HERE / "proxy_aiohttp.py"), "--uvloop", "--port", str(proxy_port), "--target", direct)
        installation = Installation(folder, free_port())
        try:
            with running(installation):
                token = prepare(installation, upstream_port)
                pids = installation.children()
                idle = {part: usage(pid)[2] / 1024 for part, pid in pids.items()}
                url = f"{installation.url}/projects/{PROJECT}/mcp"
                ours = {"url": url, "token": token, "pids": pids}
                targets = [
                    {"label": "direct", "url": direct},
                    {
                        "label": "bare proxy",
                        "url": f"http://127.0.0.1:{proxy_port}/mcp",
                        "pids": {"gateway": proxy.pid},
                    },
                    {"label": "mcpctl, 2025-11-25", **ours},
                    {"label": "mcpctl, 2026-07-28", **ours, "args": ["--protocol", "2026-07-28"]},
                ]
                rows = measure(targets, args, folder)
            cold = statistics.median(cold_start(installation, token) for _ in range(3))
        finally:
            proxy.kill()
            upstream.kill()
    table(rows, [str(t["label"]) for t in targets], [int(c) for c in args.conc.split(",")])
    print("\nidle memory (RSS, MiB):", ", ".join(f"{part} {mib:.0f}" for part, mib in sorted(idle.items())))
    print(f"cold start of `mcpctl up` to the first call: {cold:.2f} s")


if __name__ == "__main__":
    main()
