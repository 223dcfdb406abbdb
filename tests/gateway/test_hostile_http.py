"""What hostile HTTP clients get: the outcome of each attack, and that nobody else notices.

Bearers that are none, paths and hosts that are not ours, bodies that are too much, requests that are two, clients that
are slow or many. What `test_edge.py` shows of a single odd request is not repeated here.
"""

import asyncio
import gzip
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus.bearer import mint
from mcpctl.bus.contracts import audit, token
from mcpctl.gateway.addresses import site_of
from mcpctl.gateway.refusals import REMEMBERED, Refusals
from tests.gateway.raw_session import RawSession
from tests.gateway.test_edge import META, headers, modern, post

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROXY = "127.0.0.9"
LIMITS = {
    "MCPCTL_HEADER_TIMEOUT_MS": "1000",
    "MCPCTL_BODY_TIMEOUT_MS": "1000",
    "MCPCTL_IDLE_TIMEOUT_MS": "2000",
    "MCPCTL_WRITE_TIMEOUT_MS": "1000",
    "MCPCTL_ADDRESS_CONNECTIONS": "8",
    "MCPCTL_ADDRESS_REFUSALS": "2",
    "MCPCTL_TRUSTED_PROXIES": PROXY,
}
PATIENCE = 20


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def tight(running_system):
    """A gateway whose limits are soon reached."""
    await running_system.wake()
    yield await running_system.gateway("gateway-tight", **LIMITS)
    await running_system.parts["gateway-tight"].stop()


@pytest_asyncio.fixture(loop_scope="session")
async def http(system):
    async with aiohttp.ClientSession(base_url=system.urls[0]) as session:
        yield session


class Answer(NamedTuple):
    """The first answer on a connection; `rest` is what came after it, until the end or some quiet."""

    status: int
    head: str
    body: bytes
    rest: bytes = b""


def where(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


async def connect(url, sender="127.0.0.1"):
    return await asyncio.open_connection(*where(url), local_addr=(sender, 0))


async def read_answer(reader):
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    size = next(int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length"))
    return Answer(int(head.split()[1]), head, await reader.readexactly(size))


async def raw(url, data, sender="127.0.0.1", *, quiet=0.0):
    """Send bytes on a connection of their own, and return what is answered."""
    reader, writer = await connect(url, sender)
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(data)
            answer = await read_answer(reader)
            rest = b""
            with suppress(TimeoutError, ConnectionError):
                if quiet:
                    async with asyncio.timeout(quiet):
                        rest = await reader.read()
            return answer._replace(rest=rest)
    finally:
        writer.close()


def request(bearer, *lines, body=None, path="/projects/dual/mcp", method="POST"):
    body = json.dumps(modern()).encode() if body is None else body
    fixed = ("Host: localhost", f"Content-Length: {len(body)}", "Content-Type: application/json")
    stateless = ("MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/list")
    bearer = (f"Authorization: Bearer {bearer}",) if bearer else ()
    return "\r\n".join((f"{method} {path} HTTP/1.1", *fixed, *stateless, *bearer, *lines, "", "")).encode() + body


async def asked_of_the_registry(system):
    """How often the TokenRegistry has resolved a bearer, so far."""
    await system.wake()
    async with aclosing(system.operator.scatter("$SRV.STATS.token", patience=2)) as answers:
        stats = json.loads(await anext(answers))
    return sum(e["num_requests"] for e in stats["endpoints"] if ".resolve." in e["subject"])


async def edge_events(system, rule):
    """Wait for refusals at the edge whose rule begins like this."""
    asked = audit.Follow(bearer=system.bearer, project="dual", filter=audit.Filter(kind="edge"), cursor=0)
    found = []
    async with asyncio.timeout(PATIENCE):
        while not found:
            page = await system.operator.call(audit.follow, asked)
            found = [entry.event for entry in page.items if (entry.event.rule or "").startswith(rule)]
            asked = asked.model_copy(update={"cursor": page.cursor})
    return found


# --- who comes in ---


async def test_what_is_no_bearer_is_told_the_same_and_costs_the_bus_nothing(system, http):
    """E1, E2, E3, E4, E8, E9."""
    good = system.tokens["dual"]
    await post(http, modern(), headers(good))
    before = await asked_of_the_registry(system)
    forged = ("nonsense", mint("pat")[:-1] + "-", good[:-1], "mcpctl_xyz_" + good[11:], good.upper())
    answers = [await raw(system.urls[0], request(bearer)) for bearer in forged]
    answers.append(await raw(system.urls[0], request("").replace(b"Host:", b"Authorization: Bearer caf\xe9\r\nHost:")))
    names = ("X-API-Key", "X-Upstream-Authorization", "Proxy-Authorization", "Cookie")
    answers += [await raw(system.urls[0], request(forged[0], f"{name}: Bearer {good}")) for name in names]
    assert {answer.status for answer in answers} == {401}
    assert all('error="invalid_token"' in answer.head for answer in answers)
    assert await asked_of_the_registry(system) == before

    unknown = [await raw(system.urls[0], request(mint(kind))) for kind in ("pat", "ses", "sa")]
    assert {answer.body for answer in [*answers, *unknown]} == {answers[0].body}
    assert await asked_of_the_registry(system) == before + 3
    assert all(event.token_sha is None for event in await edge_events(system, "bearer unknown"))

    bare = await raw(system.urls[0], request(""))
    assert (bare.status, "error=" in bare.head) == (401, False)
    for scheme in ("bearer", "BEARER"):
        assert (await raw(system.urls[0], request("", f"Authorization: {scheme} {good}"))).status == 200
    for value, status in (("Bearer a b", 400), ("Bearer", 400), ("Basic YTpi", 401), (good, 401)):
        assert (await raw(system.urls[0], request("", f"Authorization: {value}"))).status == status
    twice = await raw(system.urls[0], request(good, f"Authorization: Bearer {mint('pat')}"))
    assert (twice.status, "invalid_request" in twice.head) == (400, True)


async def test_a_bearer_where_none_belongs_is_refused_and_written_nowhere(system):
    """E6, and what aiohttp repeats of a request that it cannot parse."""
    good = system.tokens["dual"]
    for path in (
        f"/projects/dual/mcp?access_token={good}",
        "/projects/dual/mcp?a=b&access_token=x",
        f"/projects/{good}/mcp",
        f"/api/v1/projects?token={good}",
    ):
        for bearer in ("", good):
            method = "GET" if path.startswith("/api") else "POST"
            answer = await raw(system.urls[0], request(bearer, path=path, method=method, body=b""))
            assert (answer.status, good in answer.head + answer.body.decode()) == (400, False), path
    for broken in (f"Authorization: Bearer {good}\x00", f"Authorization : Bearer {good}", f"Authorization: {good}\x01"):
        answer = await raw(system.urls[0], request("", broken))
        assert (answer.status, good in answer.head + answer.body.decode()) == (400, False)
    for part in ("gateway", "actors", "router"):
        assert good not in (system.folder / f"{part}.log").read_text()


async def test_another_way_of_writing_a_project_is_no_project_of_the_bearer(system):
    """E11, E12: 403 in the same words as for a project that is not there, since nothing is told of either."""
    odd = (
        "DUAL",
        "%EF%BD%84ual",
        "d%E2%84%AAal",
        "d%C5%BFal",
        "%C4%B1",
        "a.b",
        "*",
        "%3E",
        "%00",
        "%0d%0aX:1",
        "x" * 4096,
    )
    odd += ("dual%2F..%2Fold", "..%2Fold", "dual%20", "%64ual%00")
    answers = [await raw(system.urls[0], request(system.tokens["dual"], path=f"/projects/{name}/mcp")) for name in odd]
    assert {answer.status for answer in answers} == {403}
    assert all(b"no access to project" in answer.body and "\nX:1" not in answer.head for answer in answers)
    single = [
        await raw(system.urls[0], request(system.tokens["dual"], path=f"/projects/dual/servers/{name}/mcp"))
        for name in odd
    ]
    assert {answer.status for answer in single} == {403}


async def test_hosts_origins_codings_and_methods_that_are_not_served(system):
    """E13, E16, E21, E31."""
    url, good = system.urls[0], system.tokens["dual"]
    for origin, status in (("https://evil", 403), ("null", 403), ("http://localhost.evil", 403), ("", 200)):
        sent = request(good, *([f"Origin: {origin}"] if origin else []))
        assert (await raw(url, sent)).status == status
    packed = gzip.compress(b"0" * 10_000_000)
    for coding in ("gzip", "br", "deflate", "zstd", "gzip, gzip", "x"):
        answer = await raw(url, request(good, f"Content-Encoding: {coding}", body=packed + packed))
        assert answer.status == 415
    for method in ("GET", "DELETE", "PUT", "PATCH", "TRACE", "BREW"):
        assert (await raw(url, request(good, method=method, body=b""))).status in (400, 405), method
    for version in ("", "v1", "2026-07-28\r\nMCP-Protocol-Version: 2025-11-25"):
        sent = request(good).replace(b"2026-07-28\r\n", version.encode() + b"\r\n", 1)
        assert (await raw(url, sent)).status == 400
    assert (await raw(url, request(good, "Last-Event-ID: 7"))).status == 200


# --- what comes in ---


async def test_a_body_beyond_measure_is_refused_and_nothing_of_it_is_kept(system):
    """E15, E17, E19."""
    url, good = system.urls[0], system.tokens["dual"]
    wrap = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"x":%s,"_meta":' + json.dumps(META).encode() + b"}}"
    )
    deep = [b"[" * n + b"]" * n for n in (60, 63, 100_000)]
    numbers = [b"1" * 512, b"1" * 513, b"0." + b"1" * 5000, b"-" + b"9" * 5000]
    text = json.dumps("]" * 100 + '\\"[{' * 100 + "7" * 5000).encode()
    cases = [(deep[0], 200), (deep[1], 400), (deep[2], 400), (numbers[0], 200)]
    cases += [(number, 400) for number in numbers[1:]]
    cases += [(text, 200), (b"[" + text + b"]", 200), (b"[[],{}]", 200), (b"[" + b"[],{}," * 5000 + b"1]", 200)]
    cases += [
        (b"NaN", 400),
        (b"Infinity", 400),
        (b'"\\ud800"', 400),
        (b'"\\udc00x"', 400),
        (b'"\xff"', 400),
        (b"01", 400),
    ]
    for value, status in cases:
        answer = await raw(url, request(good, body=wrap.replace(b"%s", value)))
        assert answer.status == status, value[:80]
        assert status == 200 or json.loads(answer.body)["error"]["code"] == -32700

    gateway = system.parts["gateway"].process.pid
    await oversize(url, good, 3)
    before = rss_mib(gateway)
    await oversize(url, good, 20)
    assert rss_mib(gateway) - before < 32
    assert (await raw(url, request(good))).status == 200


async def oversize(url, bearer, times):
    """Send bodies that are longer than the limit: announced, and in chunks without a length."""
    limit = 4 * 1024 * 1024
    chunked = request(bearer, "Transfer-Encoding: chunked").replace(b"Content-Length:", b"X-Length:").split(b"{")[0]
    for _ in range(times):
        announced = request(bearer, body=b"").replace(b"Content-Length: 0", f"Content-Length: {limit + 1}".encode())
        assert (await raw(url, announced)).status == 413  # before any of it was sent
        with suppress(ConnectionError):  # it may close while this still writes
            answer = await raw(url, chunked + b"400001\r\n" + b" " * (limit + 1) + b"\r\n0\r\n\r\n")
            assert answer.status == 413


def rss_mib(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_what_could_be_read_as_two_requests_or_none_is_400_and_the_end_of_the_connection(system):
    """E27, and heads that are too long."""
    url, good = system.urls[0], system.tokens["dual"]
    whole = request(good, body=b"")
    inner = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    hostile = {
        "length and chunks": request(good, "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + inner),
        "two lengths": request(good, "Content-Length: 6", body=b"hello"),
        "a signed length": whole.replace(b"Length: 0", b"Length: +0"),
        "an odd coding": whole.replace(b"Content-Length: 0", b"Transfer-Encoding: xchunked"),
        "a folded line": request(good, "X-A: b\r\n c"),
        "bare line feeds": whole.replace(b"\r\n", b"\n"),
        "one bare line feed": request(good, "X-A: b\nX-B: c"),
        "a bare carriage return": request(good, "X-A: b\rX-B: c"),
        "websocket with a body": request(good, "Upgrade: websocket", "Connection: Upgrade", body=inner),
        "a tunnel": b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n" + inner,
        "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
        "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        "TLS": b"\x16\x03\x01" + bytes(100) + b"\r\n\r\n",
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "too many headers": request(good, *(f"X-{n}: 1" for n in range(200))),
    }
    for what, sent in hostile.items():
        answer = await raw(url, sent, quiet=PATIENCE)
        assert (answer.status, answer.rest) == (400, b""), what
    filler = "x" * 2000
    for sent in (
        request(good, f"X: {'x' * 140_000}"),
        request(good, path=f"/{'x' * 140_000}"),
        request(good, *(f"X-{n}: {filler}" for n in range(70))),
        request(good, *(f"X-{n}: {filler}" for n in range(70))).partition(b"\r\n\r\n")[0],  # it never ends
    ):
        with suppress(ConnectionError):
            assert (await raw(url, sent)).status == 431
    assert (await raw(url, request(good, f"X: {'x' * 60_000}"))).status == 200
    h2c = request(
        good, "Upgrade: h2c", "Connection: Upgrade"
    )  # a server may ignore it (RFC 9110, 7.8), and this one does
    assert (await raw(url, h2c)).status == 200


# --- what takes long, and is too much ---


async def lasted(reader, writer, drip=b"", every=0.2):
    """Return the seconds until the gateway closes a connection, and what it said. `drip` is sent all the while."""
    began, said = time.monotonic(), b""
    with suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            while True:
                if drip:
                    writer.write(drip)
                with suppress(TimeoutError):
                    async with asyncio.timeout(every):
                        chunk = await reader.read(65536)
                        if not chunk:
                            break
                        said += chunk
    writer.close()
    return time.monotonic() - began, said


async def test_a_client_that_takes_its_time_is_cut_and_a_stream_is_not(system, tight):
    """Slow-loris in every part of a request, and in the reading of its answer."""
    good = system.tokens["dual"]
    listen = modern("subscriptions/listen", notifications={"toolsListChanged": True})
    body = json.dumps(listen).encode()
    sent = request(good, "Accept: text/event-stream", body=body).replace(
        b"tools/list\r\n", b"subscriptions/listen\r\n", 1
    )
    listener, stream = await connect(tight, "127.0.0.3")
    stream.write(sent)
    await listener.readuntil(b"acknowledged")
    whole = request(good)

    async def begin(data):
        reader, writer = await connect(tight, "127.0.0.3")
        writer.write(data)
        return reader, writer

    silent, head, late, idle = await asyncio.gather(
        lasted(*await begin(b"")),
        lasted(*await begin(whole[:40]), drip=b"x"),
        lasted(*await begin(whole[:-100]), drip=b" "),
        lasted(*await begin(whole)),
    )
    for seconds, _ in (silent, head, late):
        assert 0.9 < seconds < 10
    assert 1.9 < idle[0] < 15
    assert (silent[1], head[1][:12], late[1][:12], idle[1][:12]) == (
        b"", b"HTTP/1.1 408", b"HTTP/1.1 408", b"HTTP/1.1 200",
    )  # fmt: skip

    stalled, steady = await asyncio.gather(take_slowly(tight, good, 0), take_slowly(tight, good, 512 * 1024))
    assert stalled < 7_000_000 < steady
    assert not listener.at_eof()
    stream.close()


async def take_slowly(url, bearer, size):
    """Have 8 MB sent, read at most so many bytes of them every 0.03 s, and return how many came."""
    body = json.dumps(modern("tools/call", name="big", arguments={"size": 4_000_000})).encode()
    sent = request(bearer, "Mcp-Name: big", body=body).replace(b"tools/list\r\n", b"tools/call\r\n", 1)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.bind(("127.0.0.3", 0))
    sock.setblocking(False)
    loop, came = asyncio.get_running_loop(), 0
    with sock:
        await loop.sock_connect(sock, where(url))
        await loop.sock_sendall(sock, sent)
        head = await loop.sock_recv(sock, 1024)
        assert b" 200 OK" in head, head
        came += len(head)
        with suppress(ConnectionError):
            async with asyncio.timeout(PATIENCE):
                if not size:  # until nothing waits for it any more
                    await asyncio.sleep(3)
                    size = 1 << 20
                while chunk := await loop.sock_recv(sock, size):
                    came += len(chunk)
                    await asyncio.sleep(0.03 if size < 1 << 20 else 0)
                    if came > 7_000_000:
                        break
    return came


async def test_an_address_has_so_many_connections_and_a_proxy_any_number(tight):
    async with AsyncExitStack() as opened:

        async def open_one(sender):
            reader, writer = await connect(tight, sender)
            opened.callback(writer.close)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return await read_answer(reader)

        answers = [await open_one("127.0.0.5") for _ in range(10)]
        assert [answer.status for answer in answers] == [200] * 8 + [429] * 2
        assert "Retry-After" in answers[-1].head
        assert (await open_one("127.0.0.6")).status == 200
        assert {(await open_one(PROXY)).status for _ in range(20)} == {200}
    async with asyncio.timeout(PATIENCE):  # what is closed is not counted any more
        while (await raw(tight, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "127.0.0.5")).status != 200:
            pass


async def test_a_bearer_has_so_many_streams_and_others_have_theirs(system, http):
    """E25."""
    await system.project("streamed", "dual")
    one, other = [await system.token("streamed", name, "role:run,resource:servers") for name in ("one", "other")]
    listen = modern("subscriptions/listen", notifications={"toolsListChanged": True})
    path = "/projects/streamed/mcp"
    async with AsyncExitStack() as streams:

        async def open_one(bearer):
            sent = http.post(path, json=listen, headers=headers(bearer, "subscriptions/listen"))
            return await streams.enter_async_context(sent)

        opened = [await open_one(one) for _ in range(32)]
        assert {answer.status for answer in opened} == {200}
        refused = await open_one(one)
        assert (refused.status, refused.headers["Retry-After"]) == (429, "5")
        assert "32 streams" in (await refused.json())["error"]["message"]
        session = await RawSession.open(http, system, "streamed", bearer=one)
        async with session.get() as stream:
            assert stream.status == 429
        assert (await post(http, modern(), headers(one), path))[0].status == 200
        assert (await open_one(other)).status == 200
        opened[0].close()
        async with asyncio.timeout(PATIENCE):
            while (again := await session.get()).status != 200:
                again.close()
        async with session.get() as newer:  # in the place of the one before it
            assert newer.status == 200
        again.close()


async def test_an_address_with_many_bad_bearers_waits_and_nobody_else_does(system, tight):
    """E29."""
    good = system.tokens["dual"]
    assert (await raw(tight, request(good), "127.0.0.7")).status == 200
    before = await asked_of_the_registry(system)
    flood = []
    for _ in range(3):
        flood += await asyncio.gather(*(raw(tight, request(mint("pat")), "127.0.0.7") for _ in range(8)))
    assert {answer.status for answer in flood} == {401, 429}
    refused = next(answer for answer in flood if answer.status == 429)
    assert "Retry-After: 5" in refused.head
    assert await asked_of_the_registry(system) - before <= 17

    began = time.monotonic()
    *turned_away, rest = await asyncio.gather(
        raw(tight, request(mint("pat")), "127.0.0.7"),
        raw(tight, request("nonsense"), "127.0.0.7"),
        raw(tight, request("bad", "X-Forwarded-For: 203.0.113.9"), "127.0.0.7"),  # it is no proxy
        raw(tight, request(mint("pat"), path="/api/v1/whoami", method="GET", body=b""), "127.0.0.7"),
    )
    assert time.monotonic() - began > 0.9
    assert {answer.status for answer in turned_away} == {429}
    assert (rest.status, json.loads(rest.body)["error"]["code"]) == (429, "too_many_requests")
    assert (await raw(tight, request(good), "127.0.0.7")).status == 200  # it was good before
    assert (await raw(tight, request(mint("pat")), "127.0.0.8")).status == 401

    forwarded = request("bad", "X-Forwarded-For: 203.0.113.7, 127.0.0.9")
    for _ in range(2):
        named = await asyncio.gather(*(raw(tight, forwarded, PROXY) for _ in range(12)))
    assert {answer.status for answer in named} == {429}
    for client, status in (("203.0.113.8", 401), ("203.0.113.7", 429), ("evil, 203.0.113.8", 401)):
        assert (await raw(tight, request("bad", f"X-Forwarded-For: {client}"), PROXY)).status == status


async def test_refusals_are_counted_for_a_bounded_number_of_addresses():
    refusals = Refusals(1)
    for number in range(3 * REMEMBERED):
        refusals.note(f"address-{number}")
    assert len(refusals._counted) == REMEMBERED
    for _ in range(100):
        refusals.note("last")
    assert refusals.exhausted("last")
    assert not refusals.exhausted("address-1")
    assert site_of("2001:db8:1:2:3::4") == site_of("2001:db8:1:2::1") != site_of("2001:db8:1:3::1")
    assert site_of("::ffff:192.0.2.1") == "192.0.2.1"


# --- what ends ---


async def test_hanging_up_ends_the_call_at_the_upstream_within_a_second_and_is_audited(system, http):
    """E28."""
    bearer = await system.token("dual", "quitter", "role:run,resource:servers")
    call = modern("tools/call", name="wait_forever", arguments={"key": "hostile"})
    _, writer = await connect(system.urls[0])
    sent = request(bearer, "Mcp-Name: wait_forever", body=json.dumps(call).encode())
    writer.write(sent.replace(b"tools/list\r\n", b"tools/call\r\n", 1))
    ask = headers(system.tokens["dual"], "tools/call", Mcp_Name="has_started")
    await post(http, modern("tools/call", name="has_started", arguments={"key": "hostile"}), ask)
    writer.transport.abort()
    began = time.monotonic()
    ask["Mcp-Name"] = "was_cancelled"
    _, said = await post(http, modern("tools/call", name="was_cancelled", arguments={"key": "hostile"}), ask)
    assert said["result"]["structuredContent"] == {"result": True}
    assert time.monotonic() - began < 1
    asked = audit.Follow(
        bearer=system.bearer, project="dual", filter=audit.Filter(token="quitter", kind="result"), cursor=0
    )
    async with asyncio.timeout(PATIENCE):
        while not (items := (await system.operator.call(audit.follow, asked)).items):
            pass
    assert [entry.event.outcome for entry in items] == ["cancelled"]


async def test_a_session_and_its_stream_end_with_the_token_that_opened_them(system, http):
    """E23."""
    bearer = await system.token("dual", "rotated", "role:run,resource:servers")
    session = await RawSession.open(http, system, "dual", bearer=bearer)
    async with session.get() as stream:
        assert stream.status == 200
        await stream.content.readuntil(b"\n\n")
        revoke = token.RevokeToken(bearer=system.bearer, project="dual", name="rotated")
        await system.operator.call(token.revoke, revoke)
        with suppress(aiohttp.ClientPayloadError):
            async with asyncio.timeout(PATIENCE):
                await stream.content.read()
    async with session.post("ping") as answer:
        assert answer.status == 401
    session.sent["Authorization"] = f"Bearer {system.tokens['dual']}"
    async with session.post("ping") as answer:  # another bearer has no use for its id
        assert answer.status == 404


# --- what is not started ---


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ("import os; os.environ['AIOHTTP_NO_EXTENSIONS'] = '1'", "no C extensions"),
        ("import aiohttp; aiohttp.__version__ = '3.14.3'", "install 3.14.4 or later"),
    ],
)
async def test_a_library_that_is_not_sound_is_refused(spoilt, said):
    """S3."""
    program = f"{spoilt}; import sys; from mcpctl.gateway.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("Error: aiohttp ")
    assert said in done.stderr
