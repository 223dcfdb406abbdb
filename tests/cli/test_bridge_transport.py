"""`mcpctl mcp` against an endpoint that does what a gateway does rarely: forgets, streams, breaks off."""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
JSON = "application/json"


class Endpoint:
    """Opens sessions and answers `ping`; `answers` are given before. `heard` is what it was sent."""

    def __init__(self):
        self.answers, self.heard, self.opened = [], [], 0
        self.live = None
        self.told = []
        self.ended = asyncio.Event()

    async def handle(self, request):
        session = request.headers.get("Mcp-Session-Id")
        if request.method == "DELETE":
            self.heard.append(("DELETE", session))
            self.ended.set()
            return web.Response(status=204)
        if request.method == "GET":
            return await self._tell(request)
        message = await request.json()
        self.heard.append((message.get("method", "answer"), session))
        if message.get("method") == "initialize":
            self.opened += 1
            self.live = f"s{self.opened}"
            result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "e", "version": "1"}}
            return self._json(message, {"result": result}, headers={"Mcp-Session-Id": self.live})
        if session != self.live:
            return web.Response(status=404)
        if "id" not in message or "method" not in message:
            return web.Response(status=202)
        return await self.answers.pop(0)(request, message) if self.answers else self._json(message, {"result": {}})

    def _json(self, message, members, **options):
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], **members})
        return web.Response(text=body, content_type=JSON, **options)

    async def _tell(self, request):
        if not self.told:
            return web.Response(status=405)
        return await stream(request, *self.told)


async def stream(request, *messages):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for message in messages:
        await response.write(f"data: {json.dumps(message)}\n\n".encode())
    return response


class Bridge:
    """The program on an endpoint, line by line."""

    def __init__(self, process):
        self.process = process

    def say(self, message):
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    async def hear(self):
        return json.loads(await self.process.stdout.readline())


@asynccontextmanager
async def started(url, tmp_path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MCPCTL_")}
    environment |= {"MCPCTL_CONFIG": str(tmp_path / "none.yaml"), "MCPCTL_TOKEN": "mcpctl_pat_secret"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mcpctl.cli.main", "mcp", "-p", "demo", "--gateway-url", url),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(30):
            yield Bridge(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def endpoint():
    return Endpoint()


@pytest.fixture
async def bridge(endpoint, tmp_path):
    app = web.Application()
    app.router.add_route("*", "/projects/demo/mcp", endpoint.handle)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    async with started(f"http://{host}:{port}", tmp_path) as bridge:
        yield bridge
    await runner.cleanup()


def ping(number):
    return {"jsonrpc": "2.0", "id": number, "method": "ping"}


async def test_its_session_is_ended_when_its_client_goes(endpoint, bridge):
    bridge.say(HELLO)
    await bridge.hear()
    bridge.process.stdin.close()

    await endpoint.ended.wait()
    assert await bridge.process.wait() == 0
    assert endpoint.heard[-1] == ("DELETE", "s1")


async def test_a_session_that_was_forgotten_is_opened_again_without_the_client(endpoint, bridge):
    bridge.say(HELLO)
    await bridge.hear()
    endpoint.live = None

    for number in (2, 3):
        bridge.say(ping(number))
    answers = [await bridge.hear(), await bridge.hear()]

    assert {answer["id"] for answer in answers} == {2, 3}
    assert all(answer["result"] == {} for answer in answers)
    assert endpoint.opened == 2
    assert ("notifications/initialized", "s2") in endpoint.heard


async def test_what_the_server_says_and_asks_of_itself_passes_both_ways(endpoint, bridge):
    changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    asked = {"jsonrpc": "2.0", "id": "r1", "method": "roots/list"}
    endpoint.told = [changed, asked]
    bridge.say(HELLO)

    heard = [await bridge.hear() for _ in range(3)]
    bridge.say({"jsonrpc": "2.0", "id": "r1", "result": {"roots": []}})
    bridge.say(ping(2))
    await bridge.hear()

    assert heard[1:] == [changed, asked]
    assert ("answer", "s1") in endpoint.heard


async def test_a_stream_that_ends_without_an_answer_is_an_error(endpoint, bridge):
    async def break_off(request, _):
        return await stream(request, {"jsonrpc": "2.0", "method": "notifications/message", "params": {}})

    endpoint.answers.append(break_off)
    bridge.say(HELLO)
    await bridge.hear()
    bridge.say(ping(2))

    assert (await bridge.hear())["method"] == "notifications/message"
    assert "without an answer" in (await bridge.hear())["error"]["message"]


async def test_a_request_that_was_cancelled_gets_no_answer(endpoint, bridge):
    cancelled, came = asyncio.Event(), asyncio.Event()

    async def hold(request, _):
        came.set()
        await cancelled.wait()
        return await stream(request)

    endpoint.answers.append(hold)
    bridge.say(HELLO)
    await bridge.hear()
    bridge.say(ping(2))
    await came.wait()
    bridge.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}})
    bridge.say(ping(3))
    first = await bridge.hear()
    cancelled.set()
    bridge.say(ping(4))

    assert first["id"] == 3
    assert (await bridge.hear())["id"] == 4
    assert ("notifications/cancelled", "s1") in endpoint.heard


@pytest.mark.parametrize(
    ("status", "said"), [(401, "run mcpctl login"), (403, "ask for a right"), (503, "mcpctl status"), (500, "HTTP 500")]
)
async def test_a_refusal_without_a_message_becomes_one(endpoint, bridge, status, said):
    async def refuse(*_):
        return web.Response(status=status, text="<html>")

    endpoint.answers.append(refuse)
    bridge.say(HELLO)
    await bridge.hear()
    bridge.say(ping(2))
    answer = await bridge.hear()

    assert answer["id"] == 2
    assert said in answer["error"]["message"]


async def test_a_gateway_that_is_away_is_an_error_of_each_request(tmp_path):
    async with started("http://127.0.0.1:9", tmp_path) as bridge:
        bridge.say(HELLO)
        answer = await bridge.hear()

    assert answer["id"] == 1
    assert "no answer from the gateway" in answer["error"]["message"]
