"""Measure one `mcpctl up` against the upstream itself and a bare proxy: `python -m tests.bench.run` prints the table.

Requests per second, latency and CPU by process at several numbers of connections, then by kind of upstream and size
of message, all from one run on one machine; then the cold start and the idle memory. Nothing here is a test: figures
are compared by people. With `--record` they are drawn too: `docs/performance.svg`.
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
from tests.bench import plot
from tests.bench.proc import usage
from tests.installation import PROGRAM, Installation, running

HERE = Path(__file__).parent
PROJECT = "bench"
PLOT = HERE.parents[1] / "docs" / "performance.svg"


def start(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)


def prepare(installation: Installation, upstream: int) -> str:
    """Define the project and return a token for it."""
    return define(installation, PROJECT, "--url", f"http://127.0.0.1:{upstream}/mcp")


def define(installation: Installation, project: str, *server: str) -> str:
    """Define a project with one server and return a token for it."""
    installation.ok("create", "project", project)
    installation.ok("create", "server", f"{project}-upstream", *server, "--project", project)
    bind = ("--bind", "role:run,resource:servers")
    return installation.ok("create", "mcptoken", "bench", "-p", project, *bind, "-o", "token").strip()


def measure(targets: list[dict[str, object]], args: argparse.Namespace, folder: Path) -> list[dict[str, object]]:
    described, rows = folder / "targets.json", folder / "rows.jsonl"
    rows.unlink(missing_ok=True)
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


def kinds(rows: list[dict[str, object]], labels: list[str], concurrency: int, stdio: float) -> None:
    """Print what upstreams of other kinds and larger messages cost, each beside the same without mcpctl."""
    heads = ("direct: req/s", "mcpctl: req/s", "ratio", "direct: p50 / p99 ms", "mcpctl: p50 / p99 ms")
    print(f"\n| {concurrency} connections | {' | '.join(heads)} |")
    print("|---" * (1 + len(heads)) + "|")
    for label in labels:
        ours = middle(rows, f"mcpctl, {label}", concurrency, "rps")
        theirs = stdio if label == "stdio" else middle(rows, f"direct, {label}", concurrency, "rps")
        latencies = []
        for target in (f"direct, {label}", f"mcpctl, {label}"):
            measured = any(row["label"] == target for row in rows)
            shown = [f"{middle(rows, target, concurrency, q):.2f}" for q in ("p50_ms", "p99_ms") if measured]
            latencies.append(" / ".join(shown) or "-")
        print(f"| {label} | {theirs:.0f} | {ours:.0f} | {ours / theirs:.3f} | {latencies[0]} | {latencies[1]} |")


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


KINDS = ["JSON", "SSE", "20 kB", "1 MB", "stdio"]
AT_ONCE = 16


def more(
    installation: Installation,
    args: argparse.Namespace,
    folder: Path,
    direct: str,
    stream_port: int,
    ours: dict[str, object],
) -> tuple[list[dict[str, object]], float]:
    """Return rows of other kinds of upstreams and sizes of messages, and what a stdio server does without mcpctl."""
    streamed = f"http://127.0.0.1:{stream_port}/mcp"
    tokens = {
        "streamed": define(installation, "streamed", "--url", streamed),
        "local": define(installation, "local", "--command", f"{sys.executable} {HERE / 'stdio.py'} --serve"),
    }
    there = {
        project: {"url": f"{installation.url}/projects/{project}/mcp", "token": token}
        for project, token in tokens.items()
    }
    targets = [
        {"label": "direct, JSON", "url": direct},
        {"label": "mcpctl, JSON", **ours},
        {"label": "direct, SSE", "url": streamed},
        {"label": "mcpctl, SSE", **ours, **there["streamed"]},
        {"label": "mcpctl, stdio", **ours, **there["local"]},
    ]
    for label, size in (("20 kB", "20000"), ("1 MB", "1000000")):
        targets.append({"label": f"direct, {label}", "url": direct, "args": ["--payload", size]})
        targets.append({"label": f"mcpctl, {label}", **ours, "args": ["--payload", size]})
    here = argparse.Namespace(**vars(args) | {"conc": str(AT_ONCE)})
    driven = [
        json.loads(
            subprocess.run(
                [sys.executable, str(HERE / "stdio.py"), "--conc", str(AT_ONCE), "--secs", str(args.secs)],
                check=True,
                capture_output=True,
            ).stdout
        )["rps"]
        for _ in range(args.repeats)
    ]
    return measure(targets, here, folder), statistics.median(driven)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conc", default="1,16,64")
    parser.add_argument("--secs", type=float, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--record", action="store_true", help="draw docs/performance.svg")
    args = parser.parse_args()
    upstream_port, proxy_port, stream_port = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        upstream = start(str(HERE / "upstream.py"), "--port", str(upstream_port))
        streaming = start(str(HERE / "upstream.py"), "--port", str(stream_port), "--sse")
        direct = f"http://127.0.0.1:{upstream_port}/mcp"
        proxy = start(str(HERE / "proxy_aiohttp.py"), "--uvloop", "--port", str(proxy_port), "--target", direct)
        installation = Installation(folder, free_port())
        installation.environment["MCPCTL_ADDRESS_CONNECTIONS"] = "0"
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
                others, stdio = more(installation, args, folder, direct, stream_port, ours) if args.kinds else ([], 0.0)
            cold = statistics.median(cold_start(installation, token) for _ in range(3))
        finally:
            for process in (proxy, upstream, streaming):
                process.kill()
    table(rows, [str(t["label"]) for t in targets], [int(c) for c in args.conc.split(",")])
    if args.kinds:
        kinds(others, KINDS, AT_ONCE, stdio)
    if args.record:
        concurrencies = [int(c) for c in args.conc.split(",")]
        series = {
            str(t["label"]): [
                middle(rows, str(t["label"]), c, "rps") / middle(rows, "bare proxy", c, "rps") for c in concurrencies
            ]
            for t in targets[1:]
        }
        PLOT.write_text(
            plot.bars("Calls a second, as a share of the bare proxy's, at so many connections", concurrencies, series)
        )
    print("\nidle memory (RSS, MiB):", ", ".join(f"{part} {mib:.0f}" for part, mib in sorted(idle.items())))
    print(f"cold start of `mcpctl up` to the first call: {cold:.2f} s")


if __name__ == "__main__":
    main()
