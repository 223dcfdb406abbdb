"""Who may be a server of the cluster, and who may ask it."""

import asyncio
import json
import re
import shutil
import subprocess
import time
import urllib.request

import pytest

from mcpctl.bus import nats_config, provision
from mcpctl.bus.nats_config import Listen, Tls
from mcpctl.cli import nats_check
from mcpctl.cli.certificates import Certificates
from mcpctl.cli.nats_server import binary
from mcpctl.cli.ports import free_port
from tests.raw_nats import RawNats

pytestmark = pytest.mark.asyncio(loop_scope="session")


class Rogue:
    """A nats-server that wants to be one of the cluster, and how many routes it has."""

    def __init__(self, folder, cluster, tls):
        folder.mkdir()
        self.port, self.log = free_port(), folder / "log"
        shutil.copytree(cluster.keys, folder / "keys", ignore=shutil.ignore_patterns(nats_config.CLUSTER_SECRET))
        routes, at = cluster.routes, ("127.0.0.1", free_port())
        listen = Listen(free_port(), folder / "js", tls=tls, name="rogue", routes=routes, cluster=at)
        self.config = nats_config.write(folder, listen, folder / "keys")  # with a secret of its own

    def __enter__(self):
        argv = [binary(), "-c", str(self.config), "-m", str(self.port), "-l", str(self.log)]
        self.process = subprocess.Popen(argv)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    async def says(self, *words):
        give_up, log = time.monotonic() + 20, ""
        while not any(word in log for word in words):
            assert time.monotonic() < give_up, log[-2000:]
            await asyncio.sleep(0.05)
            log = self.log.read_text() if self.log.exists() else ""

    def routes(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/routez") as answer:
            return json.load(answer)["num_routes"]


async def test_nobody_is_a_route_without_a_certificate_of_the_cluster_s_ca_and_its_secret(system, tmp_path):
    cluster = system.cluster
    other = Certificates(tmp_path)
    other.make(("localhost", "127.0.0.1"), 1, rotate=False)
    foreign = Tls(other.certificate, other.key, cluster.ca)  # it believes ours, and is not believed
    with (
        Rogue(tmp_path / "foreign", cluster, foreign) as stranger,
        Rogue(tmp_path / "ours", cluster, cluster.tls) as colleague,  # any holder of a certificate, such as a gateway's
        Rogue(tmp_path / "clear", cluster, None) as plain,
    ):
        for rogue in (stranger, colleague, plain):
            await rogue.says("Router connection closed", "TLS route handshake error")
        assert [rogue.routes() for rogue in (stranger, colleague, plain)] == [0, 0, 0]
    said = "".join(node.log.read_text() for node in cluster.nodes)
    assert "TLS route handshake error" in said
    assert "authentication error" in said  # of the one whose certificate is good

    config = cluster.nodes[0].config
    assert (cluster.folder / nats_config.CLUSTER).stat().st_mode & 0o077 == 0
    open_to_all = config.with_name("open.conf")
    open_to_all.write_text(re.sub(r"\n  include cluster.conf", "", config.read_text()))
    assert "any server may join the cluster" in str(nats_check.check(open_to_all)[0])


async def test_a_client_that_speaks_no_tls_is_refused_by_each_server(system):
    for node in system.cluster.nodes:
        with pytest.raises(ConnectionRefusedError):
            await RawNats.connect(node.url, system.nats.keys / "router.nk")


async def test_streams_with_one_copy_are_raised_to_three_and_a_lost_copy_is_seen(system):
    cluster = system.cluster
    async with cluster.provisioner() as client:
        config = json.loads((await client.request("$JS.API.STREAM.INFO.AUDIT")).data)["config"]
        fewer = json.dumps(config | {"num_replicas": 1}).encode()
        assert "error" not in json.loads((await client.request("$JS.API.STREAM.UPDATE.AUDIT", fewer, timeout=5)).data)

    said = await provision.provision(cluster.url, cluster.keys, replicas=3, ca=cluster.ca)

    assert said == ["AUDIT: 3 copies, raised from 1", *(f"KV_{name}: 3 copies, there already" for name in BUCKETS)]
    leader = await cluster.leader("AUDIT")
    lost = next(node for node in cluster.nodes if node is not leader)
    async with asyncio.timeout(30):
        while "3 of 3 copies current" not in await health(system):
            await asyncio.sleep(0.2)
    await lost.kill()
    try:
        async with asyncio.timeout(30):
            while f"2 of 3 copies current, not {lost.name}" not in (seen := await health(system)):
                await asyncio.sleep(0.2)
        assert seen.startswith("error: degraded: ")
    finally:
        await lost.start()


BUCKETS = ("sessions", "owners")


async def health(system):
    """Return what `mcpctl status` shows of the audit stream."""
    async for answer in system.operator.scatter("$SRV.STATS", patience=2):
        checks = json.loads(answer).get("checks") or {}
        if "JetStream AUDIT" in checks:
            return checks["JetStream AUDIT"]
    return ""
