"""What the gateway answers to what is not an ordinary request."""

import asyncio
import gzip
import io
import json

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus.bearer import mint
from mcpctl.bus.contracts import catalog, token

pytestmark = pytest.mark.asyncio(loop_scope="session")

BOTH = "application/json, text/event-stream"
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest_asyncio.fixture(loop_scope="session")
async def http(system):
    async with aiohttp.ClientSession(base_url=system.urls[0]) as session:
        yield session


def modern(method="tools/list", request_id=1, meta=None, **params):
    return {
        "jsonrpc": "2.0",
        "id": request_id,
        "method": method,
        "params": {**params, "_meta": META if meta is None else meta},
    }


def headers(bearer, method="tools/list", **more):
    base = {"Authorization": f"Bearer {bearer}", "Accept": BOTH, "MCP-Protocol-Version": "2026-07-28"}
    return {**base, "Mcp-Method": method, **{name.replace("_", "-"): value for name, value in more.items()}}


async def post(http, body, sent, path="/projects/dual/mcp"):
    async with http.post(path, json=body, headers=sent) as answer:
        text = await answer.text()
        return answer, json.loads(text) if text.startswith("{") else text


async def test_no_bearer_is_401_with_a_bare_challenge(http):
    answer, _ = await post(http, modern(), {"Accept": BOTH})

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mcpctl"'


@pytest.mark.parametrize("bearer", ["nonsense", mint("pat")[:-1] + "?", mint("pat")])
async def test_a_bearer_that_never_was_is_told_nothing_more(http, bearer):
    answer, body = await post(http, modern(), headers(bearer.replace("?", "0")))

    assert answer.status == 401
    challenge = answer.headers["WWW-Authenticate"]
    assert 'error="invalid_token"' in challenge
    assert 'error_description="the token is not valid"' in challenge
    assert "resource_metadata" not in challenge
    assert body["error"]["message"] == "the token is not valid"


@pytest.mark.parametrize("value", ["Bearer", "Bearer a b", "Bearer ", "bearer {}"])
async def test_a_malformed_authorization_header_is_400(http, value):
    answer, _ = await post(http, modern(), {"Authorization": value, "Accept": BOTH})

    assert answer.status == 400
    assert 'error="invalid_request"' in answer.headers["WWW-Authenticate"]


async def test_another_scheme_is_401(http):
    answer, _ = await post(http, modern(), {"Authorization": "Basic YTpi", "Accept": BOTH})

    assert answer.status == 401


async def test_a_bearer_in_the_url_is_refused(http, system):
    answer, _ = await post(http, modern(), {"Accept": BOTH}, f"/projects/dual/mcp?access_token={system.tokens['dual']}")

    assert answer.status == 400


async def test_another_projects_token_is_403_and_so_is_an_unknown_project(http, system):
    answers = [
        await post(http, modern(), headers(system.tokens["old"]), f"/projects/{name}/mcp")
        for name in ("dual", "not-there", "a%2Fb", "ALPHA", "a.b", "%00")
    ]

    assert {answer.status for answer, _ in answers} == {403}
    texts = [body["error"]["message"].replace("not-there", "dual") for _, body in answers[:2]]
    assert texts[0] == texts[1]


async def test_an_unknown_server_of_the_own_project_is_403(http, system):
    answer, _ = await post(http, modern(), headers(system.tokens["dual"]), "/projects/dual/servers/not-there/mcp")

    assert answer.status == 403


@pytest.mark.parametrize("method", ["PUT", "PATCH", "GET"])
async def test_a_wrong_method_is_405(http, system, method):
    bearer = {"Authorization": f"Bearer {system.tokens['dual']}", "Accept": "text/event-stream"}
    async with http.request(method, "/projects/dual/mcp", headers=bearer) as answer:
        assert answer.status == 405
        assert "POST" in answer.headers["Allow"]


async def test_a_wrong_media_type_or_coding_is_415(http, system):
    sent = headers(system.tokens["dual"])
    async with http.post("/projects/dual/mcp", data="x", headers={**sent, "Content-Type": "text/plain"}) as answer:
        assert answer.status == 415
    packed = gzip.compress(json.dumps(modern()).encode())
    coded = {**sent, "Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with http.post("/projects/dual/mcp", data=packed, headers=coded) as answer:
        assert answer.status == 415


async def test_a_body_past_the_limit_is_413(http, system):
    sent = {**headers(system.tokens["dual"]), "Content-Type": "application/json"}
    body = io.BytesIO(json.dumps(modern(pad="x" * 5_000_000)).encode())
    async with http.post("/projects/dual/mcp", data=body, headers=sent) as answer:
        assert answer.status == 413
        assert (await answer.json())["error"]["code"] == -32603


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":NaN}}', -32700),
        (b"[" * 100_000, -32600),
        (b'{"a":' * 100_000, -32700),
        (b"\xff\xfe", -32700),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"arguments":"\xff"}}', -32700),
        (b'{"jsonrpc":"2.0","id":"\xff","method":"ping"}', -32700),
        (b"[]", -32600),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', -32600),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600),
        (b'{"id":1,"method":"ping"}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', -32600),
        (b'{"jsonrpc":"2.0","id":1}', -32600),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":7}}', -32602),
    ],
)
async def test_what_is_no_request_is_400_with_a_json_rpc_error(http, system, body, code):
    sent = {**headers(system.tokens["dual"]), "Content-Type": "application/json"}
    async with http.post("/projects/dual/mcp", data=body, headers=sent) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["code"] == code


@pytest.mark.parametrize("request_id", [7, "seven", 2**70, ""])
async def test_the_id_comes_back_as_it_was(http, system, request_id):
    answer, body = await post(http, modern(request_id=request_id), headers(system.tokens["dual"]))

    assert answer.status == 200
    assert body["id"] == request_id
    assert type(body["id"]) is type(request_id)


MISMATCHES = [
    ({"meta": {}}, {}, 400, -32602),
    ({"meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}, {}, 400, -32602),
    ({}, {"MCP_Protocol_Version": "2025-11-25"}, 400, -32020),
    ({}, {"Mcp_Method": "tools/call"}, 400, -32020),
    ({"meta": {**META, "io.modelcontextprotocol/protocolVersion": "v999"}}, {}, 400, -32020),
    (
        {"meta": {**META, "io.modelcontextprotocol/protocolVersion": "v999"}},
        {"MCP_Protocol_Version": "v999"},
        400,
        -32022,
    ),
]


@pytest.mark.parametrize(("message", "sent", "status", "code"), MISMATCHES)
async def test_a_stateless_request_must_say_the_same_in_body_and_headers(http, system, message, sent, status, code):
    answer, body = await post(http, modern(**message), headers(system.tokens["dual"], **sent))

    assert (answer.status, body["error"]["code"], body["id"]) == (status, code, 1)


async def test_the_header_mcp_name_must_repeat_the_name(http, system):
    call = modern("tools/call", name="echo", arguments={"text": "x"})
    for value, status in (("echo", 200), ("=?base64?ZWNobw==?=", 200), ("add", 400), ("=?base64?!?=", 400)):
        answer, _ = await post(http, call, headers(system.tokens["dual"], "tools/call", Mcp_Name=value))
        assert answer.status == status
    answer, body = await post(http, call, headers(system.tokens["dual"], "tools/call"))
    assert (answer.status, body["error"]["code"]) == (400, -32020)


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "nonsense"])
async def test_a_method_that_the_stateless_revision_lacks_is_404(http, system, method):
    answer, body = await post(http, modern(method), headers(system.tokens["dual"], method))

    assert (answer.status, body["error"]["code"]) == (404, -32601)


async def test_the_supported_versions_are_those_of_discover(http, system):
    _, found = await post(http, modern("server/discover"), headers(system.tokens["dual"], "server/discover"))
    refused = {**META, "io.modelcontextprotocol/protocolVersion": "v999"}
    sent = headers(system.tokens["dual"], MCP_Protocol_Version="v999")
    _, body = await post(http, modern(meta=refused), sent)

    assert body["error"]["data"]["supported"] == found["result"]["supportedVersions"]


async def test_neither_a_session_nor_a_stateless_request_is_400(http, system):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    answer, said = await post(http, body, {"Authorization": f"Bearer {system.tokens['dual']}", "Accept": BOTH})

    assert answer.status == 400
    assert "initialize" in said["error"]["message"]


async def test_an_unknown_session_is_404(http, system):
    sent = {"Authorization": f"Bearer {system.tokens['dual']}", "Accept": BOTH, "Mcp-Session-Id": "x" * 43}
    answer, _ = await post(http, {"jsonrpc": "2.0", "id": 1, "method": "ping"}, sent)

    assert answer.status == 404


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("Host", "evil.example.com", 421),
        ("Origin", "https://evil.example.com", 403),
        ("Origin", "null", 403),
        ("Origin", "http://[", 403),
        ("traceparent", "nonsense", 200),
        ("Host", "localhost:1", 200),
        ("Origin", "http://localhost:5173", 200),
    ],
)
async def test_host_and_origin_are_checked(http, system, name, value, status):
    answer, _ = await post(http, modern(), {**headers(system.tokens["dual"]), name: value})

    assert answer.status == status


async def test_an_unknown_path_is_404_in_json(http):
    async with http.get("/nowhere") as answer:
        assert answer.status == 404
        assert "/projects/<project>/mcp" in (await answer.json())["error"]


async def test_health_and_readiness(http):
    async with http.get("/healthz") as answer:
        assert answer.status == 200
    async with http.get("/readyz") as answer:
        assert (answer.status, (await answer.json())["status"]) == (200, "ok")


async def test_an_expired_token_is_told_so(http, system):
    issue = token.IssueToken(bearer=system.bearer, project="dual", name="short", ttl_seconds=1)
    bearer = (await system.operator.call(token.issue, issue)).bearer
    async with asyncio.timeout(10):
        while True:
            answer, _ = await post(http, modern(), headers(bearer))
            if answer.status == 401:
                break

    assert 'error_description="the token is expired"' in answer.headers["WWW-Authenticate"]


async def test_a_deleted_project_takes_its_tokens_along(http, system):
    await system.project("brief")
    bearer = await system.token("brief", "agent")
    answer, _ = await post(http, modern(), headers(bearer), "/projects/brief/mcp")
    assert answer.status == 200

    delete = catalog.DeleteProject(bearer=system.bearer, name="brief")
    await system.operator.call(catalog.delete_project, delete)
    async with asyncio.timeout(5):
        while answer.status != 401:
            answer, _ = await post(http, modern(), headers(bearer), "/projects/brief/mcp")
    await system.project("brief")
    answer, _ = await post(http, modern(), headers(bearer), "/projects/brief/mcp")
    assert 'error_description="the token is revoked"' in answer.headers["WWW-Authenticate"]


async def test_what_is_refused_unread_is_answered_without_an_id(http, system):
    for sent in ({}, {**headers(system.tokens["dual"]), "Host": "evil.example.com"}, headers(system.tokens["old"])):
        answer, body = await post(http, modern(), sent)

        assert answer.status in (401, 421, 403)
        assert "id" not in body


@pytest.mark.parametrize("session_id", ["with space", "x" * 300, "é"])
async def test_a_session_id_that_cannot_be_one_is_404(http, system, session_id):
    sent = {"Authorization": f"Bearer {system.tokens['dual']}", "Accept": BOTH, "Mcp-Session-Id": session_id}
    answer, _ = await post(http, {"jsonrpc": "2.0", "id": 1, "method": "ping"}, sent)

    assert answer.status == 404
