"""The control plane over HTTP: `/api/v1`."""

import asyncio
import io
import json

import aiohttp
import pytest
import pytest_asyncio

from mcpctl.bus.bearer import digest, mint
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import audit, token
from mcpctl.bus.identity import AdmittedIdentity
from tests.gateway.test_edge import headers as mcp_headers
from tests.gateway.test_edge import modern
from tests.system import System

pytestmark = pytest.mark.asyncio(loop_scope="session")

PASSWORD = "correct horse"


class Client:
    """Asks a gateway's `/api/v1` with one bearer."""

    def __init__(self, http, url, bearer):
        self.http, self.url, self.bearer = http, f"{url}/api/v1", bearer

    async def ask(self, method, path, body=None, *, headers=None, data=None):
        sent = {"Authorization": f"Bearer {self.bearer}"} if self.bearer else {}
        async with self.http.request(
            method, self.url + path, json=body, data=data, headers=sent | (headers or {})
        ) as answer:
            text = await answer.text()
            assert answer.headers["Cache-Control"] == "no-store"
            if text:
                assert answer.content_type == "application/json"
            return answer, json.loads(text) if text else None


@pytest_asyncio.fixture(loop_scope="session")
async def http():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def admin(system, http):
    return Client(http, system.urls[0], system.bearer)


@pytest.fixture
def agent(system, http):
    return Client(http, system.urls[0], system.tokens["dual"])


@pytest.fixture
def nobody(system, http):
    return Client(http, system.urls[0], None)


def fault(answer, body, status, code):
    assert answer.status == status, body
    assert body["error"]["code"] == code
    return body["error"]["message"]


async def new_session(system):
    """Log the admin in once more, for a session that may end."""
    login = await Bus.connect(system.nats.url, AdmittedIdentity("login"))
    session = await login.call(token.login, token.Login(user="admin", password=PASSWORD))
    await login.close()
    return session.bearer


# --- what is asked and answered ---


async def test_a_project_is_created_shown_changed_and_deleted(admin):
    given = {"name": "over-http", "labels": {"team": "a"}, "quota": {"requests_per_second": 5}}
    answer, created = await admin.ask("POST", "/projects", {"spec": given})
    assert answer.status == 201
    assert created["spec"] == {
        "name": "over-http",
        "labels": {"team": "a"},
        "description": "",
        "servers": [],
        "naming": "plain",
        "max_token_ttl": None,
        "gate": None,
        "pin_tools": True,
        "quota": {"requests_per_second": 5.0, "burst": None, "concurrent_calls": None, "streams": None},
    }

    answer, shown = await admin.ask("GET", "/projects/over-http")
    assert (answer.status, shown) == (200, created)

    changed = {"spec": {"description": "changed"}, "revision": created["revision"]}
    answer, body = await admin.ask("PUT", "/projects/over-http", changed)
    assert (answer.status, body["spec"]["name"], body["spec"]["description"]) == (200, "over-http", "changed")
    assert body["spec"]["quota"] is None
    message = fault(*await admin.ask("PUT", "/projects/over-http", changed), 409, "conflict")
    assert "over-http" in message
    wrong = {"spec": {"quota": {"streams": -1}}}
    assert "spec.quota.streams: " in fault(*await admin.ask("PUT", "/projects/over-http", wrong), 400, "bad_request")

    answer, body = await admin.ask("DELETE", "/projects/over-http")
    assert (answer.status, body) == (204, None)
    fault(*await admin.ask("GET", "/projects/over-http"), 404, "not_found")


async def test_a_prompt_is_created_listed_changed_and_deleted(admin):
    gate = {"mode": "strict", "llm": {"base_url": "http://127.0.0.1:9/v1", "model": "small"}}
    answer, body = await admin.ask("POST", "/projects", {"spec": {"name": "briefed", "gate": gate}})
    assert (answer.status, body["spec"]["gate"]["llm"]["timeout_ms"]) == (201, 5000)
    spec = {"name": "over-http", "project": "briefed", "tags": ["a"], "content": "né"}

    answer, created = await admin.ask("POST", "/prompts", {"spec": spec})
    assert (answer.status, created["spec"]["priority"], created["revision"]) == (201, 5, 1)
    answer, shown = await admin.ask("GET", "/prompts/over-http")
    assert (answer.status, shown) == (200, created)
    _, listed = await admin.ask("GET", "/prompts?project=briefed")
    assert listed == {"items": [created]}
    _, index = await admin.ask("GET", "/projects/briefed/prompts")
    assert index == {"items": [{"name": "over-http", "tags": ["a"], "priority": 5, "summary": "", "size": 3}]}

    changed = {"spec": {**spec, "priority": 9}, "revision": 1}
    answer, body = await admin.ask("PUT", "/prompts/over-http", changed)
    assert (answer.status, body["spec"]["priority"], body["revision"]) == (200, 9, 2)
    fault(*await admin.ask("PUT", "/prompts/over-http", changed), 409, "conflict")
    fault(*await admin.ask("POST", "/prompts", {"spec": {"name": "empty"}}), 400, "bad_request")

    answer, body = await admin.ask("DELETE", "/prompts/over-http")
    assert (answer.status, body) == (204, None)
    fault(*await admin.ask("GET", "/prompts/over-http"), 404, "not_found")
    await admin.ask("DELETE", "/projects/briefed")


async def test_an_agent_sees_the_prompts_of_its_project_alone(admin, agent):
    await admin.ask("POST", "/prompts", {"spec": {"name": "of-dual", "project": "dual", "content": "x"}})
    try:
        answer, _ = await agent.ask("GET", "/projects/dual/prompts")
        assert answer.status == 200
        fault(*await agent.ask("GET", "/projects/other/prompts"), 403, "forbidden")
        fault(*await agent.ask("GET", "/prompts/nowhere"), 403, "forbidden")
        fault(*await agent.ask("DELETE", "/prompts/of-dual"), 403, "forbidden")
    finally:
        answer, _ = await admin.ask("DELETE", "/prompts/of-dual")
    assert answer.status == 204


async def test_a_second_server_in_a_plain_project_is_a_conflict_until_prefixes_are_asked_for(admin):
    for name in ("rest-a", "rest-b"):
        await admin.ask("POST", "/servers", {"spec": {"name": name, "url": "http://127.0.0.1:9/mcp"}})
    await admin.ask("POST", "/projects", {"spec": {"name": "plain-over-http", "servers": ["rest-a"]}})
    both = {"servers": ["rest-a", "rest-b"]}

    message = fault(*await admin.ask("PUT", "/projects/plain-over-http", {"spec": both}), 409, "conflict")
    answer, body = await admin.ask("PUT", "/projects/plain-over-http", {"spec": both | {"naming": "prefix"}})

    assert "naming: prefix" in message
    assert (answer.status, body["spec"]["naming"]) == (200, "prefix")


async def test_the_body_may_repeat_the_name_in_the_path_but_not_contradict_it(admin):
    await admin.ask("POST", "/projects", {"spec": {"name": "repeated"}})

    answer, _ = await admin.ask("PUT", "/projects/repeated", {"spec": {"name": "repeated"}})
    assert answer.status == 200
    message = fault(*await admin.ask("PUT", "/projects/repeated", {"spec": {"name": "other"}}), 400, "bad_request")
    assert message == "spec.name: the body contradicts the path"
    message = fault(*await admin.ask("PATCH", "/users/admin", {"name": "ann", "labels": {}}), 400, "bad_request")
    assert message == "name: the body contradicts the path"
    await admin.ask("DELETE", "/projects/repeated")


async def test_a_put_without_a_specification_empties_nothing(admin):
    message = fault(*await admin.ask("PUT", "/projects/many", {}), 400, "bad_request")

    assert message == "spec: Field required"
    assert (await admin.ask("GET", "/projects/many"))[1]["spec"]["servers"] == ["dual", "old", "pipe"]


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": "x", "valeu": SECRET, "more": 1}, "unknown member: valeu, more; value: Field required"),
        ({"name": "x", "value": SECRET, "bearer": SECRET}, "unknown member: bearer"),
        ({"name": "x", "value": [SECRET]}, "value: Input should be a valid string"),
        ({"name": "x", "value": SECRET, "replace": "true"}, "replace: Input should be a valid boolean"),
        ({"name": SECRET + " ", "value": SECRET}, None),
        ({"name": "x", "value": SECRET, "labels": {"team": SECRET + " "}}, None),
        ([SECRET], "the body must be a JSON object"),
        (None, "name: Field required; value: Field required"),
    ],
)
async def test_a_wrong_member_is_named_and_its_value_is_not_told(admin, body, message):
    told = fault(*await admin.ask("POST", "/secrets", body), 400, "bad_request")

    assert message is None or told == message
    assert message is not None or SECRET not in told


async def test_an_unknown_member_deep_inside_is_named(admin):
    spec = {"name": "x", "url": "http://127.0.0.1/", "heders": {}}

    told = fault(*await admin.ask("POST", "/servers", {"spec": spec}), 400, "bad_request")

    assert told == "unknown member: spec.heders"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/rbac?of_tokens=yes", "of_tokens: Input should be a valid boolean"),
        ("/rbac?of_tokens=true&of_tokens=true", "of_tokens: given twice in the query"),
        ("/rbac?of_token=true&x=1", "unknown in the query: of_token, x"),
        ("/mcptokens/introspect?token=abc", "unknown in the query: token"),
        ("/projects/UPPER", None),
    ],
)
async def test_a_wrong_query_or_path_is_400(admin, path, message):
    told = fault(*await admin.ask("GET", path), 400, "bad_request")

    assert message is None or told == message
    assert message is not None or told.startswith("name: ")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"spec": {"name": "a"}, "spec": {"name": "b"}}', "the body names spec twice"),
        (b'{"spec": {"name": "a", "name": "b"}}', "the body names name twice"),
        (b'{"spec": {"name": "a"}, "revision": 18446744073709551617}', "a whole number of the body is beyond 64 bits"),
    ],
)
async def test_what_two_readers_could_take_for_two_things_is_400(admin, data, message):
    json_type = {"Content-Type": "application/json"}

    assert fault(*await admin.ask("PUT", "/projects/a", data=data, headers=json_type), 400, "bad_request") == message


async def test_what_is_no_json_is_400_and_no_media_type_is_415(admin):
    json_type = {"Content-Type": "application/json"}
    for data in (b"{", b'{"spec": NaN}', b"\xff", b'{"a":' + b"[" * 400 + b"]" * 400 + b"}"):
        fault(*await admin.ask("POST", "/projects", data=data, headers=json_type), 400, "bad_request")
    for headers in ({"Content-Type": "text/plain"}, json_type | {"Content-Encoding": "gzip"}):
        fault(*await admin.ask("POST", "/projects", data=b"{}", headers=headers), 415, "unsupported_media_type")


async def test_a_body_that_is_too_long_is_413_and_sooner_where_there_is_no_bearer(admin, nobody):
    long = {"Content-Type": "application/json"}
    fault(
        *await admin.ask("POST", "/projects", data=io.BytesIO(b" " * (4 * 2**20 + 1)), headers=long), 413, "too_large"
    )
    fault(*await nobody.ask("POST", "/login", data=b" " * (16 * 2**10 + 1), headers=long), 413, "too_large")
    fault(*await admin.ask("POST", "/projects", data=b" " * (16 * 2**10 + 1), headers=long), 400, "bad_request")


async def test_a_get_takes_no_body(admin):
    assert fault(*await admin.ask("GET", "/projects", {}), 400, "bad_request") == "GET takes no body"


async def test_unknown_paths_and_methods_are_told_as_such(admin, nobody):
    fault(*await nobody.ask("GET", "/nothing/here"), 404, "not_found")
    answer, body = await admin.ask("PUT", "/projects")
    fault(answer, body, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST, GET, HEAD, OPTIONS"
    answer, body = await admin.ask("DELETE", "/mcptokens/introspect")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST, HEAD, OPTIONS")


async def test_head_is_get_without_its_body_and_options_opens_nothing_to_other_pages(admin, nobody):
    answer, body = await admin.ask("HEAD", "/projects")
    assert (answer.status, body) == (200, None)
    answer, body = await nobody.ask("OPTIONS", "/projects")
    assert (answer.status, answer.headers["Allow"], body) == (204, "POST, GET, HEAD, OPTIONS", None)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_the_document_needs_no_bearer_and_is_the_same_everywhere(system, http):
    first, second = [await Client(http, url, None).ask("GET", "/openapi.json") for url in system.urls]

    assert first[0].status == 200
    assert first[1] == second[1]
    assert first[1]["openapi"] == "3.1.0"


async def test_two_gateways_answer_alike(system, http, admin):
    await admin.ask("POST", "/users", {"name": "both", "password": PASSWORD})
    other = Client(http, system.urls[1], system.bearer)

    shown = [(await client.ask("GET", "/users/both"))[1] for client in (admin, other)]
    assert shown[0] == shown[1]
    assert (await other.ask("DELETE", "/users/both"))[0].status == 204
    fault(*await admin.ask("GET", "/users/both"), 404, "not_found")


async def test_the_trace_of_a_request_is_that_of_its_audit_event(system, admin):
    trace = "1234567890abcdef1234567890abcdef"
    sent = {"traceparent": f"00-{trace}-1234567890abcdef-01"}
    await admin.ask("POST", "/projects", {"spec": {"name": "traced"}}, headers=sent)
    asked = audit.Follow(bearer=system.bearer, filter=audit.Filter(kind="catalog.create_project"), cursor=0)
    async with asyncio.timeout(20):
        found = [None]
        while "traced" not in found:
            entries = await system.operator.call(audit.follow, asked)
            found = {entry.event.name: entry.event.trace for entry in entries.items}
            asked = asked.model_copy(update={"cursor": entries.cursor})

    assert trace in found["traced"]


# --- who is let in ---


async def test_no_bearer_is_401_with_the_challenge_of_the_mcp_endpoint(system, http, nobody):
    for bearer in (None, mint("ses"), mint("pat"), "nonsense"):
        answer, body = await Client(http, system.urls[0], bearer).ask("GET", "/projects")
        fault(answer, body, 401, "unauthenticated")
        sent = mcp_headers(bearer)
        if bearer is None:
            del sent["Authorization"]
        async with http.post(f"{system.urls[0]}/projects/dual/mcp", json=modern(), headers=sent) as refused:
            assert answer.headers["WWW-Authenticate"] == refused.headers["WWW-Authenticate"]


async def test_a_malformed_authorization_header_is_400(nobody):
    for value in ("Bearer", "Bearer a b"):
        answer, body = await nobody.ask("GET", "/projects", headers={"Authorization": value})
        fault(answer, body, 400, "bad_request")
        assert 'error="invalid_request"' in answer.headers["WWW-Authenticate"]
    answer, body = await nobody.ask("GET", "/projects", headers={"Authorization": "Bearer ä"})
    fault(answer, body, 401, "unauthenticated")  # it has the form of one, and is none


async def test_another_host_is_421_and_another_pages_origin_403(admin):
    for path in ("/projects", "/openapi.json"):
        fault(*await admin.ask("GET", path, headers={"Host": "evil.example"}), 421, "misdirected_request")
        fault(*await admin.ask("GET", path, headers={"Origin": "http://evil.example"}), 403, "forbidden")


async def test_a_session_that_has_ended_is_refused_at_once_by_every_gateway(system, http):
    bearer = await new_session(system)
    first, second = (Client(http, url, bearer) for url in system.urls)
    for client in (first, second):
        assert (await client.ask("GET", "/whoami"))[1]["name"] == "admin"

    assert (await first.ask("POST", "/logout"))[0].status == 204

    async with asyncio.timeout(5):
        for client in (first, second):
            answer, body = await client.ask("GET", "/whoami")
            assert fault(answer, body, 401, "unauthenticated") == "the token is revoked"
            assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


async def test_a_login_gives_a_session_and_a_wrong_password_does_not(nobody, system, http):
    answer, body = await nobody.ask("POST", "/login", {"user": "admin", "password": PASSWORD})
    assert answer.status == 200
    assert (await Client(http, system.urls[0], body["bearer"]).ask("GET", "/whoami"))[1]["name"] == "admin"

    answer, body = await nobody.ask("POST", "/login", {"user": "admin", "password": "wrong"})
    assert fault(answer, body, 401, "unauthenticated") == "wrong user or password"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="mcpctl"'


async def test_guessing_passwords_over_http_is_slowed_down(nobody):
    guesses = [await nobody.ask("POST", "/login", {"user": "guessed", "password": str(n)}) for n in range(7)]

    assert [answer.status for answer, _ in guesses] == [401] * 5 + [403] * 2
    assert "wait" in guesses[-1][1]["error"]["message"]


async def test_a_right_that_is_missing_is_403(system, http, admin):
    await admin.ask("POST", "/users", {"name": "plain", "password": PASSWORD})
    _, session = await Client(http, system.urls[0], None).ask("POST", "/login", {"user": "plain", "password": PASSWORD})
    plain = Client(http, system.urls[0], session["bearer"])

    assert (await plain.ask("GET", "/whoami"))[0].status == 200
    fault(*await plain.ask("GET", "/users"), 403, "forbidden")
    fault(*await plain.ask("POST", "/projects", {"spec": {"name": "mine"}}), 403, "forbidden")


# --- what an mcptoken reaches ---

OUTSIDE = (
    ("GET", "/projects"),
    ("POST", "/projects"),
    ("GET", "/projects/old"),
    ("GET", "/projects/there-is-none"),
    ("GET", "/projects/NO_NAME"),
    ("GET", "/projects/dual%2Fmcptokens"),
    ("PUT", "/projects/old"),
    ("DELETE", "/projects/old"),
    ("GET", "/projects/old/mcptokens"),
    ("POST", "/projects/there-is-none/mcptokens"),
    ("GET", "/users"),
    ("GET", "/users/admin"),
    ("GET", "/servers"),
    ("POST", "/secrets"),
    ("GET", "/mcptokens"),
    ("POST", "/mcptokens"),
    ("GET", f"/mcptokens/{'0' * 64}"),
    ("POST", f"/mcptokens/{'0' * 64}/revoke"),
    ("POST", "/logout"),
    ("POST", "/can-i"),
    ("POST", "/audit/query"),
)


async def test_an_mcptoken_is_refused_outside_of_its_project_in_the_same_words_everywhere(agent, admin, system):
    said = set()
    for method, path in OUTSIDE:
        said.add(fault(*await agent.ask(method, path), 403, "forbidden"))
    said.add(fault(*await agent.ask("DELETE", f"/mcptokens/{digest(agent.bearer)}"), 403, "forbidden"))
    said.add(fault(*await agent.ask("POST", "/mcptokens/introspect", {"token": system.bearer}), 403, "forbidden"))

    assert len(said) == 1
    assert (await admin.ask("GET", "/projects/old"))[0].status == 200


async def test_an_mcptoken_reaches_itself(agent):
    answer, who = await agent.ask("GET", "/whoami")
    assert (answer.status, who["kind"], who["project"]) == (200, "McpToken", "dual")
    assert (who["owner"]["groups"], who["parents"]) == ([], [])
    for method, body in (("GET", None), ("POST", {}), ("POST", {"token": agent.bearer})):
        answer, told = await agent.ask(method, "/mcptokens/introspect", body)
        assert (answer.status, told["active"], told["project"]) == (200, True, "dual")
    answer, shown = await agent.ask("GET", f"/mcptokens/{digest(agent.bearer)}")
    assert (answer.status, shown["name"], shown["owner"]["groups"]) == (200, "agent", [])


async def test_in_its_project_the_rights_of_an_mcptoken_decide(system, http, agent):
    bearer = await system.token("dual", "manager", "role:view,resource:projects", "role:edit,resource:mcptokens")
    manager = Client(http, system.urls[0], bearer)

    assert (await manager.ask("GET", "/projects/dual"))[0].status == 200
    answer, issued = await manager.ask("POST", "/projects/dual/mcptokens", {"name": "child", "quota": {"streams": 3}})
    assert (answer.status, issued["token"]["project"], issued["token"]["quota"]["streams"]) == (201, "dual", 3)
    fault(*await agent.ask("POST", "/projects/dual/mcptokens", {"name": "child-2"}), 403, "forbidden")
    fault(*await manager.ask("POST", "/projects/dual/mcptokens", {"name": "x", "project": "old"}), 400, "bad_request")


async def test_an_mcptoken_can_revoke_itself(system, http):
    bearer = await system.token("dual", "tired")
    tired = Client(http, system.urls[0], bearer)

    answer, revoked = await tired.ask("POST", f"/mcptokens/{digest(bearer)}/revoke")

    assert (answer.status, revoked["status"]) == (200, "revoked")
    fault(*await tired.ask("GET", "/whoami"), 401, "unauthenticated")


# --- tokens over HTTP ---


async def test_a_token_is_issued_shown_revoked_and_deleted_by_its_id(admin, system, http):
    answer, issued = await admin.ask("POST", "/mcptokens", {"project": "dual", "name": "by-id"})
    assert answer.status == 201
    path = f"/mcptokens/{issued['token']['id']}"
    assert issued["token"]["id"] == digest(issued["bearer"])
    assert (await admin.ask("GET", path))[1] == issued["token"]
    assert issued["token"] in (await admin.ask("GET", "/mcptokens?project=dual"))[1]["items"]

    assert (await admin.ask("POST", f"{path}/revoke"))[1]["status"] == "revoked"
    holder = Client(http, system.urls[0], issued["bearer"])
    answer, told = await holder.ask("GET", "/mcptokens/introspect")
    assert (answer.status, told) == (200, {"active": False, "status": "revoked"})
    assert (await admin.ask("DELETE", path))[0].status == 204
    fault(*await admin.ask("GET", path), 404, "not_found")


async def test_an_introspection_tells_an_unknown_bearer_that_it_is_not_active_and_nothing_more(system, http, nobody):
    for bearer in (mint("pat"), mint("ses"), "nonsense"):
        answer, told = await Client(http, system.urls[0], bearer).ask("GET", "/mcptokens/introspect")
        assert (answer.status, told) == (200, {"active": False})
    fault(*await nobody.ask("GET", "/mcptokens/introspect"), 401, "unauthenticated")


async def test_a_viewer_of_mcptokens_introspects_by_json_and_by_form(system, http, admin, agent):
    answer, told = await admin.ask("POST", "/mcptokens/introspect", {"token": agent.bearer})
    assert (answer.status, told["active"], told["name"]) == (200, True, "agent")
    assert None not in told.values()
    form = {"token": agent.bearer, "token_type_hint": "access_token"}
    assert (await admin.ask("POST", "/mcptokens/introspect", data=form))[1] == told
    for unknown in (mint("pat"), "nonsense"):
        answer, told = await admin.ask("POST", "/mcptokens/introspect", data={"token": unknown})
        assert (answer.status, told) == (200, {"active": False})
    told = fault(*await admin.ask("POST", "/mcptokens/introspect", data={"tokn": "a"}), 400, "bad_request")
    assert told == "unknown member: tokn"
    fault(*await admin.ask("POST", "/projects", data={"spec": "x"}), 415, "unsupported_media_type")
    refused = Client(http, system.urls[0], mint("ses"))
    fault(*await refused.ask("POST", "/mcptokens/introspect", {"token": agent.bearer}), 401, "unauthenticated")


async def test_what_is_refused_at_the_edge_is_audited(system, agent):
    fault(*await agent.ask("GET", "/projects/pipe"), 403, "forbidden")
    follow = audit.Follow(bearer=system.bearer, project="pipe", filter=audit.Filter(kind="edge"), cursor=0)
    async with asyncio.timeout(20):
        found = await system.operator.call(audit.follow, follow)

    assert [entry.event.token_name for entry in found.items] == ["agent"]


# --- parts that are away ---


async def test_a_missing_actor_is_503_at_once_and_so_is_a_missing_bus(tmp_path, http):
    running = System(tmp_path)
    try:
        await running.start("token", "rbac", "session", "audit")
        admin = Client(http, await running.gateway(), running.bearer)
        assert (await admin.ask("GET", "/users"))[0].status == 200

        async with asyncio.timeout(1):
            answer, body = await admin.ask("GET", "/projects")
        assert fault(answer, body, 503, "unavailable") == "no catalog actor answers on the bus"
        assert answer.headers["Retry-After"] == "1"

        await running.operator.close()
        await running.nats.stop()
        for method, path, asked in (("GET", "/users", None), ("POST", "/login", {"user": "a", "password": "b"})):
            async with asyncio.timeout(5):
                answer, body = await admin.ask(method, path, asked)
                while answer.status != 503:  # until the gateway has noticed
                    answer, body = await admin.ask(method, path, asked)
            assert answer.headers["Retry-After"] == "1"
    finally:
        await running.stop()
