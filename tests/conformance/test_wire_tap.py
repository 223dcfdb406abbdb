"""The tap finds what is wrong with a message, and the injector carries bytes as they are."""

import asyncio
import json

import pytest

from tests.injector import Injector, injecting
from tests.upstreams.raw_http import always, serving, whole
from tests.wire_tap import Tap

META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
TOOL = {"name": "echo", "inputSchema": {"type": "object"}}
LISTED = {"tools": [TOOL], "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
ACK = "notifications/subscriptions/acknowledged"


def request(method="tools/list", request_id=1, version="2026-07-28", **params):
    if version == "2026-07-28":
        params["_meta"] = META
    body = json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()
    head = f"POST /mcp HTTP/1.1\r\nMCP-Protocol-Version: {version}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answer(message):
    return whole(json.dumps({"jsonrpc": "2.0"} | message).encode())


def stream(*messages):
    text = "".join(f"event: message\ndata: {json.dumps({'jsonrpc': '2.0'} | message)}\n\n" for message in messages)
    body = f": hello\n\n{text}".encode()
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:20], body[20:]))
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces


def found(sent, received):
    tap = Tap()
    tap.exchange(sent, received)
    assert tap.messages
    return tap.violations


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (request(), answer({"id": 1, "result": LISTED})),
        (request(version="2025-11-25"), answer({"id": 1, "result": {"tools": [TOOL]}})),
        (request("ping", version="2024-11-05"), answer({"id": 1, "result": {}})),
        (request("tools/call"), answer({"id": 1, "error": {"code": -32602, "message": "no"}})),
        (request("tools/call"), answer({"id": 1, "result": {"resultType": "input_required", "requestState": "s"}})),
        (
            request("tools/call"),
            stream({"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}),
        ),
        (request(version="2025-11-25"), stream({"id": 9, "method": "roots/list"})),
        (request(), answer({"error": {"code": -32600, "message": "no bearer"}}).replace(b"200", b"401")),
    ],
)
def test_a_message_as_the_schema_wants_it_is_no_violation(sent, received):
    assert found(sent, received) == []


@pytest.mark.parametrize(
    ("sent", "received", "said"),
    [
        (request(), answer({"id": 1, "result": LISTED | {"tools": [{}]}}), "required property"),
        (request(), answer({"id": 1, "result": {"tools": [], "resultType": "complete"}}), "ttlMs"),
        (request(), answer({"id": 1, "result": LISTED | {"ttlMs": -1}}), "-1"),
        (request(), answer({"id": "1", "result": LISTED}), "asked by 1"),
        (request(), answer({"id": None, "error": {"code": -32603, "message": "no"}}), "asked by 1"),
        (request(), answer({"error": {"code": -32603, "message": "no"}}), "asked by 1"),
        (request(), answer({"id": None, "error": {"code": 0, "message": ""}}).replace(b"200", b"401"), "null"),
        (request(), answer({"id": 1, "error": {"code": -32022, "message": "no"}}), "data"),
        (request(), answer({"id": 1, "error": {"code": "no"}}), "message"),
        (request(), stream({"id": 2, "method": "roots/list"}), "no requests of servers"),
        (request(), stream({"method": "notifications/elicitation/complete", "params": {}}), "knows no"),
        (
            request("subscriptions/listen"),
            stream({"method": ACK, "params": {"notifications": {}}}),
            "subscription is 1",
        ),
        (request(version="2025-11-25"), stream({"method": "notifications/progress", "params": {}}), "progressToken"),
        (request("initialize", version="2025-06-18"), answer({"id": 1, "result": {}}), "protocolVersion"),
    ],
)
def test_a_violation_is_found_and_says_where(sent, received, said):
    (violation, *_) = [line for line in found(sent, received) if said in line]

    assert json.loads(sent.partition(b"\r\n\r\n")[2])["method"] in violation


def test_what_a_client_did_not_wait_for_is_no_violation():
    tap = Tap()
    tap.exchange(request(), answer({"id": 1, "result": LISTED})[:-5])
    tap.exchange(request(), b"HTTP/1.1 200")

    assert tap.violations == []


async def test_each_request_goes_to_the_next_target_with_the_bearer():
    body = b'{"jsonrpc":"2.0","id":1,"result":{}}'
    async with (
        serving(always(whole(body))) as one,
        serving(always(whole(body))) as two,
        injecting([one.url, two.url], "secret") as injector,
    ):
        for _ in range(4):
            assert (await exchanged(injector, request("ping", version="2025-11-25"))).endswith(body)

    assert [len(server.requests) for server in (one, two)] == [2, 2]
    assert {r.headers["authorization"] for r in one.requests + two.requests} == {"Bearer secret"}


async def test_a_client_that_hangs_up_takes_the_target_along():
    async with serving(answer_slowly) as server, injecting([server.url], "secret") as injector:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(injector))
        writer.write(request())
        async with asyncio.timeout(5):
            assert await reader.readuntil(b"first\n\n")
            writer.close()
            await server.hung_up.wait()


async def answer_slowly(peer):
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: first\n\n")
    await peer.until_hung_up()


async def test_a_violation_fails_whoever_used_the_injector():
    async with serving(always(answer({"id": 7, "result": {}}))) as server:
        with pytest.raises(AssertionError, match="asked by 1"):
            async with injecting([server.url], "secret") as injector:
                await exchanged(injector, request("ping", version="2025-11-25"))


def port_of(injector: Injector) -> int:
    return int(injector.url.rpartition(":")[2])


async def exchanged(injector: Injector, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(injector))
    try:
        writer.write(sent)
        async with asyncio.timeout(5):
            return await reader.readuntil(b"}}")
    finally:
        writer.close()
