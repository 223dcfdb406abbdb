"""`mcpctl status`: which replicas answer on the bus, and whether the gateway is well."""

import asyncio
import ssl
import time
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer

from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import ACTORS
from mcpctl.bus.errors import BusError
from mcpctl.bus.nats_url import trust_also
from mcpctl.cli.context import Config, Context
from mcpctl.cli.errors import REFUSED, UNAVAILABLE, CliError
from mcpctl.cli.explain import humane
from mcpctl.cli.http_probe import fetch
from mcpctl.cli.options import ContextName
from mcpctl.cli.output import DataFormat, plain, print_data, print_table, say
from mcpctl.cli.session import connected
from mcpctl.cli.times import span

QUIET = 0.4
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
    checks: dict[str, str]
    site: str | None = None


@dataclass(frozen=True)
class NatsServer:
    """The server that this connection leads to, and the others that it may lead to."""

    url: str
    version: str
    round_trip_ms: float
    others: list[str]


def status(
    *,
    output: Annotated[DataFormat, typer.Option("-o", "--output", help="How to print it.")] = DataFormat.TABLE,
    context: ContextName = None,
) -> None:
    """Show which parts answer, and how NATS, JetStream and the gateway are.

    Exit code 0: all is well; 1: something is missing or wrong; 3: nothing can be reached.

    \b
    Examples:
      mcpctl status
      mcpctl status --context staging -o json
    """  # noqa: D301 - \b keeps the examples' lines apart
    name, found = Config.load().get(context)
    findings = asyncio.run(_look(found))
    if output is DataFormat.TABLE:
        say(f"context   {name}" + (f" (user {found.user})" if found.user else ""))
        _show(findings)
    else:
        print_data({"context": name, **findings.data()}, output)
    if not findings.well:
        raise typer.Exit(REFUSED if findings.reached else UNAVAILABLE)


@dataclass
class OfBus:
    """What a look at the bus found. A text begins with `ok` or `error`."""

    text: str
    reached: bool
    nats: NatsServer | None = None
    replicas: tuple[Replica, ...] = ()


@dataclass
class Findings:
    """What was seen. `gateway` and `checks` are texts that begin with `ok` or `error`."""

    bus: OfBus
    gateway: dict[str, str]

    @property
    def missing(self) -> list[str]:
        seen = {replica.name for replica in self.bus.replicas}
        return [name for name in EXPECTED if name not in seen]

    @property
    def checks(self) -> dict[str, str]:
        """What replicas say of what they depend on (streams, databases, sites): the worst word of each."""
        found: dict[str, str] = {}
        for replica in self.bus.replicas:
            for name, text in replica.checks.items():
                if name not in found or not text.startswith("ok"):
                    found[name] = text
        return dict(sorted(found.items()))

    @property
    def well(self) -> bool:
        texts = (self.bus.text, *self.gateway.values(), *self.checks.values())
        return not self.missing and all(text.startswith("ok") for text in texts)

    @property
    def reached(self) -> bool:
        return self.bus.reached or any(text.startswith(("ok", "error: HTTP")) for text in self.gateway.values())

    def data(self) -> dict[str, Any]:
        return {
            "well": self.well,
            "bus": self.bus.text,
            "nats": vars(self.bus.nats) if self.bus.nats else None,
            "checks": self.checks,
            "gateway": self.gateway,
            "replicas": [vars(replica) for replica in self.bus.replicas],
            "missing": self.missing,
        }


async def _look(context: Context) -> Findings:
    return Findings(*await asyncio.gather(_bus(context), _gateway(context)))


async def _bus(context: Context) -> OfBus:
    try:
        async with connected(context) as opened:
            nats = await _nats(opened.bus)
            answers = await _statistics(opened.bus)
    except CliError as error:
        return OfBus(f"error: {error}", reached=error.code == REFUSED)
    except BusError as error:
        return OfBus(f"error: {humane(str(error))}", reached=False)
    replicas = sorted(map(_replica, answers), key=lambda r: (_rank(r.name), r.id))
    said = f"ok ({context.nats_url}, nats-server {nats.version}, {nats.round_trip_ms} ms)"
    return OfBus(said, True, nats, tuple(replicas))


async def _nats(bus: Bus) -> NatsServer:
    client = bus.client
    began = time.perf_counter()
    await bus.ready()
    taken = (time.perf_counter() - began) / 2 * 1000  # it is two round trips
    version = client.connected_server_version
    others = sorted(url.geturl() for url in client.servers if url != client.connected_url)
    url = client.connected_url.geturl() if client.connected_url else ""
    return NatsServer(url, f"{version.major}.{version.minor}.{version.patch}", round(taken, 1), others)


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
        checks=answer.get("checks") or {},
        site=(answer.get("metadata") or {}).get("site"),
    )


async def _gateway(context: Context) -> dict[str, str]:
    if context.gateway_url is None:
        return {}
    paths = ("/healthz", "/readyz")
    try:
        tls = trust_also(context.ca)
    except ValueError as error:
        return dict.fromkeys(paths, f"error: {error}")
    texts = await asyncio.gather(*(_probe(context.gateway_url, path, tls) for path in paths))
    return dict(zip(paths, texts, strict=True))


async def _probe(url: str, path: str, tls: ssl.SSLContext) -> str:
    try:
        code, body = await fetch(url, path, HTTP_PATIENCE, tls=tls)
    except (CliError, ValueError) as error:
        return f"error: {humane(str(error))}"
    try:
        said = orjson.loads(body)
        missing = f", missing: {', '.join(said['missing'])}" if said.get("missing") else ""
        state = f"{said.get('status')}{missing}"
    except (ValueError, AttributeError, TypeError):
        state = "no JSON"
    return f"ok ({state})" if code == 200 else f"error: HTTP {code} ({state})"


def _show(findings: Findings) -> None:
    say(f"bus       {plain(findings.bus.text)}")
    for url in findings.bus.nats.others if findings.bus.nats else ():
        say(f"          also {plain(url)}")
    lines = findings.checks | findings.gateway
    width = max([9, *map(len, lines)])
    for name, text in lines.items():
        say(f"{name:<{width}} {plain(text)}")
    say("")
    rows: list[tuple[object, ...]] = [
        (
            r.name,
            "ok" if r.site is None else f"ok, site {r.site}",
            r.id,
            r.version,
            span(r.uptime_seconds),
            r.requests,
            r.errors,
            "-" if r.p50_ms is None else f"{r.p50_ms:.2f}",
        )
        for r in findings.bus.replicas
    ]
    rows += [(name, "missing", None, None, None, None, None, None) for name in findings.missing]
    print_table(("PART", "STATE", "ID", "VERSION", "UP", "REQUESTS", "ERRORS", "P50 MS"), rows)
