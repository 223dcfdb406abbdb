"""The router's client of stdio servers, on real processes."""

import asyncio
import os
import select
import signal
import sys
from pathlib import Path

import orjson
import pytest

from mcpctl.actors.upstream_router.stdio import LONGEST_SAID, StdioClient
from mcpctl.actors.upstream_router.stdio_rules import StdioRules
from mcpctl.bus.mcp_client import McpTransportError, McpWireError
from mcpctl.bus.mcp_messages import MODERN_MEMBERS

ANY = StdioRules(("*",), memory=0, files=1024, longest=8 << 20)
UPSTREAM = str(Path(__file__).parents[1] / "upstreams" / "everything.py")

LEGACY_SERVER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        info = {"name": "l", "version": "1"}
        result = {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": info}
    elif message.get("method") == "tools/list":
        print(json.dumps({"jsonrpc": "2.0", "id": "s1", "method": "ping"}), flush=True)
        assert json.loads(sys.stdin.readline()) == {"jsonrpc": "2.0", "id": "s1", "result": {}}
        result = {"tools": [], "big": 123456789012345678901234567890, "form": 1.0}
    elif "id" in message:
        error = {"code": -32601, "message": "no"}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}), flush=True)
        continue
    else:
        continue
    print("not json at all", flush=True)
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


def params(**members):
    return orjson.dumps(members)[:-1] + b',"_meta":{' + MODERN_MEMBERS + b"}}"


@pytest.fixture
async def everything():
    client = StdioClient((sys.executable, UPSTREAM, "--stdio"), {}, print, ANY)
    await client.connect(timeout=20)
    yield client
    await client.close()
    assert not client.alive


def called(answer):
    return orjson.loads(answer.result)["structuredContent"]["result"]


async def call(client, name, notify=None, timeout=10, **arguments):
    sent = params(name=name, arguments=arguments)
    if notify is not None:
        sent = sent.replace(b'"_meta":{', b'"_meta":{"progressToken":"same",')
    return await client.request("tools/call", sent, on_notification=notify, timeout=timeout)


async def test_many_requests_share_the_pipes(everything):
    answers = await asyncio.gather(*(call(everything, "add", a=n, b=n) for n in range(200)))

    assert [called(answer) for answer in answers] == [2 * n for n in range(200)]


async def test_progress_of_equal_tokens_reaches_its_own_request(everything):
    heard: dict[int, list[bytes]] = {1: [], 2: []}

    async def counting(steps):
        return await call(everything, "count", lambda _, message: heard[steps].append(message), steps=steps)

    await asyncio.gather(counting(1), counting(2))

    assert {steps: len(messages) for steps, messages in heard.items()} == {1: 1, 2: 2}
    assert all(b'"progressToken":"same"' in message for messages in heard.values() for message in messages)


async def test_cancelling_the_awaiting_task_cancels_at_the_server(everything):
    running = asyncio.Event()
    waiting = asyncio.create_task(call(everything, "wait_forever", lambda *_: running.set(), key="k"))
    async with asyncio.timeout(10):
        await running.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert called(await call(everything, "was_cancelled", key="k")) is True


async def test_a_silent_server_is_a_transport_error_after_the_timeout(everything):
    with pytest.raises(McpTransportError, match="no answer within"):
        await call(everything, "wait_forever", key="silent", timeout=0.3)


async def test_a_call_that_times_out_is_cancelled_at_the_server(everything):
    running = asyncio.Event()
    async with asyncio.timeout(15):
        with pytest.raises(McpTransportError, match="no answer within"):
            await call(everything, "wait_forever", lambda *_: running.set(), key="late", timeout=2)

        assert running.is_set()
        assert called(await call(everything, "was_cancelled", key="late")) is True


MUTE = """
import json, sys
for line in sys.stdin:
    print(json.loads(line)["method"], file=sys.stderr, flush=True)
"""


async def test_an_initialize_that_times_out_is_not_cancelled():
    said = []
    with pytest.raises(McpTransportError, match="no answer to initialize"):
        await StdioClient((sys.executable, "-c", MUTE), {}, said.append, ANY).connect(timeout=2, era="legacy")

    assert said == ["initialize", "(the process ended (exit status 0))"]


async def test_params_with_newlines_are_one_line_on_the_pipe(everything):
    sent = b'{\n "name": "echo",\r\n "arguments": {"text": "a\\nb"},\n "_meta": {' + MODERN_MEMBERS + b"}\n}"
    async with asyncio.timeout(10):
        answer = await everything.request("tools/call", sent, timeout=5)

    assert called(answer) == "a\nb"


async def test_a_legacy_server_is_initialized_and_its_ping_answered():
    client = StdioClient((sys.executable, "-c", LEGACY_SERVER), {}, print, ANY)
    info = await client.connect(timeout=20)
    try:
        answer = await client.request("tools/list", b"{}", timeout=5)
    finally:
        await client.close()

    assert (info.era, info.version) == ("legacy", "2024-11-05")
    assert answer.result is not None
    assert b"123456789012345678901234567890" in answer.result
    assert b"1.0" in answer.result


async def test_a_process_that_ends_fails_what_waits_and_says_what_it_said():
    program = "import sys; sys.stdin.readline(); print('out of cheese', file=sys.stderr); sys.exit(3)"
    said = []
    client = StdioClient((sys.executable, "-c", program), {}, said.append, ANY)

    with pytest.raises(McpTransportError, match=r"exit status 3\)$"):
        await client.connect(timeout=10)

    assert said == ["out of cheese", "(the process ended (exit status 3))"]  # for operators: callers are not told


async def test_a_line_on_stderr_without_an_end_is_heard_in_part():
    program = "import sys; w = sys.stderr.write; w('x' * 10_000_000 + '\\nnext\\n\\nlast \\xff'); sys.exit(3)"
    said = []
    with pytest.raises(McpTransportError):
        await StdioClient((sys.executable, "-c", program), {}, said.append, ANY).connect(timeout=10)

    assert said == ["x" * LONGEST_SAID, "next", "", "last ÿ", "(the process ended (exit status 3))"]


async def test_a_command_that_is_not_there_says_so():
    with pytest.raises(McpTransportError, match="no-such-command cannot be started"):
        await StdioClient(("no-such-command",), {}, print, ANY).connect(timeout=5)


async def test_a_stubborn_process_and_its_children_are_killed():
    program = (
        "import os, signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        "print(child.pid, file=sys.stderr, flush=True);"
        "import time; time.sleep(600)"
    )
    said = []
    client = StdioClient((sys.executable, "-c", program), {}, said.append, ANY)
    with pytest.raises(McpTransportError, match="no answer to initialize"):
        await client.connect(timeout=1)

    assert not client.alive
    assert await _ends(int(said[0]))


async def _ends(pid):
    """Tell whether a process is over within 10 s: a killed one may need a moment, and somebody to reap it."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool((await asyncio.to_thread(select.select, [watched], [], [], 10))[0])
    finally:
        os.close(watched)


async def test_the_environment_is_clean():
    os.environ["MCPCTL_SOMETHING_SECRET"] = "x"
    program = "import os, sys; print(sorted(os.environ), file=sys.stderr); sys.exit(1)"
    said = []
    client = StdioClient((sys.executable, "-c", program), {"OWN": "1"}, said.append, ANY)
    try:
        with pytest.raises(McpTransportError):
            await client.connect(timeout=10)
    finally:
        del os.environ["MCPCTL_SOMETHING_SECRET"]

    assert "OWN" in said[0]
    assert "MCPCTL_SOMETHING_SECRET" not in said[0]


async def test_a_server_that_does_not_read_cannot_hold_a_call_beyond_its_timeout(everything):
    stopped = everything._process.pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            with pytest.raises(McpTransportError, match="no answer within"):
                await call(everything, "echo", text="x" * 1_000_000, timeout=0.5)
    finally:
        os.kill(stopped, signal.SIGCONT)


NONSENSE = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    for wrong in (
        '{"jsonrpc":"2.0","method":"notifications/progress","params":[1]}',
        '{"jsonrpc":"2.0","id":' + "9" * 5000 + ',"result":{}}',
        '{"jsonrpc":"2.0","id":[],"result":{}}',
        '[' * 100000,
        'null',
    ):
        print(wrong)
    sys.stdout.buffer.write(b'{"jsonrpc":"2.0","method":"\\xff"}\\n')
    if message.get("method") == "server/discover":
        found = {"supportedVersions": ["2026-07-28"]}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": found}), flush=True)
    elif "id" in message:
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": "boom"}), flush=True)
"""


async def test_nonsense_on_stdout_is_passed_over_and_a_broken_error_is_told():
    client = StdioClient((sys.executable, "-c", NONSENSE), {}, print, ANY)
    await client.connect(timeout=20)
    try:
        for _ in range(2):
            with pytest.raises(McpWireError):
                await client.request("tools/list", b"{}", timeout=5)
        assert client.alive
    finally:
        await client.close()


SLOW_TO_START = """
import json, sys
probe, cancelled, hello = (json.loads(sys.stdin.readline()) for _ in range(3))
assert [m["method"] for m in (probe, cancelled, hello)] == [
    "server/discover", "notifications/cancelled", "initialize"]
data = {"supported": ["2026-07-28"], "requested": hello["params"]["protocolVersion"]}
error = {"code": -32022, "message": "the initialize handshake is not accepted", "data": data}
print(json.dumps({"jsonrpc": "2.0", "id": hello["id"], "error": error}), flush=True)
again = json.loads(sys.stdin.readline())
assert again["method"] == "server/discover"
found = {"supportedVersions": ["2026-07-28"]}
print(json.dumps({"jsonrpc": "2.0", "id": again["id"], "result": found}), flush=True)
sys.stdin.readline()
"""


async def test_a_server_that_reads_the_probe_only_after_it_was_given_up_is_modern_all_the_same(monkeypatch):
    monkeypatch.setattr("mcpctl.actors.upstream_router.stdio.PROBE_SECONDS", 0.1)
    client = StdioClient((sys.executable, "-c", SLOW_TO_START), {}, print, ANY)
    try:
        info = await client.connect(timeout=20)
    finally:
        await client.close()

    assert info.era == "modern"


ASKING = """
import json, sys
def say(**message):
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
waiting = {}
for line in sys.stdin:
    message = json.loads(line)
    method, number = message.get("method"), message.get("id")
    if method == "initialize":
        info = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "a", "version": "1"}}
        say(id=number, result=info)
    elif method == "ask":
        waiting["q"] = number
        say(id="q", method="roots/list")
    elif method == "hold":
        waiting["hold"] = number
    elif method == "announce":
        say(method="notifications/tools/list_changed")
        say(id=number, result={})
    elif method is None:
        say(id=waiting.pop(message["id"]), result={"told": message.get("result") or message["error"]})
    elif number is not None:
        say(id=number, error={"code": -32601, "message": "no"})
"""


@pytest.fixture
async def asking():
    client = StdioClient((sys.executable, "-c", ASKING), {}, print, ANY)
    await client.connect(timeout=20)
    yield client
    await client.close()


async def ask(client, *, owner=""):
    """Have the server ask its client, who answers with roots; return what the server was told."""
    answering = []

    def take(method, message):
        answer = orjson.dumps({"jsonrpc": "2.0", "id": orjson.loads(message)["id"], "result": {"roots": [owner]}})
        answering.append(asyncio.ensure_future(client.respond(answer)))
        return method == "roots/list"

    answer = await client.request("ask", b"{}", on_server_request=take, owner=owner, timeout=10)
    return orjson.loads(answer.result)["told"]


async def test_a_question_of_the_server_goes_to_the_only_call(asking):
    assert await ask(asking, owner="a") == {"roots": ["a"]}


@pytest.mark.parametrize(("other", "answered"), [("a", True), ("b", False), ("", False)])
async def test_a_question_goes_to_one_of_several_calls_only_if_they_have_one_owner(asking, other, answered):
    held = asyncio.create_task(asking.request("hold", b"{}", owner=other, timeout=10))
    await asking.request("announce", b"{}", timeout=10)  # by now the server has the call

    told = await ask(asking, owner="a")

    held.cancel()
    assert (told == {"roots": ["a"]}) == answered
    if not answered:
        assert "several clients share this process" in told["message"]


async def test_a_question_that_nobody_takes_is_refused(asking):
    answer = await asking.request("ask", b"{}", timeout=10)

    assert orjson.loads(answer.result)["told"]["code"] == -32601


async def test_an_announcement_is_nobodys_notification(asking):
    heard, changes = [], []
    asking.on_change = lambda method, _: changes.append(method)

    await asking.request("announce", b"{}", on_notification=lambda *said: heard.append(said), timeout=10)

    assert (heard, changes) == ([], ["notifications/tools/list_changed"])
