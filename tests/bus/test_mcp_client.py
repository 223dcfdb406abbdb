"""The MCP client against the official SDK's server, and against servers that bend the protocol."""

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mcpctl.bus.mcp_client import (
    LEGACY,
    MODERN,
    Answer,
    McpAuthError,
    McpHttpClient,
    McpSessionLost,
    McpTooLargeError,
    McpTransportError,
    McpWireError,
    encode_value,
)
from mcpctl.bus.sse import EventStream, EventTooLargeError
from tests.upstreams.loops import on_both_loops
from tests.upstreams.raw_http import Peer, Request, always, serving, whole

EVERYTHING = Path(__file__).parents[1] / "upstreams" / "everything.py"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
ERAS = pytest.mark.parametrize("era", ["modern", "legacy"])


@pytest.fixture(scope="module")
def everything():
    """Start the SDK's server once for each set of options; give its URL."""
    running = {}

    def url(*options):
        if options not in running:
            command = [sys.executable, str(EVERYTHING), "--port", "0", *options]
            running[options] = process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            process.port = int(process.stdout.readline())
        return f"http://127.0.0.1:{running[options].port}/mcp"

    yield url
    for process in running.values():
        with process:
            process.kill()


@asynccontextmanager
async def connected(url, era="auto", **options):
    client = McpHttpClient(url, **options)
    try:
        await client.connect(timeout=5, era=era)
        yield client
    finally:
        await client.close()


async def ask(client, method, params, *, timeout=5, **options) -> Answer:
    modern = client.server.era == "modern"
    params = {**params, "_meta": {**params.get("_meta", {}), **(META if modern else {})}}
    return await client.request(method, json.dumps(params).encode(), timeout=timeout, **options)


async def call(client, tool, *, progress=None, timeout=5, on_server_request=None, **arguments):
    """Call a tool; give its text and whether it failed."""
    params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": "p"} if progress else {}}
    answer = await ask(
        client,
        "tools/call",
        params,
        name=tool,
        timeout=timeout,
        on_notification=progress,
        on_server_request=on_server_request,
    )
    result = json.loads(answer.result)
    return result["content"][0]["text"], result.get("isError", False)


# With the SDK's server


@pytest.mark.parametrize(
    ("options", "asked", "era"),
    [
        ((), "auto", "modern"),
        ((), "legacy", "legacy"),
        ((), "modern", "modern"),
        (("--legacy-only",), "auto", "legacy"),
        (("--modern-only",), "auto", "modern"),
        (("--json",), "auto", "modern"),
        (("--json", "--legacy-only"), "auto", "legacy"),
        (("--stateless", "--legacy-only"), "auto", "legacy"),
    ],
)
@on_both_loops
async def test_the_era_of_the_server_is_found(everything, options, asked, era):
    async with connected(everything(*options), asked) as client:
        info = client.server

        assert (info.era, info.version) == (era, MODERN if era == "modern" else LEGACY[0])
        assert "capabilities" in json.loads(info.result)
        assert await call(client, "add", a=2, b=3) == ("5", False)


@pytest.mark.parametrize(("option", "era"), [("--legacy-only", "modern"), ("--modern-only", "legacy")])
async def test_a_pinned_era_that_the_server_does_not_speak_is_refused(everything, option, era):
    with pytest.raises((McpWireError, McpTransportError)):
        async with connected(everything(option), era):
            pass


@ERAS
@on_both_loops
async def test_each_of_many_answers_reaches_its_own_request(everything, era):
    texts = [f"text {number} ✓" for number in range(100)]
    async with connected(everything(), era) as client:
        answers = await asyncio.gather(*(call(client, "echo", text=text) for text in texts))

        assert [text for text, _ in answers] == texts


@ERAS
@on_both_loops
async def test_a_tool_that_fails_is_an_answer(everything, era):
    async with connected(everything(), era) as client:
        text, failed = await call(client, "fail", text="no such luck")

        assert "no such luck" in text
        assert failed


@ERAS
@on_both_loops
async def test_resources_and_prompts_with_any_name_are_read(everything, era):
    async with connected(everything(), era) as client:
        for uri, text in {
            "note://today": "the note of today",
            "note://by-name/größe": "the note größe",
        }.items():
            answer = await ask(client, "resources/read", {"uri": uri}, name=uri)
            assert json.loads(answer.result)["contents"][0]["text"] == text
        answer = await ask(client, "prompts/get", {"name": "greet", "arguments": {"name": "Ann"}}, name="greet")

        assert "Say hello to Ann." in answer.result.decode()


@on_both_loops
async def test_a_name_that_looks_encoded_reaches_the_server_as_it_is(everything):
    uri = "note://=?base64?eA==?="
    async with connected(everything(), "modern") as client:
        looks_encoded = await ask(client, "resources/read", {"uri": uri}, name=uri)
        differs = await ask(client, "resources/read", {"uri": uri}, name="note://x")

        assert json.loads(looks_encoded.error)["data"] == {"uri": uri}
        assert json.loads(differs.error)["code"] == -32020


@ERAS
@on_both_loops
async def test_an_unknown_method_is_answered_with_an_error(everything, era):
    async with connected(everything(), era) as client:
        answer = await ask(client, "no/such", {})

        assert answer.result is None
        assert json.loads(answer.error)["code"] in (-32601, -32602)


@ERAS
@on_both_loops
async def test_progress_comes_step_by_step_before_the_result(everything, era):
    heard = []
    async with connected(everything(), era) as client:
        answer = await call(client, "count", steps=3, progress=lambda *message: heard.append(message))

        assert answer == ("counted to 3", False)
        assert [method for method, _ in heard] == ["notifications/progress"] * 3
        assert [json.loads(message)["params"]["progress"] for _, message in heard] == [1, 2, 3]


@ERAS
@on_both_loops
async def test_cancelling_the_task_cancels_the_call_at_the_server(everything, era, request):
    key, waiting = request.node.name, asyncio.Event()
    async with connected(everything(), era) as client:
        forever = call(client, "wait_forever", key=key, progress=lambda *_: waiting.set(), timeout=60)
        task = asyncio.create_task(forever)
        await waiting.wait()

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert await call(client, "was_cancelled", key=key, timeout=6) == ("true", False)


@ERAS
@on_both_loops
async def test_a_call_that_times_out_is_cancelled_at_the_server(everything, era, request):
    key = request.node.name
    async with connected(everything(), era) as client:
        with pytest.raises(McpTransportError, match="in time") as caught:
            await call(client, "wait_forever", key=key, timeout=0.3)

        assert caught.value.sent
        assert await call(client, "was_cancelled", key=key, timeout=6) == ("true", False)


@on_both_loops
async def test_a_question_of_a_legacy_server_is_refused(everything):
    async with connected(everything(), "legacy", capabilities=b'{"elicitation":{}}') as client:
        answer = await ask(client, "tools/call", {"name": "ask_colour", "arguments": {}})

        assert json.loads(answer.error)["code"] == -32601


@on_both_loops
async def test_a_question_of_a_legacy_server_can_be_answered(everything):
    tasks = []
    async with connected(everything(), "legacy", capabilities=b'{"elicitation":{}}') as client:

        def answer(method, message):
            outcome = {"action": "accept", "content": {"colour": "blue"}}
            response = {"jsonrpc": "2.0", "id": json.loads(message)["id"], "result": outcome}
            tasks.append(asyncio.create_task(client.respond(json.dumps(response).encode())))
            return method == "elicitation/create"

        assert await call(client, "ask_colour", on_server_request=answer) == ("blue", False)
        await asyncio.gather(*tasks)


@on_both_loops
async def test_a_stream_that_the_legacy_server_drops_is_resumed(everything):
    heard = []
    async with connected(everything(), "legacy") as client:
        answer = await call(client, "hang_up", progress=lambda *message: heard.append(message))

        assert answer == ("resumed", False)
        assert [method for method, _ in heard] == ["notifications/message"]


@on_both_loops
async def test_a_lost_session_is_told_and_a_new_one_can_be_opened(everything):
    async with connected(everything(), "legacy") as client:
        await client._end_session()

        with pytest.raises(McpSessionLost):
            await call(client, "add", a=1, b=1)
        with pytest.raises(McpSessionLost):
            await client.notify("notifications/roots/list_changed", None)
        await client.connect(timeout=5)

        assert await call(client, "add", a=1, b=1) == ("2", False)


# What is sent


def modern_server(answer: bytes, more: str = ""):
    """Answer server/discover well and anything else with this body or response."""

    def respond(request: Request) -> bytes:
        if request.message["method"] == "server/discover":
            return result_for(request, {"supportedVersions": [MODERN], "capabilities": {}})
        return answer if answer.startswith(b"HTTP/") else whole(answer, more=more)

    return always(respond)


def legacy_server(respond, session="s-1"):
    """Shake hands in 2025-06-18; `respond` makes the answer to what comes after."""

    def either(request: Request) -> bytes:
        if request.verb == "DELETE":
            return whole(b"")
        method = request.method
        if method == "server/discover":
            return whole(b"", status="400 Bad Request")
        if method == "initialize":
            result = {"protocolVersion": "2025-06-18", "capabilities": {}}
            return result_for(request, result, f"Mcp-Session-Id: {session}\r\n" if session else "")
        if method is not None and method.startswith("notifications/"):
            return whole(b"", status="202 Accepted")
        return respond(request)

    return always(either)


def result_for(request: Request, result, more: str = "") -> bytes:
    message = {"jsonrpc": "2.0", "id": request.message["id"], "result": result}
    return whole(json.dumps(message).encode(), more=more)


@on_both_loops
async def test_a_modern_request_carries_its_headers_and_its_params_unchanged():
    params = b'{"name" : "caf\xc3\xa9", "n":12345678901234567890, "f":1.0}'
    async with (
        serving(modern_server(b'{"jsonrpc":"2.0","id":2,"result":{}}')) as server,
        connected(server.url, headers={"Authorization": "Bearer x"}) as client,
    ):
        await client.request("tools/call", params, name="café", timeout=5, extra_headers={"Mcp-Param-A": "b"})

        request = server.requests[-1]
        assert request.body == b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":' + params + b"}"
        assert request.target == "/mcp?key=1"
        assert request.headers.pop("user-agent").startswith("mcpctl/")
        assert request.headers == {
            "host": server.parsed.authority,
            "authorization": "Bearer x",
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
            "content-length": str(len(request.body)),
            "mcp-protocol-version": MODERN,
            "mcp-method": "tools/call",
            "mcp-name": "=?base64?Y2Fmw6k=?=",
            "mcp-param-a": "b",
        }


@on_both_loops
async def test_a_legacy_request_carries_session_and_version_and_close_ends_the_session():
    async with serving(legacy_server(lambda request: result_for(request, {}))) as server:
        async with connected(server.url) as client:
            await client.request("tools/call", b"{}", name="x", timeout=5)
            await client.notify("notifications/roots/list_changed", None)

        first, *others = [request for request in server.requests if request.method != "server/discover"]
        assert "mcp-session-id" not in first.headers
        assert "mcp-protocol-version" not in first.headers
        assert [request.verb for request in others] == ["POST", "POST", "POST", "DELETE"]
        for request in others:
            assert request.headers["mcp-session-id"] == "s-1"
            assert request.headers["mcp-protocol-version"] == "2025-06-18"
            assert "mcp-name" not in request.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp-Session-Id": "x"},
        {"mcp-method": "x"},
        {"Accept": "x"},
        {"Content-Length": "1"},
        {"X": "a\r\nB: c"},
    ],
)
async def test_headers_of_the_protocol_cannot_be_set(headers):
    with pytest.raises(ValueError, match="header"):
        McpHttpClient("http://127.0.0.1:1/", headers=headers)
    async with serving(modern_server(b"")) as server, connected(server.url) as client:
        with pytest.raises(ValueError, match="header"):
            await client.request("tools/list", b"{}", timeout=5, extra_headers=headers)
        with pytest.raises(ValueError, match="method"):
            await client.request("tools/list\r\nX: y", b"{}", timeout=5)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("us-west1", "us-west1"),
        ("a b", "a b"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("end\n", "=?base64?ZW5kCg==?="),
    ],
)
def test_header_values_are_encoded_as_the_specification_shows(text, encoded):
    assert encode_value(text) == encoded


# What comes back


def said(*messages: str, kind="text/event-stream", chunk=None) -> bytes:
    """A whole response; with `chunk`, cut into chunks of so many bytes."""
    body = "".join(messages).encode()
    size = chunk or max(1, len(body))
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


RESULT = '{"jsonrpc":"2.0","id":2,"result":{"b":1.0,"a":12345678901234567890123}}'
THIRD = RESULT.replace('"id":2', '"id":3')  # the id of the first request after a legacy handshake
RAW = b'{"b":1.0,"a":12345678901234567890123}'
NOTICE = '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}'


@pytest.mark.parametrize(
    ("response", "notices"),
    [
        (RESULT.encode(), 0),
        (f" \n{RESULT}\n".encode(), 0),
        (f"{NOTICE}\n\r\n{NOTICE}\n{RESULT}\n".encode(), 2),
        (RESULT.replace(",", " ,\n").encode(), None),
        (said(RESULT, kind="Application/JSON; charset=utf-8"), 0),
        (said(f"data: {RESULT}\n\n"), 0),
        (said(f"event: message\ndata:{NOTICE}\n\nid: 7\ndata: {RESULT}\n\n"), 1),
        (said(f": hello\n\ndata: {NOTICE}\r\n\r\ndata: {RESULT}\r\n\r\n", chunk=1), 1),
        (said(f"data: {NOTICE}\r\rdata: {RESULT}\r\r", chunk=3), 1),
        (said("\ufeffdata: {NOTICE}\n\n".replace("{NOTICE}", NOTICE), f"data: {RESULT}\n\n"), 1),
        (said("data: ", RESULT.replace(',"a"', ',\ndata: "a"'), "\n\n"), None),
        (said(f"event: ping\ndata: not json\n\nid: 1\ndata:\n\nfoo: bar\ndata: {RESULT}\n\n"), 0),
        (said(f"data: {RESULT}\n\ndata: garbage after the answer\n\n"), 0),
        (RESULT.replace('"result"', '"error":null,"result"').encode(), 0),
    ],
    ids=[
        "json",
        "white-space",
        "ndjson",
        "pretty",
        "chunked",
        "sse",
        "event-and-id",
        "byte-by-byte",
        "cr",
        "bom",
        "two-data-lines",
        "other-events",
        "after-answer",
        "null-error",
    ],
)
@on_both_loops
async def test_every_form_of_an_answer_is_understood(response, notices):
    heard = []
    async with serving(modern_server(response)) as server, connected(server.url) as client:
        answer = await client.request(
            "tools/call",
            b"{}",
            timeout=5,
            on_notification=lambda method, message: heard.append((method, message)),
        )

        assert answer.error is None
        assert json.loads(answer.result) == json.loads(RAW)
        if notices is not None:
            assert answer.result == RAW
            assert heard == [("notifications/progress", NOTICE.encode())] * notices


@on_both_loops
async def test_an_event_is_heard_before_the_next_one_is_sent():
    heard = asyncio.Event()

    async def script(peer: Peer):
        await discovered(peer)
        await peer.request()
        stream = said(f"data: {NOTICE}\n\n").removesuffix(b"0\r\n\r\n")
        await peer.send(stream)
        await heard.wait()
        await peer.send(said(f"data: {RESULT}\n\n").partition(b"\r\n\r\n")[2])

    async with serving(script) as server, connected(server.url) as client:
        answer = await client.request("x", b"{}", timeout=5, on_notification=lambda *_: heard.set())

        assert answer.result == RAW


async def discovered(peer: Peer):
    request = await peer.request()
    await peer.send(result_for(request, {"supportedVersions": [MODERN]}))


@pytest.mark.parametrize(
    ("response", "error"),
    [
        (b"", McpWireError),
        (b"<html>", McpWireError),
        (b"[]", McpWireError),
        (b"[%b]" % RESULT.encode(), McpWireError),
        (RESULT.replace('"id":2', '"id":3').encode(), McpWireError),
        (RESULT.replace('"id":2', '"id":"2"').encode(), McpWireError),
        (RESULT.replace('"id":2,', "").encode(), McpWireError),
        (RESULT.replace("2.0", "1.0").encode(), McpWireError),
        (RESULT.replace('"result"', '"error":{"code":1,"message":"x"},"result"').encode(), McpWireError),
        (b'{"jsonrpc":"2.0","id":2}', McpWireError),
        (b'{"jsonrpc":"2.0","id":2,"result":7}', McpWireError),
        (b'{"jsonrpc":"2.0","id":2,"result":{"a":"\xff"}}', McpWireError),
        (b'{"jsonrpc":"2.0","id":2,"result":{"a":01}}', McpWireError),
        (b'{"jsonrpc":"2.0","id":2,"result":{"a":1}', McpWireError),
        (b'{"jsonrpc":"2.0","id":2,"error":"no"}', McpWireError),
        (NOTICE.encode(), McpWireError),
        (b'{"jsonrpc":"2.0","id":9,"method":"ping"}', McpWireError),
        (whole(b"hello", kind="text/html"), McpWireError),
        (whole(b"", status="202 Accepted"), McpWireError),
        (said("data: {\n\n"), McpWireError),
        (said(f"data: {THIRD}\n\n"), McpWireError),
        (said('data: {"jsonrpc":"2.0","id":9,"method":"elicitation/create"}\n\n'), McpWireError),
        (said(f"data: {NOTICE}\n\n"), McpTransportError),
        (said(f"id: 5\ndata: {NOTICE}\n\n"), McpTransportError),
        (said(f"data: {RESULT}"), McpTransportError),
        (said("data: " + "a" * 2000 + "\n\n"), McpTooLargeError),
        (said("data: aaaa\n" * 300 + "\n", chunk=10), McpTooLargeError),
        (said("data: " + "a" * 2000, chunk=10), McpTooLargeError),
        (b"a" * 2000, McpTooLargeError),
        (whole(b"", status="302 Found", more="Location: http://127.0.0.1:1/\r\n"), McpTransportError),
        (whole(b"", status="307 Temporary Redirect", more="Location: /other\r\n"), McpTransportError),
        (whole(b"", status="404 Not Found", kind="text/html"), McpTransportError),
        (whole(b"{}", status="500 Internal Server Error"), McpTransportError),
        (whole(b"", status="429 Too Many Requests"), McpTransportError),
        (whole(b"", status="401 Unauthorized"), McpAuthError),
        (
            whole(b'{"jsonrpc":"2.0","id":2,"error":{"code":1,"message":"x"}}', status="403 Forbidden"),
            McpAuthError,
        ),
    ],
)
@on_both_loops
async def test_an_answer_that_is_none_says_what_is_wrong(response, error):
    async with serving(modern_server(response)) as server, connected(server.url, max_answer=1000) as client:
        with pytest.raises((McpWireError, McpTransportError)) as caught:
            await client.request("tools/call", b"{}", timeout=5)

        assert type(caught.value) is error
        assert getattr(caught.value, "sent", True)
        assert [request.message["method"] for request in server.requests[1:]] == ["tools/call"]
        assert server.connections <= 2


@pytest.mark.parametrize(
    ("status", "request_id"),
    [
        ("200 OK", "2"),
        ("200 OK", "null"),
        ("400 Bad Request", "2"),
        ("400 Bad Request", "null"),
        ("400 Bad Request", '"server-error"'),
        ("404 Not Found", "2"),
        ("503 Service Unavailable", "2"),
    ],
)
async def test_a_json_rpc_error_is_an_answer_whatever_its_status(status, request_id):
    error = b'{"code":-32601,"message":"no", "data":{"x":1.0}}'
    body = b'{"jsonrpc":"2.0","id":%b,"error":%b}' % (request_id.encode(), error)
    async with serving(modern_server(whole(body, status=status))) as server, connected(server.url) as client:
        answer = await client.request("x", b"{}", timeout=5)

        assert answer == Answer(None, error)


@on_both_loops
async def test_a_modern_stream_that_goes_on_after_its_answer_is_hung_up_on():
    async def script(peer: Peer):
        await discovered(peer)
        await peer.request()
        await peer.send(said(f"data: {RESULT}\n\n").removesuffix(b"0\r\n\r\n"))
        while not peer.writer.is_closing():
            await peer.send(b"1000\r\n" + b":" * 4096 + b"\r\n")

    async with serving(script) as server, connected(server.url) as client:
        assert (await client.request("x", b"{}", timeout=60)).result == RAW
        await server.hung_up.wait()


@on_both_loops
async def test_a_dropped_modern_stream_is_not_resumed():
    async def script(peer: Peer):
        await discovered(peer)
        await peer.request()
        await peer.send(said(f"id: 1\ndata: {NOTICE}\n\n").removesuffix(b"0\r\n\r\n"))

    async with serving(script) as server, connected(server.url) as client:
        with pytest.raises(McpTransportError, match="lost") as caught:
            await client.request("x", b"{}", timeout=5)

        assert caught.value.sent
        assert len(server.requests) == 2


@on_both_loops
async def test_a_dropped_legacy_stream_is_resumed_from_its_last_event_until_the_answer():
    steps = [
        said("id: a1\nretry: 10\ndata:\n\n"),
        said(f"id: a2\ndata: {NOTICE}\n\n"),
        said(f"id: a3\ndata: {THIRD}\n\n"),
    ]

    async with serving(legacy_server(lambda _: steps.pop(0))) as server, connected(server.url) as client:
        heard = []
        answer = await client.request("x", b"{}", timeout=5, on_notification=lambda *said: heard.append(said))

        assert answer.result == RAW
        assert len(heard) == 1
        gets = [request for request in server.requests if request.verb == "GET"]
        assert [get.headers["last-event-id"] for get in gets] == ["a1", "a2"]
        assert {get.headers["mcp-session-id"] for get in gets} == {"s-1"}


@on_both_loops
async def test_a_legacy_stream_that_brings_nothing_new_is_given_up():
    def respond(request: Request):
        return said("id: a1\nretry: 1\ndata:\n\n") if request.verb == "POST" else said(": nothing\n\n")

    async with serving(legacy_server(respond)) as server, connected(server.url) as client:
        with pytest.raises(McpTransportError, match="without an answer") as caught:
            await client.request("x", b"{}", timeout=5)

        assert caught.value.sent
        assert len([request for request in server.requests if request.verb == "GET"]) == 3


@pytest.mark.parametrize(
    ("status", "tries"), [("404 Not Found", 1), ("405 Method Not Allowed", 1), ("409 Conflict", 3)]
)
async def test_a_legacy_stream_that_cannot_be_resumed_is_not_mistaken_for_an_unsent_call(status, tries):
    def respond(request: Request):
        posted = request.verb == "POST"
        return said("id: a1\nretry: 1\ndata:\n\n") if posted else whole(b"", status=status)

    async with serving(legacy_server(respond)) as server, connected(server.url) as client:
        with pytest.raises(McpTransportError, match=status[:3]) as caught:
            await client.request("x", b"{}", timeout=5)

        assert caught.value.sent
        assert len([request for request in server.requests if request.verb == "GET"]) == tries


# What belongs to no call

CHANGED = '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'


@ERAS
async def test_an_announcement_on_the_stream_of_a_call_is_not_the_calls(era):
    answer = said(f"data: {CHANGED}\n\ndata: {NOTICE}\n\ndata: {RESULT if era == 'modern' else THIRD}\n\n")

    async def modern(peer: Peer):
        await discovered(peer)
        await peer.request()
        await peer.send(answer)

    script = modern if era == "modern" else legacy_server(lambda _: answer)
    async with serving(script) as server, connected(server.url) as client:
        heard, changes = [], []
        client.on_change = lambda method, _: changes.append(method)
        await client.request("x", b"{}", timeout=5, on_notification=lambda method, _: heard.append(method))

        assert changes == ["notifications/tools/list_changed"]
        assert heard == [json.loads(NOTICE)["method"]]


async def standing(client):
    """Hold the stream of a session until it has been opened twice; return what was said of each opening."""
    opened, twice = [], asyncio.Event()

    def note(missed):
        opened.append(missed)
        if len(opened) == 2:
            twice.set()

    holding = asyncio.create_task(client.stand(note))
    async with asyncio.timeout(5):
        await twice.wait()
    holding.cancel()
    return opened


@on_both_loops
async def test_a_session_stream_that_names_its_events_goes_on_where_it_was_dropped():
    server_of = legacy_server(lambda _: said(f"id: a1\nretry: 10\ndata: {CHANGED}\n\n"))
    async with serving(server_of) as server, connected(server.url) as client:
        changes = []
        client.on_change = lambda method, _: changes.append(method)

        assert await standing(client) == [False, False]
        assert changes[0] == "notifications/tools/list_changed"
        gets = [request for request in server.requests if request.verb == "GET"]
        assert [get.headers.get("last-event-id") for get in gets[:2]] == [None, "a1"]


@on_both_loops
async def test_a_session_stream_without_event_ids_may_have_missed_something_when_it_is_back():
    async with (
        serving(legacy_server(lambda _: said(f"retry: 10\ndata: {CHANGED}\n\n"))) as server,
        connected(server.url) as client,
    ):
        assert await standing(client) == [False, True]


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "404 Not Found", "400 Bad Request"])
async def test_a_server_without_a_session_stream_is_not_asked_again(status):
    async with serving(legacy_server(lambda _: whole(b"", status=status))) as server, connected(server.url) as client:
        async with asyncio.timeout(5):
            await client.stand(lambda _: None)

        assert len([request for request in server.requests if request.verb == "GET"]) == 1


async def test_a_session_that_is_forgotten_after_its_stream_was_open_is_lost():
    steps = [said("retry: 10\ndata:\n\n"), whole(b"", status="404 Not Found")]
    async with serving(legacy_server(lambda _: steps.pop(0))) as server, connected(server.url) as client:
        with pytest.raises(McpSessionLost):
            async with asyncio.timeout(5):
                await client.stand(lambda _: None)


async def test_closing_the_client_ends_the_session_stream():
    open_for_ever = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: open\n\n"
    opened = asyncio.Event()
    async with serving(legacy_server(lambda _: open_for_ever)) as server, connected(server.url) as client:
        holding = asyncio.create_task(client.stand(lambda _: opened.set()))
        await opened.wait()
        await client.close()
        async with asyncio.timeout(5):
            with pytest.raises(McpTransportError, match="closed"):
                await holding


@on_both_loops
async def test_a_retry_longer_than_the_timeout_ends_with_it():
    async with (
        serving(legacy_server(lambda _: said("id: a1\nretry: 60000\ndata:\n\n"))) as server,
        connected(server.url) as client,
    ):
        with pytest.raises(McpTransportError, match="in time") as caught:
            await client.request("x", b"{}", timeout=0.1)

        assert caught.value.sent


@on_both_loops
async def test_a_ping_on_a_legacy_stream_is_answered():
    answered = asyncio.Event()

    async def script(peer: Peer):
        while request := await peer.request():
            if request.method == "x":
                ping = '{"jsonrpc":"2.0","id":"p-1","method":"ping"}'
                await peer.send(said(f"data: {ping}\n\n").removesuffix(b"0\r\n\r\n"))
                await answered.wait()
                await peer.send(said(f"data: {THIRD}\n\n").partition(b"\r\n\r\n")[2])
            elif request.method is None and request.verb == "POST":
                assert request.message == {"jsonrpc": "2.0", "id": "p-1", "result": {}}
                answered.set()
                await peer.send(whole(b"", status="202 Accepted"))
            else:
                await peer.send(shaken(request))

    async with serving(script) as server, connected(server.url) as client:
        assert (await client.request("x", b"{}", timeout=5)).result == RAW


def shaken(request: Request) -> bytes:
    if request.method == "initialize":
        return result_for(request, {"protocolVersion": "2025-03-26"})
    if request.method == "server/discover":
        return whole(b"", status="405 Method Not Allowed")
    return whole(b"", status="202 Accepted")


# The handshake


def error_for(request: Request, code: int, data=None, status="200 OK") -> bytes:
    error = {"code": code, "message": "no", "data": data}
    body = {"jsonrpc": "2.0", "id": request.message["id"], "error": error}
    return whole(json.dumps(body).encode(), status=status)


def discovering(respond):
    """Answer server/discover by `respond`, and shake hands with who asks for that."""
    return always(lambda asked: respond(asked) if asked.method == "server/discover" else shaken(asked))


@pytest.mark.parametrize(
    "respond",
    [
        lambda _: whole(b"", status="400 Bad Request"),
        lambda _: whole(b"Not found", status="404 Not Found", kind="text/plain"),
        lambda _: whole(b"", status="405 Method Not Allowed"),
        lambda _: whole(b"", status="406 Not Acceptable"),
        lambda request: error_for(request, -32601),
        lambda request: error_for(request, -32600, status="400 Bad Request"),
        lambda request: error_for(request, -32022, {"supported": ["2025-06-18"]}, "400 Bad Request"),
        lambda request: error_for(request, -32022, "?"),
        lambda request: result_for(request, {}),
        lambda request: result_for(request, {"supportedVersions": ["2025-11-25"]}),
        lambda _: said(f"data: {json.dumps({'jsonrpc': '2.0', 'id': None, 'error': FAULT})}\n\n"),
    ],
)
async def test_a_server_that_does_not_know_the_modern_era_is_spoken_to_in_the_legacy_one(respond):
    async with serving(discovering(respond)) as server, connected(server.url) as client:
        assert (client.server.era, client.server.version) == ("legacy", "2025-03-26")


FAULT = {"code": -32600, "message": "no"}


@pytest.mark.parametrize(
    ("respond", "error"),
    [
        (lambda _: whole(b"", status="401 Unauthorized"), McpAuthError),
        (lambda _: whole(b"", status="403 Forbidden"), McpAuthError),
        (lambda _: whole(b"", status="500 Internal Server Error"), McpTransportError),
        (lambda request: error_for(request, -32603, status="503 Service Unavailable"), McpTransportError),
        (lambda _: whole(b"", status="302 Found"), McpTransportError),
        (lambda request: error_for(request, -32022, {"supported": ["2027-01-01"]}), McpWireError),
        (lambda _: whole(b"<html>", kind="text/html"), McpWireError),
    ],
)
async def test_a_server_that_will_not_be_discovered_is_not_asked_again(respond, error):
    async with serving(discovering(respond)) as server:
        with pytest.raises((McpTransportError, McpWireError)) as caught:
            async with connected(server.url):
                pass

        assert type(caught.value) is error
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("more", "version"),
    [("", "1999-01-01"), ("", MODERN), ("Mcp-Session-Id: a b\r\n", "2025-11-25"), ("", None)],
)
async def test_a_handshake_that_breaks_the_rules_is_refused(more, version):
    async with serving(always(lambda asked: result_for(asked, {"protocolVersion": version}, more))) as server:
        with pytest.raises(McpWireError):
            async with connected(server.url, "legacy"):
                pass


async def test_an_initialize_that_is_refused_says_why():
    async with serving(always(lambda asked: error_for(asked, -32602))) as server:
        with pytest.raises(McpWireError, match="-32602"):
            async with connected(server.url, "legacy"):
                pass


async def test_an_unreachable_server_was_sent_nothing():
    async with serving(always(b"")) as server:
        pass

    with pytest.raises(McpTransportError) as caught:
        async with connected(server.url, headers={"Authorization": "Bearer secret"}):
            pass

    assert not caught.value.sent
    assert "secret" not in str(caught.value)
    assert "key=1" not in str(caught.value)


async def test_a_client_that_is_not_connected_or_closed_sends_nothing():
    async with serving(modern_server(b"")) as server:
        client = McpHttpClient(server.url)
        with pytest.raises(McpTransportError) as before:
            await client.request("x", b"{}", timeout=1)
        await client.connect(timeout=5)
        await client.close()
        with pytest.raises(McpTransportError) as after:
            await client.request("x", b"{}", timeout=1)

        assert (before.value.sent, after.value.sent) == (False, False)
        assert len(server.requests) == 1


# The event parser alone


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_events_are_the_same_however_they_are_cut(end, size):
    text = ": c{e}id: 1{e}data: a{e}data:b{e}{e}{e}event: x{e}data: no{e}{e}retry: 20{e}data: ü{e}{e}data: half"
    stream, events, parser = text.replace("{e}", end).encode(), [], EventStream(100)

    for start in range(0, len(stream), size):
        events += parser.feed(stream[start : start + size])

    assert events == [b"a\nb", "ü".encode()]
    assert (parser.last_event_id, parser.retry) == (b"1", 0.02)


def test_an_event_of_just_the_limit_passes():
    assert EventStream(7).feed(b"data:123456\n\n") == [b"123456"]
    with pytest.raises(EventTooLargeError):
        EventStream(6).feed(b"data:123456\n\n")


def test_an_id_that_no_header_can_carry_is_not_kept():
    parser = EventStream(100)

    parser.feed(b"id: good\n\nid: b\x00d\n\nid: b\xc3\xa4d\n\nretry: soon\n\n")

    assert (parser.last_event_id, parser.retry) == (b"good", None)
