"""What stdio servers write to stderr, for those who may see it."""

import sys

import pytest
import pytest_asyncio

from mcpctl.actors.upstream_router import server_logs
from mcpctl.actors.upstream_router.server_logs import ServerLogs
from mcpctl.bus import nats_config
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import audit, router, token
from mcpctl.bus.errors import Forbidden, Unauthenticated
from mcpctl.bus.identity import AdmittedIdentity
from tests.gateway.peers import sdk_client
from tests.system import System

PROGRAM = """
import json, sys
print("hello from stderr", file=sys.stderr, flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"protocolVersion": "2025-11-25",
            "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}}), flush=True)
    elif message.get("method") == "tools/list":
        print("listing", file=sys.stderr, flush=True)
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"tools": []}}), flush=True)
    elif message.get("method") == "tools/call":
        sys.exit(3)
    elif "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"],
            "error": {"code": -32601, "message": "no"}}), flush=True)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory):
    """Two routers, a stdio server that talks on stderr, and a project with it."""
    running = System(tmp_path_factory.mktemp("logs"))
    try:
        await running.start()
        await running.run("router-2", "mcpctl.actors", "router")
        running.url = await running.gateway()
        await running.server("chatty", command=(sys.executable, "-c", PROGRAM))
        await running.project("web", "chatty")
        running.token_of_web = await running.token("web", "ci", "role:run,resource:servers")
        yield running
    finally:
        await running.stop()


async def read(system, bus=None, bearer=None, **members):
    asked = router.ReadLog(bearer=bearer or system.bearer, name="chatty", **members)
    return await (bus or system.operator).ask_everyone(router.read_log, asked, patience=5)


@pytest.mark.asyncio(loop_scope="module")
async def test_lines_of_stderr_and_the_end_of_the_process_are_in_the_log(system):
    url = f"{system.url}/projects/web/mcp"
    async with sdk_client(url, system.token_of_web, "legacy") as client:
        await client.list_tools()
        with pytest.raises(Exception, match="process ended"):
            await client.call_tool("die", {})

    answers = await read(system)

    assert len(answers) == 2, "each router answers"
    logs = [answer.lines for answer in answers if answer.known]  # either router may have served either request
    texts = [line.text for lines in logs for line in lines]
    assert all(lines[0].text == "hello from stderr" for lines in logs)
    assert "listing" in texts
    assert "(the process ended (exit status 3))" in texts
    for lines in logs:
        assert [line.seq for line in lines] == list(range(1, len(lines) + 1))
        assert lines[0].at <= lines[-1].at


@pytest.mark.asyncio(loop_scope="module")
async def test_a_follower_gets_what_is_new_and_a_limit_keeps_the_newest(system):
    known = max(await read(system), key=lambda answer: len(answer.lines))  # another may have been asked once

    after = {known.router: known.lines[-2].seq}
    (again,) = [answer for answer in await read(system, after=after) if answer.router == known.router]
    (newest,) = [answer for answer in await read(system, limit=1) if answer.router == known.router]

    assert again.lines[:1] == known.lines[-1:]  # its process may have been started anew meanwhile
    assert [line.seq for line in newest.lines] >= [known.lines[-1].seq]
    assert len(newest.lines) == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_it_takes_the_operation_logs(system):
    create = token.CreateUser(bearer=system.bearer, name="sven", password="correct horse")
    await system.operator.call(token.create_user, create)
    login = await Bus.connect(system.nats.url, AdmittedIdentity("login"))
    session = await login.call(token.login, token.Login(user="sven", password="correct horse"))
    sven = await Bus.connect(system.nats.url, AdmittedIdentity("operator", session.bearer))

    with pytest.raises(Forbidden, match="operate logs"):
        await read(system, sven, session.bearer)

    await login.close()
    await sven.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_who_reads_a_log_is_in_the_ledger_once_a_router_however_it_is_asked(system):
    known = await read(system, after={"any": 0})
    await read(system)
    await read(system, after={answer.router: 0 for answer in known})

    wanted = audit.Filter(kind="router.read_log", outcome="allow")
    found = await system.operator.call(audit.query, audit.Query(bearer=system.bearer, filter=wanted, limit=1000))

    assert {entry.event.principal for entry in found.items} == {"user-admin"}
    assert {entry.event.server for entry in found.items} == {"chatty"}
    assert sorted(entry.event.router for entry in found.items) == sorted(answer.router for answer in known)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_log_goes_on_where_the_server_is_started_again(system):
    before = next(answer for answer in await read(system) if answer.known)
    url = f"{system.url}/projects/web/mcp"
    async with sdk_client(url, system.token_of_web, "legacy") as client:
        await client.list_tools()

    after = [answer for answer in await read(system, after={before.router: before.lines[-1].seq}) if answer.known]

    here = [answer for answer in after if answer.router == before.router]
    assert here, "the router that had started it has its log"
    assert sum(len(answer.lines) for answer in after) > 0
    for line in here[0].lines:
        assert line.seq > before.lines[-1].seq
    assert "listing" in [line.text for answer in after for line in answer.lines]


@pytest.mark.asyncio(loop_scope="module")
async def test_nobody_reads_a_log_with_a_bearer_that_is_none(system):
    with pytest.raises(Unauthenticated):
        await read(system, bearer="mcpctl_ses_" + "x" * 49)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_server_that_no_router_has_started_is_not_known(system):
    asked = router.ReadLog(bearer=system.bearer, name="nobody")

    answers = await system.operator.ask_everyone(router.read_log, asked, patience=5)

    assert [answer.known for answer in answers] == [False, False]


def test_a_log_keeps_its_newest_lines_within_bounds():
    log = ServerLogs("r1", None).of("git")
    for number in range(10 * server_logs.LINES):
        log.write(f"line {number}")
    kept = log.newest(0, 10 * server_logs.LINES)

    assert len(kept) == server_logs.LINES
    assert (kept[-1].text, kept[-1].seq) == (f"line {10 * server_logs.LINES - 1}", 10 * server_logs.LINES)
    for _ in range(server_logs.LINES):
        log.write("\x00" * 10 * server_logs.LONGEST)
    kept = log.newest(0, server_logs.LINES)
    reply = router.ServerLog(router="r1", known=True, lines=kept).model_dump_json()
    assert {len(line.text) for line in kept} == {server_logs.LONGEST}
    assert len(reply) < nats_config.MAX_PAYLOAD / 2, "what is escaped most still fits into one message"


def test_a_log_that_was_given_up_and_begun_again_has_higher_numbers():
    logs = ServerLogs("r1", None)
    first = logs.of("git")
    first.write("one")
    first.write("two")
    for number in range(server_logs.SERVERS):
        logs.of(f"other-{number}")

    again = logs.of("git")
    again.write("three")

    assert [line.text for line in again.newest(2, 10)] == ["three"]
