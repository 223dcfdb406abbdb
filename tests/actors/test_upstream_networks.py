"""Where a router connects to: addresses are checked when a URL is written down, and again at every connection."""

import asyncio
import ssl
from ipaddress import ip_address

import pytest

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router.briefing.choosing import Task
from mcpctl.actors.upstream_router.briefing.model import ModelRefused, choose_by_model
from mcpctl.actors.upstream_router.era import NOTHING
from mcpctl.actors.upstream_router.server_logs import ServerLogs
from mcpctl.actors.upstream_router.upstreams import Upstreams
from mcpctl.bus.contracts import catalog
from mcpctl.bus.contracts.catalog import Connection, IndexedPrompt, ModelConnection, UpstreamServer
from mcpctl.bus.errors import BadGateway, BadRequest
from mcpctl.bus.http1 import HttpError, Pool
from mcpctl.bus.http_head import Url
from mcpctl.bus.networks import OPEN, AddressRefused, Networks, demand_plain_host
from tests.certificates import Certificates
from tests.upstreams.raw_http import always, serving, whole

SERVER = UpstreamServer(name="s", slug="s", revision="1", transport="http", isolation="shared")

PUBLIC = ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e", "2002:5db8:d70e::1")
LOOPBACK = ("127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1")
PRIVATE = ("10.0.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fd12:3456::1", "::ffff:10.0.0.1", "2002:a00:1::")
NEVER = (
    *("169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"),
    *("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "0.0.0.0", "::", "0.1.2.3"),
    *("224.0.0.1", "ff02::1", "240.0.0.1", "255.255.255.255", "2002:a9fe:a9fe::1"),
)
NOT_PUBLIC = ("198.18.0.1", "203.0.113.1", "2001:db8::1", "::7f00:1", "fec0::1", "64:ff9b:1::1", "2001::1", "4000::1")

REFUSED = (
    *("http://0x7f.1/", "http://2130706433/", "http://127.1:80/", "http://0177.0.0.1/", "http://[::ffff:127.0.0.1]/"),
    *("http://169.254.169.254/latest/meta-data", "http://[fd00:ec2::254]/", "http://0.0.0.0:8000/mcp", "http://a.0x1/"),
    *("http://127.0.0.1.:1e/", "https://[fe80::1]/", "http://[64:ff9b::7f00:1]/", "http://1.2.3.4.5/"),
)
NO_URLS = ("file:///etc/passwd", "gopher://x/", "ftp://x/", "http://user:word@x/", "http://x@y/", "//x/", "http:///x")


def admitted(networks, *addresses):
    return {text for text in addresses if Networks.parse(networks).admits(ip_address(text))}


def test_an_address_is_reached_where_the_operator_named_its_network_and_link_local_never():
    everything = {*PUBLIC, *LOOPBACK, *PRIVATE, *NEVER, *NOT_PUBLIC}
    assert admitted("public", *everything) == {*PUBLIC}
    assert admitted("loopback", *everything) == {*LOOPBACK}
    assert admitted("private", *everything) == {*PRIVATE}
    assert admitted(OPEN, *everything) == {*PUBLIC, *LOOPBACK, *PRIVATE}
    assert admitted("10.0.0.0/24, ::1/128", *everything) == {"10.0.0.1", "::ffff:10.0.0.1", "2002:a00:1::", "::1"}
    assert admitted("0.0.0.0/0,::/0", *everything).isdisjoint({*NEVER})
    assert admitted("", *everything) == set()
    with pytest.raises(ValueError, match=r"everything is neither a range .* nor one of public, loopback, private"):
        ActorSettings(upstream_networks="public,everything")
    assert ActorSettings().upstream_networks == "public"


async def test_a_url_that_leads_nowhere_is_refused_when_it_is_written_down(root):
    for url in REFUSED:
        spec = catalog.ProjectSpec.model_validate({"name": "p", "gate": {"llm": {"base_url": url, "model": "m"}}})
        with pytest.raises(BadRequest, match="the url of server s: "):
            await root.ask(catalog.create_server, spec=catalog.ServerSpec(name="s", url=url))
        with pytest.raises(BadRequest, match="the url of the model of project p: "):
            await root.ask(catalog.create_project, spec=spec)
        with pytest.raises(ValueError, match=r"\w"):  # however it got into the Catalog
            Url.parse(url)
    for url in NO_URLS:
        with pytest.raises(ValueError, match="url must"):
            catalog.ServerSpec(name="s", url=url)
    with pytest.raises(BadRequest, match="four decimal numbers"):
        await root.ask(catalog.apply, servers=(catalog.ServerSpec(name="s", url="http://0x7f.1/"),))
    await root.ask(catalog.create_server, spec=catalog.ServerSpec(name="s", url="http://10.0.0.1/mcp"))
    with pytest.raises(BadRequest, match="never reached"):
        await root.ask(catalog.edit_server, spec=catalog.ServerSpec(name="s", url="http://169.254.169.254/"))


async def test_the_addresses_of_a_name_are_looked_up_once_a_connection_and_no_other_is_connected_to():
    looked_up = []
    answers = [["127.0.0.1"], ["127.0.0.2"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.1"]]

    async def alternating(host, port):
        looked_up.append((host, port))
        return answers[len(looked_up) - 1]

    networks = Networks(Networks.parse("127.0.0.1/32").ranges, public=False, resolve=alternating)
    async with serving(always(whole(b"", more="Connection: close\r\n"))) as good:
        port = good.parsed.port
        touched = asyncio.Event()
        evil = await asyncio.start_server(lambda *_: touched.set(), "127.0.0.2", port)
        url = Url.parse(f"http://rebinding.test:{port}/mcp")
        pool = Pool(url, connect_timeout=5, max_body=100, networks=networks)

        async def ask():
            deadline = asyncio.get_running_loop().time() + 5
            return await pool.exchange(b"GET /mcp HTTP/1.1\r\nHost: %b\r\n\r\n" % url.authority.encode(), deadline)

        assert (await ask()).status == 200
        for _ in range(2):
            with pytest.raises(HttpError, match="MCPCTL_UPSTREAM_NETWORKS") as refused:
                await ask()
            assert not refused.value.sent
            assert "127.0.0" not in str(refused.value)
        assert (await ask()).status == 200
        await pool.close()
        evil.close()

    assert looked_up == [("rebinding.test", port)] * 4
    assert (good.connections, touched.is_set()) == (2, False)
    assert good.requests[0].headers["host"] == f"rebinding.test:{port}"


async def test_https_to_a_checked_address_is_still_to_the_name(tmp_path):
    certificates, names = Certificates(tmp_path), []
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificates.certificate, certificates.key)
    ours.sni_callback = lambda _, name, __: names.append(name)
    trusting = ssl.create_default_context(cafile=certificates.ca)
    async with serving(always(whole(b"")), tls=ours) as server:
        for host, fault in (("localhost", None), ("other.test", "certificate")):

            async def here(_host, _port):
                return ["127.0.0.1"]

            networks = Networks(Networks.parse("loopback").ranges, public=False, resolve=here)
            url = Url.parse(f"https://{host}:{server.parsed.port}/")
            pool = Pool(url, connect_timeout=5, max_body=100, tls=trusting, networks=networks)
            asking = pool.exchange(b"GET / HTTP/1.1\r\n\r\n", asyncio.get_running_loop().time() + 5)
            if fault is None:
                assert (await asking).status == 200
            else:
                with pytest.raises(HttpError, match=fault):
                    await asking
            await pool.close()

    assert names == ["localhost", "other.test"]


async def test_the_systems_own_resolver_is_not_believed_either():
    for host in ("localhost", "127.0.0.1", "0x7f.1", "2130706433", "::ffff:127.0.0.1"):
        with pytest.raises(AddressRefused):
            await Networks.parse("public,private").addresses(host, 80)
    assert "127.0.0.1" in await Networks.parse("loopback").addresses("localhost", 80)
    for host in ("wiki.example", "a1", "127.0.0.1", "10.0.0.1", "::1", "1password.example", "x.0a"):
        demand_plain_host(host)


async def test_a_server_and_a_model_at_a_forbidden_address_are_not_connected_to():
    async with serving(always(whole(b"{}"))) as inside:

        async def unseal(_server, _authority):
            return Connection(revision="1", url=inside.url)

        upstreams = Upstreams(ActorSettings(), unseal, ServerLogs("r1", None))
        upstream = upstreams.get(SERVER, "", ("bearer", "project"), "modern", NOTHING)
        with pytest.raises(BadGateway, match=r"server s: cannot connect .* in no network of MCPCTL_UPSTREAM_NETWORKS"):
            await upstream.connected()
        assert upstream.trouble is not None
        assert "MCPCTL_UPSTREAM_NETWORKS" in upstream.trouble.reason
        await upstreams.close()

        model = ModelConnection(base_url=inside.url, model="m", timeout_ms=5000)
        prompts = (IndexedPrompt(name="p", tags=(), priority=5, summary="", size=1),)
        with pytest.raises(ModelRefused, match="MCPCTL_UPSTREAM_NETWORKS"):
            await choose_by_model(model, prompts, Task((), "x"), 5, Networks.parse("public"))

        assert inside.connections == 0
