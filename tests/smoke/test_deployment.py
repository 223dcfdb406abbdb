"""What must be true of any deployment, tried from outside in seconds; it changes nothing but a token of its own."""

import secrets
import time

import pytest

TIMES = 12
"""Requests that must all be refused: more than there are gateways, each on a connection of its own."""

EVERYWHERE_WITHIN = 5.0
"""Seconds after a revocation: a replica that cannot be told of it stops within its lease of three."""


def test_it_is_alive_and_ready(deployment):
    alive, ready = deployment.ask("/healthz"), deployment.ask("/readyz")

    assert (alive.status, alive.json["status"]) == (200, "ok")
    assert (ready.status, ready.json["status"]) == (200, "ok"), ready.text


def test_an_agent_finds_its_tools(deployment):
    found = deployment.mcpctl("test", "mcp", deployment.endpoint())

    assert found.returncode == 0, found.stdout + found.stderr
    assert deployment.list_tools(deployment.token).json["result"]["tools"]


def test_a_tool_that_is_expected_and_not_there_is_named(deployment):
    found = deployment.mcpctl("test", "mcp", deployment.endpoint(), "--expect-tools", "no-such-tool")

    assert found.returncode != 0
    assert "no-such-tool" in found.stdout + found.stderr


def test_a_token_is_refused_in_another_project(deployment):
    assert deployment.list_tools(deployment.token, "another-project").status == 403


def test_nobody_is_let_in_without_a_token(deployment):
    refused = deployment.list_tools("")

    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_revoked_token_is_refused_by_every_gateway(deployment):
    if not deployment.admin:
        pytest.skip("MCPGW_ADMIN_TOKEN has no bearer that may issue mcptokens")
    tokens = f"/api/v1/projects/{deployment.project}/mcptokens"
    name = f"smoke-{secrets.token_hex(4)}"
    binding = {"role": "view", "resource": "servers"}
    body = {"name": name, "bindings": [binding], "ttl_seconds": 600}
    issued = deployment.ask(tokens, body, deployment.admin)
    assert issued.status == 201, issued.text
    bearer = issued.json["bearer"]
    assert {deployment.list_tools(bearer).status for _ in range(TIMES)} == {200}

    assert deployment.ask(f"{tokens}/{name}/revoke", {}, deployment.admin).status == 200

    until = time.monotonic() + EVERYWHERE_WITHIN
    while (said := {deployment.list_tools(bearer).status for _ in range(TIMES)}) != {401}:
        assert time.monotonic() < until, said
