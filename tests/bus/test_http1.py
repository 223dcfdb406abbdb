"""The HTTP client against servers that keep, bend and break the rules."""

import asyncio
import datetime as dt
import ipaddress
import math
import ssl
from contextlib import asynccontextmanager

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mcpctl.bus.http1 import (
    HIGH_WATER,
    MAX_OVERHEAD,
    HttpError,
    HttpTimeoutError,
    Pool,
    Response,
)
from mcpctl.bus.http_head import Url, header_lines
from tests.upstreams.loops import on_both_loops
from tests.upstreams.raw_http import Peer, always, serving, whole

REQUEST = b"POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
OK = whole(b"ok")


@asynccontextmanager
async def pooled(server, **options):
    pool = Pool(server.parsed, **{"connect_timeout": 2.0, "max_body": 1_000_000, **options})
    try:
        yield pool
    finally:
        await pool.close()


async def ask(pool: Pool, seconds: float = 5.0, request: bytes = REQUEST) -> Response:
    return await pool.exchange(request, asyncio.get_running_loop().time() + seconds)


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def once(response: bytes):
    """Answer the first request of a connection, then close."""

    async def script(peer: Peer):
        await peer.request()
        await peer.send(response)

    return script


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (OK, b"ok"),
        (whole(b""), b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nT: v\r\n\r\n",
            b"ok",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ],
    ids=["length", "empty", "204", "chunked", "1xx", "offers-upgrade"],
)
@on_both_loops
async def test_a_connection_is_kept_after_a_clean_answer(response, body):
    async with serving(always(response)) as server, pooled(server) as pool:
        answers = [await ask(pool) for _ in range(3)]

        assert [answer.body for answer in answers] == [body] * 3
        assert server.connections == 1


@pytest.mark.parametrize(
    "response",
    [
        whole(b"ok", more="Connection: close\r\n"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
    ids=["connection-close", "http-1.0", "until-eof"],
)
@on_both_loops
async def test_a_connection_that_ends_is_not_used_again(response):
    async with serving(once(response)) as server, pooled(server) as pool:
        answers = [await ask(pool) for _ in range(2)]

        assert [answer.body for answer in answers] == [b"ok"] * 2
        assert server.connections == 2


@on_both_loops
async def test_an_answer_that_drips_byte_by_byte_is_read():
    async def drip(peer):
        while await peer.request():
            for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + OK:
                await peer.send(bytes((byte,)))

    async with serving(drip) as server, pooled(server) as pool:
        assert [(await ask(pool)).body for _ in range(2)] == [b"ok"] * 2


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho",
        b"HTTP/1.1 200",
        b"",
    ],
    ids=["ssh", "two-lengths", "smuggle", "fold", "101", "short", "short-chunk", "half-head", "nothing"],
)
@on_both_loops
async def test_a_broken_answer_fails_and_says_that_the_request_was_sent(response):
    async with serving(once(response)) as server, pooled(server) as pool:
        with pytest.raises(HttpError) as caught:
            await ask(pool)

        assert caught.value.sent
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("head", "filler"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\n", b"X: aaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 100),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: ", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65536),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"a" * 4096 + b"\r\n"),
    ],
    ids=["header", "headers", "1xx", "trailer", "chunk-extension", "body", "chunks"],
)
@on_both_loops
async def test_an_endless_answer_is_cut(head, filler):
    sent = 0

    async def endless(peer):
        nonlocal sent
        await peer.request()
        await peer.send(head)
        while not peer.writer.is_closing():
            await peer.send(filler)
            sent += len(filler)

    async with serving(endless) as server, pooled(server) as pool:
        with pytest.raises(HttpError, match="large"):
            await ask(pool)
        await server.hung_up.wait()

        assert sent < 20_000_000


@on_both_loops
async def test_a_body_of_just_the_limit_passes():
    async with serving(always(whole(b"a" * 1000))) as server:
        async with pooled(server, max_body=1000) as pool:
            assert len((await ask(pool)).body) == 1000
        async with pooled(server, max_body=999) as pool:
            with pytest.raises(HttpError, match="larger than 999 bytes"):
                await ask(pool)


@on_both_loops
async def test_the_overhead_of_many_small_chunks_does_not_count_together():
    chunks = b"1\r\na\r\n" * MAX_OVERHEAD
    response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    async with serving(always(response)) as server, pooled(server) as pool:
        assert len((await ask(pool)).body) == MAX_OVERHEAD


@on_both_loops
async def test_a_connection_closed_while_idle_is_replaced():
    async with serving(once(OK)) as server, pooled(server) as pool:
        await ask(pool)
        await until(lambda: not pool._open)
        await ask(pool)

        assert server.connections == 2


@on_both_loops
async def test_a_kept_connection_that_dies_under_a_request_is_not_tried_again():
    async def second_is_lost(peer):
        await peer.request()
        await peer.send(OK)
        await peer.request()

    async with serving(second_is_lost) as server, pooled(server) as pool:
        await ask(pool)

        with pytest.raises(HttpError) as caught:
            await ask(pool)

        assert caught.value.sent
        assert (len(server.requests), server.connections) == (2, 1)


@on_both_loops
async def test_a_connection_that_idles_too_long_is_closed():
    async with serving(always(OK)) as server, pooled(server, idle_limit=0.02) as pool:
        await ask(pool)

        await server.hung_up.wait()

        await until(lambda: not pool._open)
        assert not pool._idle
        assert (await ask(pool)).body == b"ok"


@on_both_loops
async def test_bytes_nobody_asked_for_end_the_connection():
    async with serving(always(OK + OK)) as server, pooled(server) as pool:
        answers = [(await ask(pool)).body for _ in range(2)]

        assert answers == [b"ok", b"ok"]
        assert server.connections == 2


@on_both_loops
async def test_an_answer_before_the_request_is_written_is_taken():
    async def early(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(whole(b"too much", status="413 Content Too Large"))
        await peer.until_hung_up()

    length = 32 * 1024 * 1024
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length + bytes(length)
    async with serving(early) as server, pooled(server) as pool:
        answer = await ask(pool, request=request)

        assert (answer.status, answer.body) == (413, b"too much")
        assert not pool._idle


@on_both_loops
async def test_a_refused_connection_was_not_sent():
    async with serving(always(OK)) as server:
        pass

    async with pooled(server) as pool:
        with pytest.raises(HttpError) as caught:
            await ask(pool)

    assert not caught.value.sent


@on_both_loops
async def test_a_silent_server_times_out_and_is_hung_up_on():
    async def silent(peer):
        await peer.request()
        await peer.until_hung_up()

    async with serving(silent) as server, pooled(server) as pool:
        with pytest.raises(HttpTimeoutError) as caught:
            await ask(pool, seconds=0.05)

        assert caught.value.sent
        await server.hung_up.wait()


@on_both_loops
async def test_a_deadline_may_be_infinite():
    async with serving(always(OK)) as server, pooled(server) as pool:
        assert (await ask(pool, seconds=math.inf)).body == b"ok"


@on_both_loops
async def test_a_cancelled_request_closes_its_connection():
    asked = asyncio.Event()

    async def silent(peer):
        await peer.request()
        asked.set()
        await peer.until_hung_up()

    async with serving(silent) as server, pooled(server) as pool:
        task = asyncio.create_task(ask(pool, seconds=60))
        await asked.wait()

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await server.hung_up.wait()


@on_both_loops
async def test_closing_fails_what_still_runs():
    asked = asyncio.Event()

    async def silent(peer):
        await peer.request()
        asked.set()
        await peer.until_hung_up()

    async with serving(silent) as server, pooled(server) as pool:
        task = asyncio.create_task(ask(pool, seconds=60))
        await asked.wait()

        await pool.close()

        with pytest.raises(HttpError, match="closed"):
            await task
        with pytest.raises(HttpError, match="closed"):
            await ask(pool)


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@on_both_loops
async def test_a_stream_pauses_the_server_until_it_is_read():
    pieces, piece = 800, b"%x\r\n" % 65536 + b"a" * 65536 + b"\r\n"

    async def flood(peer):
        await peer.request()
        await peer.send(STREAM)
        for _ in range(pieces):
            await peer.send(piece)
        await peer.send(b"0\r\n\r\n")
        await peer.until_hung_up()

    async with serving(flood) as server, pooled(server) as pool:
        stream = (await ask(pool)).stream
        await until(lambda: stream._connection._paused)
        held, total = stream._size, 0

        while data := await stream.read():
            total += len(data)

        assert held <= HIGH_WATER + 262_144
        assert total == pieces * 65536
        assert len(pool._idle) == 1


@on_both_loops
async def test_a_stream_that_breaks_gives_what_came_and_then_the_error():
    async with serving(once(STREAM + b"3\r\nabc\r\n")) as server, pooled(server) as pool:
        stream = (await ask(pool)).stream

        assert await stream.read() == b"abc"
        with pytest.raises(HttpError, match="lost"):
            await stream.read()


@on_both_loops
async def test_a_detached_stream_that_ends_leaves_its_connection():
    go_on = asyncio.Event()

    async def two_parts(peer):
        while await peer.request():
            await peer.send(STREAM + b"3\r\nabc\r\n")
            await go_on.wait()
            await peer.send(b"3\r\ndef\r\n0\r\n\r\n")

    async with serving(two_parts) as server, pooled(server) as pool:
        for _ in range(2):
            go_on.clear()
            stream = (await ask(pool)).stream
            await stream.read()
            stream.detach()
            go_on.set()
            await until(lambda: pool._idle)

        assert server.connections == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nY: b"},
        {"X": "a\n"},
        {"X": "a\x00"},
        {"X": "ä"},
        {"X\r\nY": "a"},
        {"X:": "a"},
        {"": "a"},
        {"content-LENGTH": "1"},
        {"Transfer-Encoding": "chunked"},
        {"Host": "other"},
    ],
)
def test_a_header_that_could_change_the_framing_is_refused(headers):
    with pytest.raises(ValueError, match="header"):
        header_lines(headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:secret@host/",
        "http://host/\r\nX: y",
        "http://host/a b",
        "http://hö.st/",
        "ftp://host/",
        "http:///path",
        "http://host:0/",
        "http://host:99999/",
        "host/path",
        "http://a\\b/",
        "http://user@host/",
        "http://[::1/",
    ],
)
def test_a_url_that_is_not_plain_http_is_refused(url):
    with pytest.raises(ValueError, match=r".") as caught:
        Url.parse(url)

    assert "secret" not in str(caught.value)


def test_a_url_gives_host_header_and_target():
    assert Url.parse("https://Example.com").authority == "example.com"
    assert Url.parse("https://example.com:443/mcp?a=b#c").target == "/mcp?a=b"
    assert Url.parse("http://[::1]:80/").authority == "[::1]"
    assert Url.parse("http://[::1]:8080/").authority == "[::1]:8080"
    assert Url.parse("https://h:80/").authority == "h:80"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A key and a certificate for localhost and 127.0.0.1, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(secret + signed.public_bytes(serialization.Encoding.PEM))
    return path


@on_both_loops
async def test_https_names_its_host_and_checks_the_certificate(certificate):
    names = []
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate)
    server_side.sni_callback = lambda _, name, __: names.append(name)
    trusting = ssl.create_default_context(cafile=certificate)
    async with serving(always(OK), tls=server_side) as server:
        server.url = server.url.replace("127.0.0.1", "localhost")

        async with pooled(server, tls=trusting) as pool:
            bodies = [(await ask(pool)).body for _ in range(2)]
        async with pooled(server) as distrusting:
            with pytest.raises(HttpError, match="certificate") as caught:
                await ask(distrusting)

        assert bodies == [b"ok", b"ok"]
        assert (server.connections, names[0]) == (1, "localhost")
        assert not caught.value.sent
