"""What is measured of a running system, and that alarms and dashboard ask for nothing else."""

import asyncio
import json
import secrets
import time
from pathlib import Path

import aiohttp
import orjson
import promql_parser
import pytest
import yaml
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from mcpctl.bus.metrics import FAMILIES, OTHER, Counter, Histogram
from tests.certificates import Certificates
from tests.gateway.raw_session import RawSession
from tests.gateway.test_edge import headers, modern

pytestmark = pytest.mark.asyncio(loop_scope="session")

COMPOSE = Path(__file__).parents[2] / "compose"
SILENT = {"mcpctl_certificate_remaining_seconds"}
"""Told only where something is that this system has not: a gateway with a certificate of its own."""

OF_OTHERS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"}


async def scraped(http, system):
    """Return the samples of all parts: by name, the labels and the value of each."""
    found, text = {}, ""
    for part in system.parts.values():
        if part.process.returncode is None:
            async with http.get(f"{part.metrics}/metrics") as answer:
                assert answer.status == 200
                text += (told := await answer.text())
            for family in text_string_to_metric_families(told):
                for sample in family.samples:
                    found.setdefault(sample.name, []).append((sample.labels | {"part": part.name}, sample.value))
    return found, text


def total(found, name, **labels):
    return sum(value for has, value in found.get(name, ()) if labels.items() <= has.items())


async def ask(http, system, project, bearer, tool, gateway=0):
    url = f"{system.urls[gateway]}/projects/{project}/mcp"
    body = modern("tools/call", name=tool, arguments={"text": "x"})
    async with http.post(url, json=body, headers=headers(bearer, "tools/call", Mcp_Name=tool)) as answer:
        await answer.read()
        return answer.status


def names_in(expression):
    """Return the metrics that PromQL asks for. Raises `ValueError` where it is none."""
    found = set()

    def look(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.add(node.vector_selector.name)
        elif isinstance(node, promql_parser.BinaryExpr):
            look(node.lhs)
            look(node.rhs)
        elif isinstance(node, promql_parser.Call):
            for argument in node.args:
                look(argument)
        elif isinstance(node, promql_parser.AggregateExpr | promql_parser.ParenExpr | promql_parser.UnaryExpr):
            look(node.expr)

    look(promql_parser.parse(expression))
    return found


async def test_what_is_done_is_counted_where_it_is_done_and_alarms_ask_for_what_is_there(system):
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        before, _ = await scraped(http, system)
        for gateway in (0, 1, 0, 1):
            assert await ask(http, system, "dual", system.tokens["dual"], "echo", gateway) == 200
        assert await ask(http, system, "dual", f"mcpctl_pat_{'x' * 49}", "echo") == 401
        session = await RawSession.open(http, system, "pipe")
        async with session.call("count", token=1, steps=2) as answer:
            assert "event-stream" in answer.headers["Content-Type"]
            await answer.read()
        async with session.get() as stream:
            assert stream.status == 200
            during, text = await scraped(http, system)

        def grown(name, **labels):
            return total(during, name, **labels) - total(before, name, **labels)

        assert grown("mcpctl_calls_total", project="dual", server="dual", outcome="ok") == 4
        assert grown("mcpctl_upstream_duration_seconds_count", server="dual") == 4
        assert grown("mcpctl_http_requests_total", route="mcp", status="401") == 1
        assert grown("mcpctl_refusals_total", reason="bearer") == 1
        assert grown("mcpctl_streams") == 1
        assert grown("mcpctl_stream_bytes_total") > 0
        assert total(during, "mcpctl_stdio_processes") >= 1
        assert total(during, "mcpctl_upstream_connections", server="dual", state="up") >= 1
        feeds = {"token", "rbac", "catalog", "session"}
        assert {labels["feed"] for labels, _ in during["mcpctl_lease_remaining_seconds"]} == feeds
        assert all(0 < value <= 3 for _, value in during["mcpctl_lease_remaining_seconds"])
        assert total(during, "mcpctl_feed_followers", feed="token") >= 4
        assert total(during, "mcpctl_audit_entries_total") > 0
        assert total(during, "mcpctl_audit_ledger_lag_seconds") < 30
        assert all(value == 1 for _, value in during["mcpctl_bus_connected"])
        assert not [secret for secret in (system.tokens["dual"], system.bearer, "agent") if secret in text]

        silent = {name for name, family in FAMILIES.items() if not _is_told(during, name, family)}
        assert silent == SILENT
        rules = yaml.safe_load((COMPOSE / "prometheus" / "rules.yaml").read_text())["groups"][0]["rules"]
        panels = json.loads((COMPOSE / "grafana" / "dashboard.json").read_text())["panels"]
        asked = [rule["expr"] for rule in rules]
        asked += [target["expr"].replace("$__rate_interval", "5m") for panel in panels for target in panel["targets"]]
        assert set().union(*map(names_in, asked)) <= set(during) | OF_OTHERS | SILENT
        for rule in rules:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["for"]
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["what_to_do"]

        page = (COMPOSE.parent / "docs" / "metrics.md").read_text()
        assert [name for name in FAMILIES if f"| `{name}` |" not in page] == []

        stats = await _stats_of_a_router(system)
        assert stats["mcpctl_calls_total"]["ok"] >= 1
        assert "mcpctl_upstream_connections" not in stats


def _is_told(found, name, family):
    return bool(found.get(f"{name}_count" if isinstance(family, Histogram) else name))


async def _stats_of_a_router(system):
    answers = [orjson.loads(each) async for each in system.operator.scatter("$SRV.STATS.router", patience=1.0)]
    return max((answer["data"] for answer in answers), key=lambda data: sum(data["mcpctl_calls_total"].values()))


async def test_a_gateway_with_a_certificate_tells_how_long_it_is_still_good(system, tmp_path):
    made = Certificates(tmp_path)
    await system.gateway("own", MCPCTL_TLS_CERT=str(made.certificate), MCPCTL_TLS_KEY=str(made.key))
    try:
        async with asyncio.timeout(60), aiohttp.ClientSession() as http:
            ends = x509.load_pem_x509_certificate(made.certificate.read_bytes()).not_valid_after_utc.timestamp()
            latest = ends - time.time()
            found, _ = await scraped(http, system)
            earliest = ends - time.time()
    finally:
        await system.parts.pop("own").stop()

    ((labels, left),) = found["mcpctl_certificate_remaining_seconds"]
    assert labels == {"part": "own"}, "the other gateways have none"
    assert earliest <= left <= latest


async def test_words_of_clients_make_no_series(system):
    async with asyncio.timeout(120), aiohttp.ClientSession() as http:
        for _ in range(16):  # so that each router has had one of each
            await ask(http, system, "dual", system.tokens["dual"], "no-such-tool")
            await ask(http, system, "no-such-project", system.bearer, "echo")
            await ask(http, system, "no-such-project", system.tokens["dual"], "echo")
        await ask(http, system, "dual", "nonsense", "echo")
        before, _ = await scraped(http, system)
        for _ in range(30):
            words = [f"x{secrets.token_hex(6)}" for _ in range(3)]
            await asyncio.gather(
                ask(http, system, words[0], system.bearer, "echo"),
                ask(http, system, words[1], system.tokens["dual"], "echo"),
                ask(http, system, "dual", system.tokens["dual"], words[2]),
                http.request("PROPFIND", f"{system.urls[0]}/projects/dual/mcp"),
            )
        after, text = await scraped(http, system)

    ours = [name for name in after if name.startswith("mcpctl_")]
    new = {name: len(after[name]) - len(before.get(name, ())) for name in ours}
    # The foreign method, and its refusal, once each.
    assert {name: count for name, count in new.items() if count > 2} == {}
    assert total(after, "mcpctl_http_requests_total", method=OTHER) >= 30
    assert not [word for word in words if word in text]


async def test_a_family_that_is_full_counts_the_rest_as_other():
    try:
        calls = Counter("test_calls_total", "", ("project", "server", "outcome"), open=("project", "server"), most=100)
        for number in range(10_000):
            calls.add((f"p{number}", "s", "ok" if number % 2 else "error"))

        assert len(calls) == 102
        assert sum(calls.values.values()) == 10_000
        assert calls.values[OTHER, OTHER, "ok"] == calls.values[OTHER, OTHER, "error"] == 4950
        assert calls.short() == {"ok": 5000, "error": 5000}
    finally:
        del FAMILIES["test_calls_total"]


async def test_probes_tell_what_is_missing_and_nothing_else_is_served(system):
    gateway, actors, router = (system.parts[name].metrics for name in ("gateway", "actors", "router"))
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        for url in (gateway, actors, router):
            for path in ("/healthz", "/readyz"):
                async with http.get(url + path) as answer:
                    assert (answer.status, (await answer.json())["status"]) == (200, "ok")
            async with http.get(f"{url}/projects/dual/mcp") as answer:
                assert answer.status == 404
            async with http.post(f"{url}/metrics") as answer:
                assert answer.status == 405
        async with http.get(f"{system.urls[0]}/metrics") as answer:
            assert answer.status == 404, "the gateway's own port tells agents nothing"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(router.rpartition(":")[2]))
        writer.write(b"x" * 20_000)
        assert await reader.read() == b"", "no HTTP, no answer"
        writer.close()

        system.parts["actors"].process.send_signal(19)
        try:
            while True:
                async with http.get(f"{router}/readyz") as answer:
                    if answer.status == 503:
                        assert "leases (router)" in (await answer.json())["missing"]
                        break
                await asyncio.sleep(0.2)
        finally:
            system.parts["actors"].process.send_signal(18)
        for url in (actors, router, gateway):
            while (await http.get(f"{url}/readyz")).status != 200:
                await asyncio.sleep(0.2)
