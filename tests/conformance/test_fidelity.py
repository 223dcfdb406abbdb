"""What is passed on stays as it was written: unknown members, number forms, order and escapes, in both directions."""

import json

import pytest
import pytest_asyncio
from msgspec import Raw

from tests.conformance.cells import LEGACY, MODERN
from tests.conformance.unbridged import ask, ask_modern, http, open_session
from tests.system import System
from tests.upstreams.raw_http import always, serving, whole

pytestmark = pytest.mark.asyncio(loop_scope="session")

NUMBERS = (
    b'{"z":123456789012345678901234567890,"one":1.0,"exp":1E2,"minus":-0,"long":1.1000,"a":[1e-7,18446744073709551616]}'
)
WORDS = rb'"\u00e9 \/ \ud83d\ude00 ' + "é 😀".encode() + b'"'
SCHEMA = (
    b'{"type":"object","$defs":{"b":{"$anchor":"q"},"a":true},"properties":{"z":{"const":1.0},"a":{"maximum":1E2}},'
    b'"if":{"required":["z"]},"then":{"not":{}},"x-vendor":{"deep":[null,{"b":1,"a":2}]}}'
)
TOOLS = (
    b'[{"title":"T","name":"odd","vendor":' + NUMBERS + b',"description":' + WORDS + b',"inputSchema":' + SCHEMA + b"}]"
)
CONTENT = b'[{"vendor":null,"type":"text","text":' + WORDS + b',"annotations":{"priority":1.0,"by":' + NUMBERS + b"}}]"
ARGUMENTS = b'{"numbers":' + NUMBERS + b',"words":' + WORDS + b',"b":[ ],"a":{ }}'
CACHED = b'"ttlMs":0,"cacheScope":"private","resultType":"complete"'
CAPABILITIES = b'"capabilities":{"tools":{}}'
RESULTS = {
    "server/discover": b'{"supportedVersions":["2026-07-28"],' + CAPABILITIES + b"," + CACHED + b"}",
    "initialize": b'{"protocolVersion":"2025-11-25","serverInfo":{"name":"odd","version":"1"},' + CAPABILITIES + b"}",
    "tools/list": b'{"tools":' + TOOLS + b"," + CACHED + b"}",
    "tools/call": b'{"vendor":'
    + NUMBERS
    + b',"resultType":"complete","structuredContent":'
    + NUMBERS
    + b',"content":'
    + CONTENT
    + b"}",
}


def verbatim(era):
    """Return how a server of one era answers, in these very bytes."""

    def answer(request):
        if request.verb != "POST":
            return whole(b"", status="405 Method Not Allowed")
        message = request.message
        if "id" not in message:
            return whole(b"", status="202 Accepted")
        request_id = json.dumps(message["id"]).encode()
        unknown = {LEGACY: "server/discover", MODERN: "initialize"}[era]
        result = RESULTS.get(message["method"]) if message["method"] != unknown else None
        if result is None:
            error = b'{"code":-32601,"message":"Method not found"}'
            return whole(b'{"jsonrpc":"2.0","id":' + request_id + b',"error":' + error + b"}")
        return whole(b'{"jsonrpc":"2.0","id":' + request_id + b',"result":' + result + b"}")

    return always(answer)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def system(tmp_path_factory):
    running = System(tmp_path_factory.mktemp("fidelity"))
    try:
        await running.start()
        running.urls, running.tokens = [await running.gateway()], {}
        async with serving(verbatim(LEGACY)) as old, serving(verbatim(MODERN)) as new:
            running.upstreams = {LEGACY: old, MODERN: new}
            for name, upstream in (("old", old), ("new", new)):
                await running.server(name, url=upstream.url)
                await running.project(name, name)
                running.tokens[name] = await running.token(name, "agent", "role:run,resource:servers")
            yield running
    finally:
        await running.stop()


async def answered(system, project, era, method, params):
    """Return the bytes of an answer; the params are raw too."""
    async with http(system, project) as (client, url):
        if era == LEGACY:
            _, headers = await open_session(client, url)
            return (await ask(client, url, method, params, **headers)).content
        return (await ask_modern(client, url, method, params)).content


ENDS = pytest.mark.parametrize("client", [LEGACY, MODERN])
PROJECTS = pytest.mark.parametrize("project", ["old", "new"])


@ENDS
@PROJECTS
async def test_a_tool_is_listed_as_its_server_wrote_it(system, client, project):
    assert TOOLS in await answered(system, project, client, "tools/list", {})


@ENDS
@PROJECTS
async def test_a_result_comes_as_its_server_wrote_it(system, client, project):
    got = await answered(system, project, client, "tools/call", {"name": "odd", "arguments": {}})

    for part in (b'"content":' + CONTENT, b'"structuredContent":' + NUMBERS, b'"vendor":' + NUMBERS):
        assert part in got


@ENDS
@PROJECTS
async def test_arguments_reach_the_server_as_the_client_wrote_them(system, client, project):
    upstream = system.upstreams[LEGACY if project == "old" else MODERN]

    await answered(system, project, client, "tools/call", {"name": "odd", "arguments": Raw(ARGUMENTS)})

    assert b'"arguments":' + ARGUMENTS in upstream.requests[-1].body
    assert upstream.requests[-1].method == "tools/call"
