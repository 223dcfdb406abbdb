"""`mcpctl status`: which replicas answer on the bus, and whether the gateway is well."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer

from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import ACTORS
from mcpctl.bus.errors import BusError
from mcpctl.cli.context import Config, Context
from mcpctl.cli.errors import UNAVAILABLE, CliError
from mcpctl.cli.http_probe import fetch
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import DataFormat, plain, print_data, print_table, say
from mcpctl.cli.session import connected
from mcpctl.cli.times import span

QUIET = 0.3
"""Seconds without a further answer after which all replicas have answered."""

LONGEST = 2.0
"""Seconds to collect answers at the most."""

HTTP_PATIENCE = 2.0
EXPECTED = (*ACTORS, "gateway")


@dataclass(frozen=True)
class Replica:
    """One process of a part, as its own statistics say."""

    name: str
    id: str
    version: str
    uptime_seconds: float
    requests: int
    errors: int
    p50_ms: float | None


def status(
    *,
    output: Annotated[DataFormat, typer.Option("-o", "--output", help="How to print it.")] = DataFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Show which parts answer; exit code 3 where one that is needed does not."""
    name, found = Config.load().get(context)
    findings = asyncio.run(_look(found))
    if output is DataFormat.TABLE:
        say(f"context   {name}" + (f" (user {found.user})" if found.user else ""))
        _show(findings)
    else:
        print_data({"context": name, **findings.data()}, output)
    if not findings.well:
        raise typer.Exit(UNAVAILABLE)


@dataclass
class Findings:
    """What was seen. A text that begins with `missing` or `error` is about something that should be there."""

    bus: str
    gateway: dict[str, str]
    replicas: list[Replica]
    missing: list[str]

    @property
    def well(self) -> bool:
        return self.bus.startswith("ok") and not self.missing and all(t.startswith("ok") for t in self.gateway.values())

    def data(self) -> dict[str, Any]:
        replicas = [vars(replica) for replica in self.replicas]
        return {
            "well": self.well,
            "bus": self.bus,
            "gateway": self.gateway,
            "replicas": replicas,
            "missing": self.missing,
        }


async def _look(context: Context) -> Findings:
    (bus, replicas), gateway = await asyncio.gather(_bus(context), _gateway(context))
    seen = {replica.name for replica in replicas}
    return Findings(
        bus, gateway, replicas, [name for name in EXPECTED if name not in seen] if replicas else list(EXPECTED)
    )


async def _bus(context: Context) -> tuple[str, list[Replica]]:
    try:
        async with connected(context) as opened:
            answers = await _statistics(opened.bus)
    except (BusError, CliError) as error:
        return f"error: {error}", []
    replicas = [_replica(answer) for answer in answers]
    return f"ok ({context.nats_url})", sorted(replicas, key=lambda r: (_rank(r.name), r.id))


def _rank(name: str) -> int:
    return EXPECTED.index(name) if name in EXPECTED else len(EXPECTED)


async def _statistics(bus: Bus) -> list[dict[str, Any]]:
    """Ask all replicas at once, and return the answers that come before all is quiet."""
    found: list[dict[str, Any]] = []
    async with aclosing(bus.scatter("$SRV.STATS", patience=LONGEST)) as answers:
        try:
            while True:
                async with asyncio.timeout(QUIET):
                    found.append(orjson.loads(await anext(answers)))
        except (TimeoutError, StopAsyncIteration):
            return found


def _replica(answer: dict[str, Any]) -> Replica:
    endpoints = answer.get("endpoints") or []
    medians = [(e["num_requests"], (e.get("data") or {}).get("p50_ms")) for e in endpoints]
    known = [(count, p50) for count, p50 in medians if count and p50 is not None]
    total = sum(count for count, _ in known)
    return Replica(
        name=answer["name"],
        id=answer["id"],
        version=answer["version"],
        uptime_seconds=(datetime.now(UTC) - datetime.fromisoformat(answer["started"])).total_seconds(),
        requests=sum(e["num_requests"] for e in endpoints),
        errors=sum(e["num_errors"] for e in endpoints),
        p50_ms=round(sum(count * p50 for count, p50 in known) / total, 2) if total else None,
    )


async def _gateway(context: Context) -> dict[str, str]:
    if context.gateway_url is None:
        return {}
    paths = ("/healthz", "/readyz")
    texts = await asyncio.gather(*(_probe(context.gateway_url, path) for path in paths))
    return dict(zip(paths, texts, strict=True))


async def _probe(url: str, path: str) -> str:
    try:
        code, body = await fetch(url, path, HTTP_PATIENCE)
    except (CliError, ValueError) as error:
        return f"error: {error}"
    try:
        said = orjson.loads(body)
        missing = f", missing: {', '.join(said['missing'])}" if said.get("missing") else ""
        state = f"{said.get('status')}{missing}"
    except (ValueError, AttributeError, TypeError):
        state = "no JSON"
    return f"ok ({state})" if code == 200 else f"error: HTTP {code} ({state})"


def _show(findings: Findings) -> None:
    say(f"bus       {plain(findings.bus)}")
    for path, text in findings.gateway.items():
        say(f"{path:<9} {plain(text)}")
    say("")
    rows: list[tuple[object, ...]] = [
        (
            r.name,
            "ok",
            r.id,
            r.version,
            span(r.uptime_seconds),
            r.requests,
            r.errors,
            "-" if r.p50_ms is None else f"{r.p50_ms:.2f}",
        )
        for r in findings.replicas
    ]
    rows += [(name, "missing", None, None, None, None, None, None) for name in findings.missing]
    print_table(("PART", "STATE", "ID", "VERSION", "UP", "REQUESTS", "ERRORS", "P50 MS"), rows)
