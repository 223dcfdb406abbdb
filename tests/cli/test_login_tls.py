"""The CLI on the way to a bus that speaks TLS and WebSockets."""

import asyncio
import json
import ssl
import subprocess
from contextlib import asynccontextmanager

import pytest

from mcpctl.bus.connection import Bus
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.cli.nats_server import NatsServer, free_port
from tests.installation import PROGRAM, Installation
from tests.system import System


class PublicNats(NatsServer):
    """nats-server with TLS for those who ask for it, and two doors for WebSockets."""

    def __init__(self, folder, certificates) -> None:
        super().__init__(folder, free_port())
        self.certificates = certificates
        self.websocket_port = free_port()

    def part(self, log):
        found = super().part(log)
        tls = f'tls {{ cert_file: "{self.certificates.certificate}", key_file: "{self.certificates.key}" }}'
        with (self.folder / "nats.conf").open("a") as file:
            file.write(f"{tls}\nallow_non_tls: true\nwebsocket {{ port: {self.websocket_port}, {tls} }}\n")
        return found


@pytest.fixture(scope="module")
def public(tmp_path_factory, certificates):
    """nats-server, the TokenRegistry and what it needs; the user `admin` has the password `correct horse`."""
    with asyncio.Runner() as runner:
        system = System(tmp_path_factory.mktemp("public"))
        system.nats = PublicNats(system.folder / "nats", certificates)
        try:
            runner.run(system.start())
            yield system
        finally:
            runner.run(system.stop())


@pytest.fixture
def own(tmp_path):
    return Installation(tmp_path, 1)


def urls(public):
    return {
        "tls": f"tls://localhost:{public.nats.port}",
        "nats": f"nats://127.0.0.1:{public.nats.port}",
        "wss": f"wss://127.0.0.1:{public.nats.websocket_port}",
    }


def log_in(url, *options):
    return ("login", "--user", "admin", "--nats-url", url, "--password-stdin", *options)


@pytest.mark.parametrize("scheme", ["tls", "wss"])
def test_a_session_is_opened_and_used_over(public, own, certificates, scheme):
    url = urls(public)[scheme]

    done = own.run(*log_in(url, "--ca", str(certificates.ca)), stdin="correct horse\n")

    assert (done.returncode, done.stderr) == (0, "")
    assert own.ok("auth", "whoami").startswith("User admin")
    status = json.loads(own.run("status", "-o", "json").stdout)
    assert status["bus"].startswith(f"ok ({url}, nats-server ")


async def test_a_server_that_ends_a_connection_over_tls_leaves_no_line_in_the_log(public, certificates, caplog):
    bus = await Bus.connect(urls(public)["tls"], AdmittedIdentity("login", ca=certificates.ca))
    bus.client.options["allow_reconnect"] = False
    ended = asyncio.create_task(wait_closed(bus.client))

    bus.client._transport.write(b"nonsense\r\n")  # a protocol error: the server says so, and hangs up
    async with asyncio.timeout(10):
        await ended

    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


async def wait_closed(client):
    while not client.is_closed:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("scheme", ["tls", "wss"])
def test_a_certificate_of_an_unknown_ca_is_refused(public, own, scheme):
    line = own.refused(*log_in(urls(public)[scheme]), code=3, stdin="correct horse\n")

    assert "its certificate is not trusted: " in line
    assert "MCPCTL_NATS_CA" in line


def test_the_ca_may_come_from_the_environment(public, own, certificates):
    own.ok(*log_in(urls(public)["tls"]), stdin="correct horse\n", MCPCTL_NATS_CA=str(certificates.ca))


def test_a_wrong_password_is_one_line(public, own, certificates):
    line = own.refused(*log_in(urls(public)["tls"], "--ca", str(certificates.ca)), stdin="wrong horse\n")

    assert line == "Error: wrong user or password"


def test_what_is_no_websocket_is_told_as_such(public, own):
    line = own.refused(*log_in(f"ws://127.0.0.1:{public.nats.port}"), code=3, stdin="correct horse\n")

    assert "it speaks no WebSocket there" in line


async def test_no_bearer_goes_to_a_server_that_does_not_encrypt(own):
    """The server's INFO comes in clear: whoever can change it must not talk the client out of TLS."""
    heard = bytearray()

    async def pretend(reader, writer):
        writer.write(b'INFO {"server_id":"x","version":"2.15.0","max_payload":1048576,"tls_required":false}\r\n')
        heard.extend(await reader.read())
        writer.close()

    async with plain_server(pretend) as port:
        line = await asyncio.to_thread(own.refused, *log_in(f"tls://127.0.0.1:{port}"), code=3, stdin="correct horse\n")

    assert "cannot be reached" in line
    assert heard.startswith(b"\x16\x03")  # a ClientHello (RFC 8446, 5.1), and no CONNECT
    assert b"CONNECT" not in heard


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_health_of_a_gateway_behind_https_is_seen(own, certificates, trusted):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{"status":"ok"}')
        await writer.drain()
        writer.close()

    async with plain_server(answer, ssl=context) as port:
        ca = ("--ca", str(certificates.ca)) if trusted else ()
        own.ok("config", "set-context", "a", "--gateway-url", f"https://localhost:{port}", *ca)
        done = await asyncio.to_thread(own.run, "status", "-o", "json")

    text = json.loads(done.stdout)["gateway"]["/healthz"]
    assert text == "ok (ok)" if trusted else "certificate verify failed" in text
    assert done.returncode == (1 if trusted else 3)


@asynccontextmanager
async def plain_server(serve, **options):
    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def test_the_start_does_not_pay_for_websockets():
    code = "import sys, mcpctl.cli.session; print('aiohttp.client' in sys.modules)"

    assert subprocess.run([PROGRAM[0], "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
