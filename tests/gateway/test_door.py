"""A gateway and the bus: what it says while nobody lets it in, and when its credential is no longer good."""

import asyncio
import os
import ssl
import sys

import aiohttp
import pytest

from mcpctl.bus import provision
from mcpctl.bus.contracts import token
from mcpctl.cli.nats_server import free_port
from tests.certificates import Certificates
from tests.system import CONTROL_PLANE, System


@pytest.fixture
async def system(tmp_path):
    running = System(tmp_path)
    yield running
    await running.stop()


async def start_gateway(system, port, **env):
    """Start a gateway that may never be ready."""
    environment = os.environ | {"MCPCTL_NATS_URL": system.nats.url, "MCPCTL_HTTP_PORT": str(port)}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mcpctl.gateway", env=environment | env, stderr=asyncio.subprocess.PIPE
    )


async def ready(port, *wanted, status=200, tls=None):
    """Return what `/readyz` says, once it says this."""
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/readyz"
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while True:
            try:
                async with http.get(url, ssl=tls or True) as response:
                    text = await response.text()
                    if response.status == status and all(word in text for word in wanted):
                        return text
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


async def test_without_a_token_actor_gateways_wait_and_say_so_and_those_that_are_in_stay_in(system):
    await system.nats.start()
    await provision.provision(system.nats.url, system.nats.keys)
    early, late = free_port(), free_port()
    first = await start_gateway(system, early)

    await ready(early, "it admits nobody: no token actor answers", status=503)
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{early}/healthz") as response:
        assert response.status == 200

    await system.run("actors", "mcpctl.actors", *CONTROL_PLANE)
    await system.run("router", "mcpctl.actors", "router")
    await ready(early)
    await system.parts["actors"].kill()
    second = await start_gateway(system, late)
    await ready(late, "it admits nobody: no token actor answers", status=503)
    said = await ready(early, '"token"', status=503)
    assert '"bus' not in said

    await system.run("actors", "mcpctl.actors", *CONTROL_PLANE)
    await ready(early)
    await ready(late)
    for gateway in (first, second):
        gateway.terminate()
        said = (await gateway.communicate())[1].decode()
        assert gateway.returncode == 0, said


async def test_a_gateway_whose_credential_is_revoked_ends_and_says_why(system, tmp_path):
    await system.start()
    await system.operator.call(
        token.create_service_account, token.CreateServiceAccount(bearer=system.bearer, name="edge")
    )
    issued = await system.operator.call(
        token.issue_service_account_token, token.IssueServiceAccountToken(bearer=system.bearer, name="edge")
    )
    secret, port = tmp_path / "edge", free_port()
    secret.write_text(issued.bearer)
    gateway = await start_gateway(system, port, MCPCTL_NATS_TOKEN_FILE=str(secret))
    await ready(port)

    await system.operator.call(
        token.revoke_service_account_token,
        token.RevokeServiceAccountToken(bearer=system.bearer, name="edge", id=issued.id),
    )
    async with asyncio.timeout(20):
        said = (await gateway.communicate())[1].decode()
    again = await start_gateway(system, port, MCPCTL_NATS_TOKEN_FILE=str(secret))
    said_again = (await again.communicate())[1].decode()

    wanted = "Error: the bus does not accept this gateway's credential: it is unknown, expired or revoked"
    assert (gateway.returncode, again.returncode) == (1, 1)
    assert wanted in said
    assert wanted in said_again
    assert issued.bearer not in said + said_again


async def test_beyond_this_machine_a_gateway_serves_https_or_is_told_who_does(system, tmp_path):
    everywhere = {"MCPCTL_HTTP_HOST": "0.0.0.0"}
    refused = await start_gateway(system, free_port(), **everywhere)
    said = (await refused.communicate())[1].decode()
    assert refused.returncode == 1
    assert said.splitlines()[-1].startswith(
        "Error: setting MCPCTL_TLS: 0.0.0.0 is beyond loopback: set MCPCTL_TLS_CERT"
    )

    # Nobody is on the bus: who waits for it does so by HTTPS too.
    made, secure, plain = Certificates(tmp_path), free_port(), free_port()
    tls = {"MCPCTL_TLS_CERT": str(made.certificate), "MCPCTL_TLS_KEY": str(made.key)}
    gateways = [
        await start_gateway(system, secure, **everywhere, **tls),
        await start_gateway(system, plain, **everywhere, MCPCTL_TLS="terminated-by-proxy"),
    ]
    await ready(secure, '"bus', status=503, tls=ssl.create_default_context(cafile=str(made.ca)))
    await ready(plain, '"bus', status=503)
    for gateway in gateways:
        gateway.terminate()
        await gateway.communicate()
