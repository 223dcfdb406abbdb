"""Several servers behind one endpoint: merged lists and their cursors, what is offered, and who is missing."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from mcpctl.bus.contracts import catalog, router
from tests.gateway.test_edge import headers, modern
from tests.upstreams.raw_http import always, serving, whole

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIST_SECONDS = 2.0
"""MCPCTL_LIST_TIMEOUT_MS of the tests' routers."""


@dataclass
class Fake:
    """A stateless server of so many pages; the cursor of page n is `at-n`. `raw` is one tool's bytes."""

    name: str
    pages: int = 1
    raw: bytes = b""
    capabilities: dict = field(default_factory=lambda: {"tools": {}})
    instructions: str | None = None
    errors: dict = field(default_factory=dict)
    cursors: list = field(default_factory=list)

    def answer(self, request):
        message = request.message
        error = self.errors.get(message["method"])
        if error is not None:
            return whole(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
        result = json.dumps(self._result(message)).encode().replace(b'"RAW"', self.raw)
        return whole(b'{"jsonrpc":"2.0","id":%d,"result":%s}' % (message["id"], result))

    def _result(self, message):
        shared = {"resultType": "complete", "ttlMs": 30_000, "cacheScope": "public"}
        if message["method"] == "server/discover":
            found = {"supportedVersions": ["2026-07-28"], "capabilities": self.capabilities} | shared
            return found | ({"instructions": self.instructions} if self.instructions else {})
        if message["method"] != "tools/list":
            return {message["method"].split("/")[0]: []} | shared
        cursor = message["params"].get("cursor")
        self.cursors.append(cursor)
        page = 1 if cursor is None else int(cursor.removeprefix("at-"))
        tools = ["RAW"] if self.raw else [{"name": f"t{page}", "inputSchema": {"type": "object"}}]
        return {"tools": tools} | shared | ({"nextCursor": f"at-{page + 1}"} if page < self.pages else {})


@asynccontextmanager
async def project(system, name, *fakes, naming=None):
    """Serve fakes as the servers of a project, and yield a token for it."""
    async with AsyncExitStack() as running:
        for fake in fakes:
            server = await running.enter_async_context(serving(always(fake.answer)))
            await system.server(fake.name, url=server.url)
        await system.project(name, *(fake.name for fake in fakes), naming=naming)
        async with asyncio.timeout(60):
            yield await system.token(name, "agent", "role:run,resource:servers")


async def ask(system, bearer, name, method="tools/list", gateway=0, server=None, **params):
    """Ask a gateway, and return the whole answer as bytes."""
    message = modern(method)
    message["params"] |= params
    path = f"/projects/{name}" + (f"/servers/{server}" if server else "") + "/mcp"
    async with (
        aiohttp.ClientSession() as http,
        http.post(system.urls[gateway] + path, json=message, headers=headers(bearer, method)) as got,
    ):
        return await got.read()


async def listed(*args, **params):
    return json.loads(await ask(*args, **params))["result"]


def names(result):
    return [tool["name"] for tool in result["tools"]]


# --- cursors ---


async def test_the_first_page_is_that_of_every_server_in_the_projects_order_and_a_cursor_leads_on(system):
    fakes = Fake("walk-b", 3), Fake("walk-a", 1), Fake("walk-c", 2)
    async with project(system, "walk", *fakes) as bearer:
        found, cursor = [], {}
        for turn in range(3):
            page = await listed(system, bearer, "walk", gateway=turn % 2, **cursor)
            found.append(names(page))
            assert page["cacheScope"] == "private"
            cursor = {"cursor": page["nextCursor"]} if "nextCursor" in page else {}

    assert found == [["walk-b__t1", "walk-a__t1", "walk-c__t1"], ["walk-b__t2", "walk-c__t2"], ["walk-b__t3"]]
    assert cursor == {}
    assert [fake.cursors for fake in fakes] == [[None, "at-2", "at-3"], [None], [None, "at-2"]]


async def test_a_cursor_is_good_for_its_own_list_and_bearer_alone(system):
    fakes = Fake("bound-a", 2, capabilities={"tools": {}, "prompts": {}}), Fake("bound-b", 2)
    async with project(system, "bound", *fakes) as bearer:
        await system.project("bound-too", "bound-a", "bound-b")
        admin = system.bearer
        cursor = (await listed(system, bearer, "bound"))["nextCursor"]
        own = (await listed(system, admin, "bound-too"))["nextCursor"]
        flipped = ("B" if cursor[30] == "A" else "A").join((cursor[:30], cursor[31:]))

        refused = [
            await ask(system, admin, "bound", cursor=cursor),
            await ask(system, admin, "bound", cursor=own),
            await ask(system, bearer, "bound", "prompts/list", cursor=cursor),
            *[await ask(system, bearer, "bound", cursor=bad) for bad in (flipped, "at-2", "", "ü", 7, [])],
        ]
        served = await listed(system, bearer, "bound", cursor=cursor)

    for answer in refused:
        error = json.loads(answer)["error"]
        assert (error["code"], error["message"].partition(":")[2]) == (-32602, " list again without one"), answer
    assert names(served) == ["bound-a__t2", "bound-b__t2"]


async def test_a_cursor_outlives_a_server_that_was_taken_out_of_the_project(system):
    fakes = Fake("leaving", 2), Fake("staying", 2)
    async with project(system, "shrinking", *fakes) as bearer:
        cursor = (await listed(system, bearer, "shrinking"))["nextCursor"]
        spec = catalog.ProjectSpec(name="shrinking", servers=("staying",))
        await system.operator.call(catalog.edit_project, catalog.EditProject(bearer=system.bearer, spec=spec))
        while names(await listed(system, bearer, "shrinking")) != ["staying__t1"]:
            await asyncio.sleep(0)
        page = await listed(system, bearer, "shrinking", cursor=cursor)

    assert names(page) == ["staying__t2"]
    assert "nextCursor" not in page
    assert "mcpctl/unavailable" not in page["_meta"]


async def test_a_server_that_refuses_its_own_cursor_is_missing_from_that_page_with_its_reason(system):
    forgetful = Fake("forgetful", 2)
    async with project(system, "partly-read", forgetful, Fake("mindful", 2)) as bearer:
        cursor = (await listed(system, bearer, "partly-read"))["nextCursor"]
        forgetful.errors["tools/list"] = {"code": -32602, "message": "what cursor?"}
        page = await listed(system, bearer, "partly-read", cursor=cursor)

    assert names(page) == ["mindful__t2"]
    assert "nextCursor" not in page
    assert page["ttlMs"] == 0
    assert "what cursor?" in page["_meta"]["mcpctl/unavailable"]["forgetful"]


async def test_the_only_servers_own_cursors_pass_through(system):
    fake = Fake("only", 2)
    async with project(system, "only", fake) as bearer:
        first = await listed(system, bearer, "only")
        second = await listed(system, bearer, "only", cursor="at-2")

    assert (names(first), first["nextCursor"]) == (["t1"], "at-2")
    assert (names(second), "nextCursor" in second) == (["t2"], False)
    assert fake.cursors == [None, "at-2"]


async def test_the_only_server_of_a_project_with_prefixes_has_its_own_names_at_its_own_endpoint(system):
    async with project(system, "growing", Fake("first", 2), naming="prefix") as bearer:
        whole_project = await listed(system, bearer, "growing")
        rest = await listed(system, bearer, "growing", cursor=whole_project["nextCursor"])
        single = await listed(system, bearer, "growing", server="first")

    assert names(whole_project) + names(rest) == ["first__t1", "first__t2"]
    assert (names(single), single["nextCursor"]) == (["t1"], "at-2")


# --- what a list is made of ---

STRANGE = (
    '{"zeta":12345678901234567890123,"name":"t1","ümlaut":"é \\u00e9 \U0001f600","n":1.0,"e":1E400,'
    '"inputSchema":{"type":"object","$defs":{"b":{},"a":{"maximum":9007199254740993}}},"_meta":{"x":null}}'
).encode()


@pytest.mark.parametrize("count", [1, 2])
async def test_a_tool_is_listed_as_the_bytes_that_it_was(system, count):
    fakes = [Fake(f"strange-{count}-{n}", raw=STRANGE) for n in range(count)]
    async with project(system, f"strange-{count}", *fakes) as bearer:
        answer = await ask(system, bearer, f"strange-{count}")

    renamed = STRANGE if count == 1 else STRANGE.replace(b'"t1"', f'"{fakes[1].name}__t1"'.encode())
    assert renamed in answer


async def test_a_server_that_hangs_is_left_out_in_time_and_why_is_told_to_operators(system):
    async def hang(peer):
        request = await peer.request()
        while request is not None and request.method == "server/discover":
            await peer.send(Fake("stuck").answer(request))
            request = await peer.request()
        await peer.until_hung_up()

    async with serving(hang) as hanging:
        await system.server("stuck", url=hanging.url)
        async with project(system, "bearable", Fake("lively")) as bearer:
            spec = catalog.ProjectSpec(name="bearable", servers=("stuck", "lively"), naming="prefix")
            await system.operator.call(catalog.edit_project, catalog.EditProject(bearer=system.bearer, spec=spec))
            async with asyncio.timeout(3 * LIST_SECONDS):
                while "stuck" not in (page := await listed(system, bearer, "bearable"))["_meta"].get(
                    "mcpctl/unavailable", {}
                ):
                    await asyncio.sleep(0)
            states = await states_of(system, "stuck")

    assert names(page) == ["lively__t1"]
    assert page["ttlMs"] == 0
    assert "did not answer tools/list" in page["_meta"]["mcpctl/unavailable"]["stuck"]
    away = [state for state in states if state.state == "away"]
    assert away
    assert all("stuck" in state.reason and state.since > 0 for state in away)


async def test_a_server_without_templates_is_not_missing_from_their_list(system):
    bare = Fake("bare", capabilities={"tools": {}, "resources": {}})
    bare.errors["resources/templates/list"] = {"code": -32601, "message": "Method not found"}
    async with project(system, "bare", bare, Fake("barer")) as bearer:
        page = await listed(system, bearer, "bare", "resources/templates/list")

    assert page["resourceTemplates"] == []
    assert "mcpctl/unavailable" not in page["_meta"]


# --- what is offered ---


async def test_discover_offers_what_the_servers_do_and_the_router_relays(system):
    tasks, ui = "io.modelcontextprotocol/tasks", "io.modelcontextprotocol/ui"
    first = Fake("offers-a", capabilities={"tools": {}, "tasks": {"list": {}}, "extensions": {tasks: {}, ui: {"v": 1}}})
    second = Fake(
        "offers-b",
        capabilities={"resources": {"subscribe": True}, "completions": {}, "logging": {}, "experimental": {"x": {}}},
        instructions="Be kind.",
    )
    async with project(system, "offers", first, second) as bearer:
        everything = await listed(system, bearer, "offers", "server/discover")
        single = await listed(system, bearer, "offers", "server/discover", server="offers-b")
        narrow = await system.token("offers", "narrow", "role:run,resource:tools,name:offers-b/*")
        less = await listed(system, narrow, "offers", "server/discover")

    changing = {"listChanged": True}
    assert everything["capabilities"] == {
        "completions": {},
        "extensions": {ui: {"v": 1}},
        "logging": {},
        "resources": changing | {"subscribe": True},
        "tools": changing,
    }
    assert everything["instructions"] == "# offers-b\n\nBe kind."
    assert (everything["cacheScope"], everything["supportedVersions"]) == ("private", ["2026-07-28"])
    assert everything["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "mcpctl"
    assert single["instructions"] == "Be kind."
    assert set(less["capabilities"]) == {"logging"}


async def test_a_subscription_is_not_offered_where_no_server_takes_one(system):
    async with project(system, "unsubscribed", Fake("quiet", capabilities={"resources": {}, "prompts": {}})) as bearer:
        found = await listed(system, bearer, "unsubscribed", "server/discover")

    assert found["capabilities"] == {"prompts": {"listChanged": True}, "resources": {"listChanged": True}}


# --- headers that tools declare ---


def tool(**region):
    return {"type": "object", "properties": {"region": {"type": "string"} | region}}


@pytest.mark.parametrize("count", [1, 2])
async def test_a_tool_with_an_invalid_header_annotation_is_left_out_alone(system, count):
    good, bad = tool(**{"x-mcp-header": "Region"}), tool(**{"x-mcp-header": "not a name"})
    raw = json.dumps({"name": "bad", "inputSchema": bad})[:-1] + '},{"name":"good","inputSchema":' + json.dumps(good)
    fakes = [Fake(f"marked-{count}-{n}", raw=raw.encode() + b"}") for n in range(count)]
    async with project(system, f"marked-{count}", *fakes) as bearer:
        found = names(await listed(system, bearer, f"marked-{count}"))

    assert found == (["good"] if count == 1 else [f"{fake.name}__good" for fake in fakes])


# --- what operators see ---


async def states_of(system, name):
    asked = router.GetServerStates(bearer=system.bearer, name=name)
    answers = await system.operator.ask_everyone(router.server_states, asked, patience=5)
    return [state for answer in answers for state in answer.servers]


async def test_every_router_says_how_it_reaches_a_server_and_why_it_does_not(system):
    await system.server("nobody", url="http://127.0.0.1:9/mcp")
    async with project(system, "halfway", Fake("somebody")) as bearer:
        before = await states_of(system, "somebody")
        spec = catalog.ProjectSpec(name="halfway", servers=("somebody", "nobody"), naming="prefix")
        await system.operator.call(catalog.edit_project, catalog.EditProject(bearer=system.bearer, spec=spec))
        while len((await listed(system, bearer, "halfway")).get("_meta", {})) < 2:
            await asyncio.sleep(0)
        reached, away = await states_of(system, "somebody"), await states_of(system, "nobody")

    assert before == []
    assert {(state.state, state.versions, state.reason) for state in reached} == {("reached", ("2026-07-28",), None)}
    assert {(state.state, state.versions, state.connections) for state in away} == {("away", (), 0)}
    assert all("server nobody" in state.reason and state.since > 0 for state in away)
