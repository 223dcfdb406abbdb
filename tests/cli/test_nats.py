"""`mcpctl nats`: a bus as a deployment has it, made by its commands, and what is refused on the way to it."""

import asyncio
import os
import ssl
import stat
import subprocess
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from mcpctl.bus import nats_config
from mcpctl.bus.connection import Bus, Publisher, connect_nats
from mcpctl.bus.errors import Unavailable
from mcpctl.bus.identity import ActorIdentity
from mcpctl.bus.nats_config import Auditor, Listen
from mcpctl.cli.nats_check import check
from mcpctl.cli.nats_server import binary, free_port
from tests.installation import Installation
from tests.raw_nats import RawNats


class Deployed:
    """nats-server with the files that the commands have written; it listens everywhere, so with TLS."""

    def __init__(self, folder):
        self.own = Installation(folder, 1)
        self.folder, self.port = folder / "bus", free_port()
        self.keys, self.ca, self.config = self.folder / "keys", self.folder / "ca.pem", self.folder / "nats.conf"
        self.url = f"nats://0.0.0.0:{self.port}"  # for the client: not this machine
        self.log = (folder / "nats.log").open("wb")

    def make(self):
        at = ("--folder", str(self.folder))
        self.own.ok("nats", "certs", *at, "--host", "0.0.0.0")
        self.own.ok("nats", "config", *at, "--listen", f"0.0.0.0:{self.port}")
        self.own.ok("nats", "config", *at, "--auditor", "ops")
        self.own.ok("nats", "config", *at, "--auditor", "web-team", "--project", "web")
        assert self.own.ok("nats", "check", str(self.config)) == f"{self.config} is fit for mcpctl\n"

    async def start(self):
        self.process = subprocess.Popen([binary(), "-c", str(self.config)], stderr=self.log)
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return await writer.wait_closed()

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    server = Deployed(tmp_path_factory.mktemp("deployed"))
    server.make()
    with asyncio.Runner() as runner:
        runner.run(server.start())
    given = ("--nats-url", server.url, "--keys", str(server.keys))
    server.own.ok("nats", "provision", *given, "--ca", str(server.ca))
    yield server
    server.stop()


async def refusal(url, **options):
    with pytest.raises(Unavailable) as caught:
        await connect_nats(url, on_closed=lambda: None, **options)
    return str(caught.value)


async def test_an_actor_is_let_in_by_key_and_certificate_and_nobody_without(deployed, certificates):
    actor = ActorIdentity("router", deployed.keys, deployed.ca)
    bus = await Bus.connect(deployed.url, actor)
    assert bus.client.is_connected
    await bus.close()

    url, own = deployed.url, actor.options()
    assert "its certificate is not trusted" in await refusal(url, **ActorIdentity("router", deployed.keys).options())
    assert "its certificate is not trusted" in await refusal(url, **own | {"tls": believing(certificates.ca)})
    login = ("login", "--user", "x", "--nats-url", url, "--ca", str(deployed.ca), "--password-stdin")
    said = await asyncio.to_thread(deployed.own.refused, *login, code=3, stdin="x\n")
    assert "admits nobody: no token actor answers" in said
    with pytest.raises(ConnectionRefusedError):
        await RawNats.connect(f"nats://127.0.0.1:{deployed.port}", deployed.keys / "router.nk")


def believing(ca):
    return ssl.create_default_context(cafile=str(ca))


async def test_an_expired_certificate_is_refused(deployed, tmp_path):
    server = Deployed(tmp_path)
    server.folder.mkdir()
    expire(deployed.folder, server.folder)
    accounts = os.path.relpath(deployed.folder / "accounts.conf", server.folder)
    server.config.write_text(
        f'listen: "0.0.0.0:{server.port}"\ntls {{ cert_file: "{server.folder}/server.pem", '
        f'key_file: "{deployed.folder}/server.key" }}\ninclude "{accounts}"\n'
        f'jetstream {{ store_dir: "{tmp_path}/js" }}\n'
    )
    await server.start()
    try:
        said = await refusal(server.url, **ActorIdentity("router", deployed.keys, deployed.ca).options())
    finally:
        server.stop()

    assert "its certificate is not trusted: certificate has expired" in said


def expire(made, into):
    """Write the server's certificate as it was until an hour ago."""
    old = x509.load_pem_x509_certificate((made / "server.pem").read_bytes())
    ca_key = load_pem_private_key((made / "ca.key").read_bytes(), None)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number)
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now - timedelta(hours=1))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    signed = builder.sign(ca_key, old.signature_hash_algorithm)
    (into / "server.pem").write_bytes(signed.public_bytes(Encoding.PEM))


@asynccontextmanager
async def pretending(info):
    """Something that greets like a nats-server. `heard` gets what each connection has sent, once it has ended."""
    heard = asyncio.Queue()

    async def greet(reader, writer):
        writer.write(b"INFO " + info + b"\r\n")
        sent = await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        await heard.put(sent)

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()


async def test_beyond_this_machine_no_credential_goes_out_in_clear(deployed, monkeypatch):
    options = ActorIdentity("router", deployed.keys).options()
    async with pretending(b'{"version":"2.15.0","max_payload":1,"nonce":"n"}') as (port, heard):
        said = await refusal(f"nats://0.0.0.0:{port}", **options)
        assert "it speaks no TLS, which is needed beyond this machine" in said
        assert await heard.get() == b""
        assert "it speaks no TLS" in await refusal(f"ws://0.0.0.0:{port}", **options)

        monkeypatch.setenv("MCPCTL_TLS", "terminated-by-proxy")
        assert "TLS" not in await refusal(f"nats://0.0.0.0:{port}", **options)
        assert b"CONNECT" in await heard.get()


async def test_a_server_that_is_too_old_is_sent_nothing(deployed):
    async with pretending(b'{"version":"2.10.29","max_payload":1,"nonce":"n"}') as (port, heard):
        said = await refusal(f"nats://127.0.0.1:{port}", **ActorIdentity("router", deployed.keys).options())

        assert await heard.get() == b""

    assert "it is nats-server 2.10.29, and 2.14 is the oldest that is safe" in said


async def test_an_auditor_hears_the_events_of_his_project_and_nothing_else_and_says_nothing(deployed):
    trusted = {"tls": believing(deployed.ca), "on_closed": lambda: None}
    heard = {name: asyncio.Queue() for name in ("ops", "web-team.web")}
    denied = asyncio.Queue()
    clients = []
    for name, queue in heard.items():
        client = await connect_nats(deployed.url, **trusted, nkeys_seed=str(deployed.keys / f"auditors/{name}.nk"))
        client._error_cb = denied.put
        clients.append(client)
        await client.subscribe("mcpctl.v1.audit.>" if name == "ops" else "mcpctl.v1.audit.web.>", cb=queue.put)
        await client.flush()
        await client.flush()
    sink = ActorIdentity("audit", deployed.keys, deployed.ca)
    router = await Bus.connect(deployed.url, ActorIdentity("router", deployed.keys, deployed.ca))
    writer = await Publisher.connect(deployed.url, sink, lambda: None)
    # A message in another account, on a subject that the wildcard fits: it is not for auditors.
    await router.client.publish(f"mcpctl.v1.audit.append.{router.caller}", b"{}")
    for project in ("shop", "web"):
        await writer.publish_raw(f"mcpctl.v1.audit.{project}.call.allow.token-ci", project.encode())

    async with asyncio.timeout(10):
        assert [(await heard["ops"].get()).data for _ in range(2)] == [b"shop", b"web"]
        assert (await heard["web-team.web"].get()).data == b"web"
        for client, subject in zip(clients, ("mcpctl.v1.event.>", "mcpctl.v1.audit.shop.>"), strict=True):
            await client.subscribe(subject)
            await client.publish("mcpctl.v1.audit.web.call.allow.user-admin", b"forged")
            await client.publish("mcpctl.v1.event.token.changed", b"forged")
            refused = [str(await denied.get()) for _ in range(3)]
            assert all("permissions violation" in text for text in refused), refused
    for client in clients:
        await client.close()
    await writer.close()
    await router.close()
    assert heard["ops"].empty()
    assert heard["web-team.web"].empty()


def test_what_is_there_is_not_replaced(deployed):
    at = ("--folder", str(deployed.folder))
    before = {path: path.read_bytes() for path in deployed.folder.rglob("*") if path.is_file()}

    assert "is there: --rotate makes a new one" in deployed.own.refused("nats", "certs", *at)
    assert "edit it, or replace it with --force" in deployed.own.refused("nats", "config", *at)
    deployed.own.ok("nats", "config", *at, "--listen", f"0.0.0.0:{deployed.port}")

    assert {path: path.read_bytes() for path in before} == before
    secret = [path for path in before if path.suffix in (".nk", ".key", ".pem")]
    assert len(secret) > 20
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


def test_a_rotated_certificate_is_of_the_same_ca(tmp_path):
    own, folder = Installation(tmp_path, 1), tmp_path / "tls"
    own.ok("nats", "certs", "--folder", str(folder), "--host", "bus.example.org", "--days", "2")
    ca, old = ((folder / name).read_bytes() for name in ("ca.pem", "server.pem"))

    said = own.ok("nats", "certs", "--folder", str(folder), "--host", "bus.example.org", "--days", "3", "--rotate")

    new = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    assert (folder / "ca.pem").read_bytes() == ca
    assert (folder / "server.pem").read_bytes() != old
    new.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))
    assert f"until {new.not_valid_after_utc:%Y-%m-%d %H:%M} UTC" in said
    names = new.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["bus.example.org", "localhost"]
    assert "is no name or address" in own.refused("nats", "certs", "--folder", str(folder), "--host", "a b", code=2)


WRONG = {
    "debug: true": "debug is on",
    "Trace = yes": "trace is on",
    "trace_verbose on": "trace_verbose is on",
    "no_auth_user: sven": "no_auth_user lets everybody in as sven",
    "leafnodes { port: 7422 }": "leafnode was not asked for",
    "leaf { remotes: [ { url: nats://x } ] }": "leafnode was not asked for",
    "websocket {\n port: 80\n no_tls: true }": "websocket was not asked for",
    "mqtt: { port: 1883 }": "mqtt was not asked for",
    "gateway { name: x }": "gateway was not asked for",
    "prof_port: 6060": "profiling was not asked for",
    "http: 8222": "the monitoring port shows everybody",
    'http: "0.0.0.0:8222"': "the monitoring port shows everybody",
    "listen: 0.0.0.0:4222": "it listens for clients beyond loopback without TLS",
    "listen: 4222": "it listens for clients beyond loopback without TLS",
    "listen: $BUS": "it listens for clients beyond loopback without TLS",
    'listen: "[::]:4222"': "it listens for clients beyond loopback without TLS",
    'listen: "10.0.0.1:4222", allow_non_tls: true\ntls { cert_file: a, key_file: b }': "do without TLS",
    "cluster { listen: 0.0.0.0:6222 }": "other servers beyond loopback without TLS",
    "cluster { listen: 0.0.0.0:6222, tls { cert_file: a } }": "any server may join the cluster",
    "accounts { RPC { jetstream: enabled } }": "the account RPC has JetStream",
    "accounts { RPC { users: [ { user: a, password: 'b}' } ] } }": "a user of account RPC may do everything",
    "accounts { OTHER { } }": "there is no account RPC",
    "authorization { timeout: 1 }": "no auth callout decides who may connect",
    "include deeper/trace.conf": "trace is on",
}
RIGHT = (
    "debug: false",
    "trace off",
    "# trace: true",
    "// mqtt { }",
    'http: "127.0.0.1:8222"',
    'server_name: "trace: true"',
)


def test_a_configuration_that_gives_a_promise_up_is_found_out(tmp_path):
    nats_config.write_keys(tmp_path / "keys")
    good = nats_config.write(tmp_path, Listen(4222, tmp_path / "js"), tmp_path / "keys")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "trace.conf").write_text("include 'on.conf'")
    (tmp_path / "deeper" / "on.conf").write_text("\n\ntrace: true")
    file = tmp_path / "changed.conf"
    assert check(good) == []
    for text in RIGHT:
        file.write_text(f"{good.read_text()}\n{text}\n")
        assert check(file) == [], text
    for text, what in WRONG.items():
        file.write_text(f"{good.read_text()}\n{text}\n")
        found = [str(finding) for finding in check(file)]
        assert any(what in line for line in found), (text, found)
        named = "on.conf:3: " if "include" in text else f"changed.conf:{1 + good.read_text().count(chr(10)) + 1}"
        assert any(named in line for line in found), (text, found)
    for word in ("leafnode", "websocket", "mqtt", "gateway"):
        text = next(text for text, what in WRONG.items() if what.startswith(word))
        file.write_text(f"{good.read_text()}\n{text}\n")
        assert check(file, word) == [], word


def test_the_command_prints_a_line_for_each_and_nats_servers_own_word(deployed, tmp_path):
    file = tmp_path / "nats.conf"
    accounts = os.path.relpath(deployed.folder / "accounts.conf", tmp_path)
    text = deployed.config.read_text().replace("include accounts.conf", f"include {accounts}")
    file.write_text(f"{text}\ntrace: true\nmqtt {{}}\n")
    done = deployed.own.run("nats", "check", str(file))
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert [line.partition(": ")[2].partition(":")[0].partition(",")[0] for line in done.stdout.splitlines()][-2:] == [
        "trace is on",
        "mqtt was not asked for",
    ]
    file.write_text("accounts { RPC: [ } }")
    assert str(file) in deployed.own.refused("nats", "check", str(file))
    assert "cannot read" in deployed.own.refused("nats", "check", str(tmp_path / "none.conf"))
    assert "cannot allow" in deployed.own.refused("nats", "check", str(file), "--allow", "everything", code=2)


def test_an_auditors_seed_that_is_removed_is_no_credential_any_more(tmp_path):
    keys = tmp_path / "keys"
    nats_config.write_keys(keys, Auditor("ops"), Auditor("web-team", "web"))
    key = nats_config.public_key(keys, "auditors/ops")
    assert key in nats_config.render_accounts(keys)

    (keys / "auditors" / "ops.nk").unlink()

    assert nats_config.auditors(keys) == [Auditor("web-team", "web")]
    assert key not in nats_config.render_accounts(keys)
