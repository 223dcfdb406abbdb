"""`mcpctl test mcp` against the gateway, and against servers that do it wrong."""

import asyncio
import json
import sys

import pytest

from tests.cli.conftest import COUNT_TO_THREE, TIME_IN_UTC
from tests.upstreams.raw_http import always, serving, whole

DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "raw", "version": "1"},
    "ttlMs": 0,
    "cacheScope": "private",
}


async def check(url, *options, token=""):
    """Run `mcpctl test mcp` beside the event loop that serves it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "mcpctl.cli.main", "test", "mcp", url, *options),
        env={"MCPCTL_TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def answered(request, result):
    member = {"result": result} if result is not None else {"error": {"code": -32601, "message": "Method not found"}}
    return whole(json.dumps({"jsonrpc": "2.0", "id": request.message["id"]} | member).encode())


def speaking(**results):
    """Return a script that answers methods (`tools_list` for tools/list) with these results; others with an error."""

    def answer(request):
        if request.verb == "GET":
            return whole(b"{}", status="404 Not Found")
        message = request.message
        known = {"server_discover": DISCOVERED, **results}
        result = known.get(message["method"].replace("/", "_"))
        if callable(result):
            result = result(request)
        member = (
            {"result": result} if result is not None else {"error": {"code": -32601, "message": "Method not found"}}
        )
        return whole(json.dumps({"jsonrpc": "2.0", "id": message["id"], **member}).encode())

    return always(answer)


def tools(*names, **schema):
    listed = [{"name": name, "inputSchema": {"type": "object", **schema}} for name in names]
    return {"resultType": "complete", "tools": listed, "ttlMs": 0, "cacheScope": "private"}


def test_an_endpoint_that_works_passes_step_by_step(cli):
    told = cli.ok("test", "mcp", cli.endpoint, MCPCTL_TOKEN=cli.token)

    assert [line.split()[:2] for line in told.splitlines() if line.startswith("ok")] == [
        ["ok", "health"],
        ["ok", "connect"],
        ["ok", "tools/list"],
    ]
    assert "- time__get_current_time" in told
    assert told.endswith("PASSED\n")


@pytest.mark.parametrize(
    ("era", "version"), [("modern", "2026-07-28"), ("legacy", "2025-11-25"), ("auto", "2026-07-28")]
)
def test_each_era_can_call_a_tool(cli, era, version):
    told = cli.ok("test", "mcp", cli.endpoint, "--era", era, *TIME_IN_UTC, "--no-health", MCPCTL_TOKEN=cli.token)

    assert f"MCP {version}" in told
    assert '"timezone": "UTC"' in told


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_progress_is_shown_while_the_call_runs(cli, era):
    done = cli.run("test", "mcp", cli.endpoint, *COUNT_TO_THREE, "--era", era, MCPCTL_TOKEN=cli.token)

    assert done.returncode == 0
    assert [line.strip() for line in done.stderr.splitlines()] == [f"progress: {n}/3 at {n}" for n in (1, 2, 3)]
    assert "counted to 3" in done.stdout


def test_the_token_may_come_from_stdin_or_a_file(cli):
    assert "PASSED" in cli.ok("test", "mcp", cli.endpoint, "--token", "-", stdin=f"{cli.token}\n")
    assert "PASSED" in cli.ok("test", "mcp", cli.endpoint, "--token", f"@{cli.data}/demo/token")


def test_a_program_gets_json(cli):
    expected = ("--expect-tools", "time__convert_time, git__git_log")
    found = json.loads(
        cli.ok("test", "mcp", cli.endpoint, *TIME_IN_UTC, *expected, "-o", "json", MCPCTL_TOKEN=cli.token)
    )

    assert (found["passed"], found["code"], found["era"]) == (True, 0, "modern")
    assert [step["name"] for step in found["steps"]] == ["health", "connect", "tools/list", "expect", TIME_IN_UTC[1]]
    assert "UTC" in found["result"]["content"][0]["text"]
    assert cli.token not in json.dumps(found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tool", "time__get_current_time", "--args", '{"timezone":"Mars"}'), "the tool reports an error"),
        (("--tool", "no_such_tool"), "tools/call: error -32602"),
        (("--expect-tools", "git__git_log,nothing,more"), "not listed: nothing, more"),
    ],
)
def test_a_broken_contract_is_exit_code_2(cli, options, said):
    done = cli.run("test", "mcp", cli.endpoint, *options, MCPCTL_TOKEN=cli.token)

    assert done.returncode == 2
    assert said in done.stdout
    assert done.stdout.endswith("FAILED\n")


def test_no_token_and_a_bad_token_are_told_apart(cli):
    without, bad = cli.run("test", "mcp", cli.endpoint), cli.run("test", "mcp", cli.endpoint, MCPCTL_TOKEN="x")

    assert (without.returncode, bad.returncode) == (1, 1)
    assert "HTTP 401: give a token with --token" in without.stdout
    assert "HTTP 401: the token is not valid" in bad.stdout


def test_a_token_of_another_project_is_exit_code_1(cli):
    other = cli.endpoint.replace("/demo/", "/other/")
    done = cli.run("test", "mcp", other, MCPCTL_TOKEN=cli.token)

    assert done.returncode == 1
    assert "HTTP 403: this token may not use this endpoint" in done.stdout


async def test_nobody_there_is_exit_code_1():
    code, out, err = await check("http://127.0.0.1:1/mcp", "--no-health")

    assert (code, err) == (1, "")
    assert "cannot connect to 127.0.0.1:1: connection refused" in out


async def test_an_unhealthy_origin_is_exit_code_1_unless_its_health_is_left_out():
    def answer(request):
        if request.target == "/healthz":
            return whole(b"{}", status="503 Service Unavailable")
        return whole(
            json.dumps({"jsonrpc": "2.0", "id": request.message["id"], "result": DISCOVERED | tools()}).encode()
        )

    async with serving(always(answer)) as server:
        code, out, _ = await check(server.url)
        assert code == 1
        assert "/healthz answers HTTP 503 (--no-health leaves it out)" in out
        code, out, _ = await check(server.url, "--no-health")

    assert code == 0, out


async def test_an_origin_without_health_is_not_judged_by_it():
    async with serving(speaking(tools_list=tools("a"))) as server:
        code, out, _ = await check(server.url)

    assert code == 0, out
    assert "the origin has no /healthz" in out


async def test_the_request_has_the_right_host_and_the_token_and_no_redirect_is_followed():
    async with serving(always(whole(b"", status="307 Temporary Redirect", more="Location: /elsewhere\r\n"))) as server:
        code, out, _ = await check(server.url, "--no-health", token="abc")

    assert code == 1
    assert "redirects are not followed" in out
    assert {request.target for request in server.requests} == {"/mcp?key=1"}
    assert server.requests[0].headers["host"] == server.parsed.authority
    assert server.requests[0].headers["authorization"] == "Bearer abc"


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"tools": 3}, "has no list of tools"),
        ({"tools": [{}]}, "a listed tool has no name"),
        ({"tools": [{"name": "a"}]}, "the tool a has no inputSchema"),
        (tools("a", "a"), "the tool a is listed twice"),
        (tools() | {"nextCursor": 3}, "nextCursor is not a text"),
    ],
)
async def test_a_wrong_list_is_exit_code_2(listed, said):
    async with serving(speaking(tools_list=listed)) as server:
        code, out, _ = await check(server.url)

    assert code == 2
    assert said in out


async def test_what_is_not_mcp_is_exit_code_2():
    async with serving(always(whole(b"<html>", kind="text/html"))) as server:
        code, out, _ = await check(server.url, "--no-health")

    assert code == 2
    assert "not MCP as it should be" in out


async def test_all_pages_of_a_list_are_read():
    def page(request):
        return tools("b") if request.message["params"].get("cursor") == "next" else tools("a") | {"nextCursor": "next"}

    async with serving(speaking(tools_list=page)) as server:
        code, out, _ = await check(server.url, "--expect-tools", "a,b")

    assert code == 0, out


async def test_an_argument_that_belongs_into_a_header_is_sent_there_too():
    schema = {"properties": {"where": {"type": "string", "x-mcp-header": "Region"}}}
    done = {"resultType": "complete", "content": [{"type": "text", "text": "fine"}]}

    async with serving(speaking(tools_list=tools("a", **schema), tools_call=done)) as server:
        code, out, _ = await check(server.url, "--tool", "a", "--args", '{"where": "eu-1"}')

    assert code == 0, out
    assert server.requests[-1].headers["mcp-param-region"] == "eu-1"
    assert server.requests[-1].headers["mcp-name"] == "a"


async def test_a_server_that_asks_back_fails_with_the_reason():
    asked = {"resultType": "input_required", "inputRequests": {}, "requestState": "x"}

    async with serving(speaking(tools_list=tools("a"), tools_call=asked)) as server:
        code, out, _ = await check(server.url, "--tool", "a")

    assert code == 2
    assert "the tool asks its user for input" in out


async def test_a_server_that_never_answers_is_given_up_after_the_timeout():
    async def silent(peer):
        await peer.until_hung_up()

    async with serving(silent) as server:
        code, out, _ = await check(server.url, "--timeout", "0.3", "--no-health")

    assert code == 1
    assert "no answer in time" in out


async def test_what_a_server_says_cannot_steer_the_terminal():
    done = {"resultType": "complete", "content": [{"type": "text", "text": "a\x1b[2Jb"}]}

    async with serving(speaking(tools_list=tools("a\x1b[31m"), tools_call=done)) as server:
        _, out, _ = await check(server.url, "--tool", "a\x1b[31m")

    assert "\x1b" not in out
