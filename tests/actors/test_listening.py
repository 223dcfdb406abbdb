"""What a listen on the bus brings: whatever changes, at any server of any era, for as long as the caller may see it."""

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import pytest_asyncio

from mcpctl.bus.connection import Bus, Tasks
from mcpctl.bus.contracts import audit, catalog, rbac, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.errors import Unauthenticated
from mcpctl.bus.frames import Request
from mcpctl.bus.identity import AdmittedIdentity
from mcpctl.gateway.dataplane import DataPlane
from tests.gateway.peers import UPSTREAM, http_upstream
from tests.system import System
from tests.upstreams.raw_http import serving, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

OVER_HTTP = pytest.mark.parametrize("project", ["dual", "old", "new"])
ERAS = pytest.mark.parametrize("option", ["--legacy-only", "--modern-only"])
KINDS = ("tools", "prompts", "resources")
EVERY_LIST = {f"{kind}ListChanged": True for kind in KINDS}
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
WHOLE = "role:run,resource:servers"
SECONDS = 10


def changed(kind):
    return f"notifications/{kind}/list_changed"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory):
    """Two routers; projects `dual`, `old`, `new` (HTTP) and `pipe` (stdio) of one server each, and `many` of three."""
    system = System(tmp_path_factory.mktemp("listening"))
    try:
        await system.start()
        await system.run("router-2", "mcpctl.actors", "router")
        system.bus = await Bus.connect(system.nats.url, AdmittedIdentity("gateway"))
        system.plane = DataPlane(system.bus)
        await system.plane.start()
        background = Tasks()
        background.start(system.plane.sweep())
        async with (
            http_upstream() as dual,
            http_upstream("--legacy-only") as old,
            http_upstream("--modern-only") as new,
        ):
            for name, upstream in (("dual", dual), ("old", old), ("new", new)):
                await system.server(name, url=upstream.url)
                await system.project(name, name)
            await system.server("pipe", command=(sys.executable, UPSTREAM, "--stdio"))
            await system.project("pipe", "pipe")
            await system.project("many", "dual", "old", "pipe")
            yield system
        await background.cancel()
        await system.bus.close()
    finally:
        await system.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def system(running):
    async with asyncio.timeout(60):
        await running.wake()
        yield running


class Stream:
    """What one listen brings."""

    def __init__(self, call):
        self.call = call

    async def next(self):
        async with asyncio.timeout(SECONDS):
            while (frame := await self.call.next()) is None:
                pass
        return json.loads(frame.body)

    async def hear(self, method):
        """Return the next message of a method, passing over others."""
        while (message := await self.next())["method"] != method:
            pass
        return message

    async def until(self, method):
        """Return the methods that come up to and with this one."""
        found = []
        while not found or found[-1] != method:
            found.append((await self.next())["method"])
        return found

    @property
    def router(self):
        return self.call.router


def head(bearer, project, method, budget=SECONDS * 1000):
    return Request(bearer=bearer, project=project, method=method, budget=budget, correlation="c" * 24)


async def ask(system, bearer, project, method, **params):
    """Return the result of a request that ends well."""
    body = json.dumps({**params, "_meta": META}).encode()
    call = await system.plane.call(head(bearer, project, method), body, None)
    async with asyncio.timeout(SECONDS):
        while (frame := await call.next()) is None or frame.kind != "end":
            pass
    assert not frame.error, frame.body
    return json.loads(frame.body)


async def tool(system, bearer, project, name, **arguments):
    return await ask(system, bearer, project, "tools/call", name=name, arguments=arguments)


@asynccontextmanager
async def listening(system, bearer, project, honoured=None, **wanted):
    """A stream that has begun: what is honoured of it is what was asked, or as given."""
    params = json.dumps({"notifications": wanted, "_meta": META}).encode()
    stream = Stream(await system.plane.call(head(bearer, project, "subscriptions/listen"), params, None))
    try:
        first = await stream.next()
        assert first["method"] == ACKNOWLEDGED
        assert first["params"]["notifications"] == (wanted if honoured is None else honoured)
        async with asyncio.timeout(2 * SECONDS):
            yield stream
    finally:
        await stream.call.cancel()


@asynccontextmanager
async def listening_at_both(system, bearer, project, **wanted):
    """Streams at both routers."""
    async with AsyncExitStack() as stack:
        streams = []
        while len({stream.router for stream in streams}) < 2:
            streams.append(await stack.enter_async_context(listening(system, bearer, project, **wanted)))
        yield streams


_names = iter(range(1000))


async def agent(system, project, *bindings):
    return await system.token(project, f"agent-{next(_names)}", *(bindings or (WHOLE,)))


async def fresh(system, **spec):
    """A project of one server of its own: its name, and a bearer for it."""
    name = f"own-{next(_names)}"
    await system.server(name, **spec)
    await system.project(name, name)
    return name, await agent(system, name)


# --- what servers announce ---


@OVER_HTTP
async def test_a_changed_list_is_heard_at_every_router(system, project):
    bearer = await agent(system, project)
    async with listening_at_both(system, bearer, project, **EVERY_LIST) as streams:
        for kind in KINDS:
            await tool(system, bearer, project, "toggle", kind=kind)
            for stream in streams:
                assert await stream.hear(changed(kind))
            await tool(system, bearer, project, "toggle", kind=kind)


@OVER_HTTP
async def test_a_resource_is_heard_of_at_every_router_and_no_other_one(system, project):
    bearer = await agent(system, project)
    async with listening_at_both(system, bearer, project, resourceSubscriptions=["note://today"]) as streams:
        await tool(system, bearer, project, "touch", uri="note://by-name/x")
        await tool(system, bearer, project, "touch", uri="note://today")
        for stream in streams:
            message = await stream.next()
            assert (message["method"], message["params"]["uri"]) == (UPDATED, "note://today")
            assert "_meta" not in message["params"] or not message["params"]["_meta"]


@OVER_HTTP
async def test_nothing_comes_that_was_not_asked_for(system, project):
    bearer = await agent(system, project)
    async with listening(system, bearer, project, promptsListChanged=True) as stream:
        for kind in ("tools", "resources", "prompts"):
            await tool(system, bearer, project, "toggle", kind=kind)
            await tool(system, bearer, project, "toggle", kind=kind)
        await tool(system, bearer, project, "touch", uri="note://today")
        assert await stream.until(changed("prompts")) == [changed("prompts")]


async def test_several_servers_are_heard_on_one_stream_under_the_clients_names(system):
    bearer = await agent(system, "many")
    uris = [f"{slug}+note://today" for slug in ("dual", "old")]
    async with listening(system, bearer, "many", **EVERY_LIST, resourceSubscriptions=uris) as stream:
        for slug, uri in zip(("dual", "old"), uris, strict=True):
            await tool(system, bearer, "many", f"{slug}__touch", uri="note://today")
            assert (await stream.hear(UPDATED))["params"]["uri"] == uri
            await tool(system, bearer, "many", f"{slug}__toggle", kind="tools")
            assert await stream.hear(changed("tools"))
            await tool(system, bearer, "many", f"{slug}__toggle", kind="tools")


@OVER_HTTP
async def test_a_stream_that_joins_later_is_heard_as_well_as_the_first(system, project):
    bearer = await agent(system, project)
    first, second = "note://by-name/first", "note://by-name/second"
    async with listening(system, bearer, project, resourceSubscriptions=[first]) as one:
        async with listening(system, bearer, project, resourceSubscriptions=[second, first]) as other:
            await tool(system, bearer, project, "touch", uri=second)
            await tool(system, bearer, project, "touch", uri=first)
            assert (await one.next())["params"]["uri"] == first
            assert [(await other.next())["params"]["uri"] for _ in range(2)] == [second, first]
        await tool(system, bearer, project, "touch", uri=second)
        await tool(system, bearer, project, "touch", uri=first)
        assert (await one.next())["params"]["uri"] == first


async def test_a_filter_that_is_none_is_refused(system):
    bearer = await agent(system, "dual")
    for params in ({}, {"notifications": []}, {"notifications": {"resourceSubscriptions": [1]}}):
        call = await system.plane.call(
            head(bearer, "dual", "subscriptions/listen"), json.dumps({**params, "_meta": META}).encode(), None
        )
        async with asyncio.timeout(SECONDS):
            frame = await call.next()
        assert (frame.error, json.loads(frame.body)["code"]) == (True, -32602)


async def test_log_lines_of_a_call_over_stdio_come_while_others_listen(system):
    bearer = await agent(system, "pipe")
    meta = META | {"io.modelcontextprotocol/logLevel": "debug"}
    params = json.dumps({"name": "log", "arguments": {"text": "heard"}, "_meta": meta}).encode()
    async with listening_at_both(system, bearer, "pipe", toolsListChanged=True):
        call = await system.plane.call(head(bearer, "pipe", "tools/call"), params, None)
        async with asyncio.timeout(SECONDS):
            frame = await call.next()
            while frame is None:
                frame = await call.next()
        assert json.loads(frame.body)["method"] == "notifications/message"


# --- servers that go and come back ---


@ERAS
async def test_a_server_that_was_killed_is_heard_again_when_it_is_back(system, option):
    async with http_upstream(option) as upstream:
        project, bearer = await fresh(system, url=upstream.url)
        port = upstream.url.split(":")[2].split("/")[0]
        wanted = {"toolsListChanged": True, "resourceSubscriptions": ["note://today"]}
        async with listening(system, bearer, project, **wanted) as stream:
            upstream.process.kill()
            await upstream.process.wait()
            assert (await stream.next())["method"] == changed("tools")  # it has gone
            with pytest.raises(TimeoutError):  # nothing more is said while it is away
                async with asyncio.timeout(2.5):
                    await stream.next()
            async with http_upstream(option, "--port", port):
                assert {(await stream.next())["method"] for _ in range(2)} == {changed("tools"), UPDATED}
                await tool(system, bearer, project, "touch", uri="note://today")
                assert (await stream.next())["method"] == UPDATED
                await tool(system, bearer, project, "toggle", kind="tools")
                assert (await stream.next())["method"] == changed("tools")


async def test_a_process_that_was_killed_is_heard_again(system, tmp_path):
    started = tmp_path / "pids"
    run = f"echo $$ >> {started}; exec {sys.executable} {UPSTREAM} --stdio"
    project, bearer = await fresh(system, command=("/bin/sh", "-c", run))
    async with listening(system, bearer, project, toolsListChanged=True) as stream:
        os.kill(int(started.read_text()), signal.SIGKILL)
        assert (await stream.next())["method"] == changed("tools")
        assert len(started.read_text().split()) == 2
        await toggle_until_heard(system, bearer, project, stream)


async def toggle_until_heard(system, bearer, project, stream):
    """Change the tools of a stdio server until a call has met the process of the stream's router."""
    heard = asyncio.create_task(stream.hear(changed("tools")))
    while not heard.done():
        await tool(system, bearer, project, "toggle", kind="tools")
        await asyncio.wait({heard}, timeout=0.2)
    await heard


async def test_what_a_process_announces_is_heard(system):
    bearer = await agent(system, "pipe")
    async with listening(
        system,
        bearer,
        "pipe",
        {"toolsListChanged": True, "resourceSubscriptions": ["note://today"]},
        toolsListChanged=True,
        resourceSubscriptions=["note://today"],
    ) as stream:
        await toggle_until_heard(system, bearer, "pipe", stream)
        heard = asyncio.create_task(stream.hear(UPDATED))
        while not heard.done():
            await tool(system, bearer, "pipe", "touch", uri="note://today")
            await asyncio.wait({heard}, timeout=0.2)
        assert (await heard)["params"]["uri"] == "note://today"


async def test_a_session_that_the_server_forgot_is_begun_anew(system):
    sessions = []

    async def script(peer):
        while (request := await peer.request()) is not None:
            if request.method == "initialize":
                sessions.append(f"s{len(sessions)}")
                answer = initialized(request, tools={"listChanged": True})
                await peer.send(whole(answer, more=f"Mcp-Session-Id: {sessions[-1]}\r\n"))
            elif request.headers.get("mcp-session-id") != sessions[-1] if sessions else True:
                await peer.send(whole(b"", status="404 Not Found"))
            elif request.verb == "GET":
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                if len(sessions) > 1:
                    standing.set()
                    await peer.until_hung_up()
                    return
                sessions[-1] = "forgotten"
                return
            else:
                await peer.send(whole(b"", status="202 Accepted"))

    standing = asyncio.Event()
    async with serving(script) as server:
        project, bearer = await fresh(system, url=server.url)
        async with listening(system, bearer, project, toolsListChanged=True) as stream:
            await standing.wait()
            assert (await stream.next())["method"] == changed("tools")
            assert len(sessions) == 2


def answer_to(request, **result):
    return json.dumps({"jsonrpc": "2.0", "id": request.message["id"], "result": result}).encode()


def initialized(request, **capabilities):
    info = {"name": "s", "version": "1"}
    return answer_to(request, protocolVersion="2025-11-25", capabilities=capabilities, serverInfo=info)


def discovered(request, **capabilities):
    return whole(
        answer_to(
            request,
            supportedVersions=["2026-07-28"],
            capabilities=capabilities or {"tools": {"listChanged": True}},
            resultType="complete",
            ttlMs=0,
            cacheScope="private",
        )
    )


def stream_of(*messages):
    data = b"".join(b"data: " + json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n\n" for message in messages)
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + data


def acknowledgement(request):
    meta = {"io.modelcontextprotocol/subscriptionId": request.message["id"]}
    wanted = request.message["params"]["notifications"]
    return {"method": ACKNOWLEDGED, "params": {"notifications": wanted, "_meta": meta}}


async def test_a_server_that_keeps_ending_its_streams_does_not_flood_the_client(system):
    async def script(peer):
        while (request := await peer.request()) is not None:
            if request.method == "server/discover":
                await peer.send(discovered(request))
            else:
                await peer.send(stream_of(acknowledgement(request)))
                return

    async with serving(script) as server:
        project, bearer = await fresh(system, url=server.url)
        async with listening(system, bearer, project, toolsListChanged=True) as stream:
            said = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(6):
                    while await stream.next():
                        said += 1
            assert said <= 5
            assert len(server.requests) < 12


async def test_the_stream_to_a_server_is_closed_when_nobody_listens(system):
    async def script(peer):
        while (request := await peer.request()) is not None:
            if request.method == "server/discover":
                await peer.send(discovered(request))
            else:
                await peer.send(stream_of(acknowledgement(request)))
                await peer.until_hung_up()
                return

    async with serving(script) as server:
        project, bearer = await fresh(system, url=server.url)
        server.hung_up.clear()
        async with listening(system, bearer, project, toolsListChanged=True):
            assert not server.hung_up.is_set()
        async with asyncio.timeout(SECONDS):
            await server.hung_up.wait()


async def test_a_server_that_hangs_holds_nobody_up_and_is_announced_when_it_is_back(system):
    async with http_upstream("--modern-only") as hanging:
        own = f"own-{next(_names)}"
        await system.server(own, url=hanging.url)
        project = f"own-{next(_names)}"
        await system.project(project, "dual", own, "old")
        bearer = await agent(system, project)
        hanging.process.send_signal(signal.SIGSTOP)
        uris = [f"{slug}+note://today" for slug in ("dual", own, "old")]
        wanted = {**EVERY_LIST, "resourceSubscriptions": uris}
        honoured = {**EVERY_LIST, "resourceSubscriptions": [uris[0], uris[2]]}
        async with listening(system, bearer, project, honoured, **wanted) as stream:
            await tool(system, bearer, project, "old__touch", uri="note://today")
            assert (await stream.hear(UPDATED))["params"]["uri"] == uris[2]
            names = [t["name"] for t in (await ask(system, bearer, project, "tools/list"))["tools"]]
            assert not any(name.startswith(own) for name in names)
            hanging.process.send_signal(signal.SIGCONT)
            listed = False
            while not listed:
                await stream.hear(changed("tools"))
                tools = (await ask(system, bearer, project, "tools/list"))["tools"]
                listed = any(t["name"].startswith(own) for t in tools)


async def test_a_server_that_hangs_while_it_is_listened_to_does_not_flood_the_client(system):
    async with http_upstream("--modern-only") as hanging:
        own = f"own-{next(_names)}"
        await system.server(own, url=hanging.url)
        project = f"own-{next(_names)}"
        await system.project(project, "dual", own)
        bearer = await agent(system, project)
        async with listening_at_both(system, bearer, project, **EVERY_LIST) as (stream, *_):
            hanging.process.send_signal(signal.SIGSTOP)
            changes = 0
            with suppress(TimeoutError):  # the client does what clients do: it lists after each change
                async with asyncio.timeout(10):
                    await ask(system, bearer, project, "tools/list")
                    while True:
                        await stream.hear(changed("tools"))
                        changes += 1
                        await ask(system, bearer, project, "tools/list")
            hanging.process.send_signal(signal.SIGCONT)
            assert changes <= 2


# --- what the caller may see ---


async def test_rights_on_a_tool_bring_news_of_tools_alone(system):
    bearer = await agent(system, "dual", "role:run,resource:tools,name:dual/t*")
    wanted = {**EVERY_LIST, "resourceSubscriptions": ["note://today"]}
    async with listening(system, bearer, "dual", {"toolsListChanged": True}, **wanted) as stream:
        await tool(system, bearer, "dual", "touch", uri="note://today")
        for kind in ("prompts", "resources", "tools"):
            await tool(system, bearer, "dual", "toggle", kind=kind)
            await tool(system, bearer, "dual", "toggle", kind=kind)
        assert await stream.until(changed("tools")) == [changed("tools")]


async def test_other_rights_are_another_list(system):
    bearer = await system.token("many", "widened", "role:view,resource:servers,name:dual")
    describe = token.DescribeToken(bearer=system.bearer, project="many", name="widened")
    sha = (await system.operator.call(token.describe, describe)).id
    uris = ["dual+note://today", "old+note://today"]
    wanted = {"toolsListChanged": True, "resourceSubscriptions": uris}
    whole_one = await agent(system, "many")

    async def define(*bindings):
        definition = rbac.Definition(
            name=f"mcptoken-{sha[:32]}",
            project="many",
            subjects=(f"McpToken:{sha}",),
            bindings=tuple(Binding.parse(text) for text in bindings),
        )
        await system.operator.call(rbac.redefine, rbac.Define(bearer=system.bearer, definition=definition))

    async with listening(system, bearer, "many", {**wanted, "resourceSubscriptions": uris[:1]}, **wanted) as stream:
        await define("role:view,resource:servers,name:old")
        assert (await stream.next())["method"] == changed("tools")
        await tool(system, whole_one, "many", "dual__touch", uri="note://today")
        await tool(system, whole_one, "many", "dual__toggle", kind="tools")
        await tool(system, whole_one, "many", "dual__toggle", kind="tools")
        await tool(system, whole_one, "many", "old__toggle", kind="tools")
        await tool(system, whole_one, "many", "old__toggle", kind="tools")
        assert (await stream.next())["method"] == changed("tools")


async def test_another_server_in_the_project_is_heard_without_a_new_stream(system):
    project = f"own-{next(_names)}"
    await system.project(project, "dual", naming="prefix")
    bearer = await agent(system, project)

    async def consist_of(*servers, naming="prefix"):
        spec = catalog.ProjectSpec(name=project, servers=servers, naming=naming)
        await system.operator.call(catalog.edit_project, catalog.EditProject(bearer=system.bearer, spec=spec))

    async with listening(system, bearer, project, **EVERY_LIST) as stream:
        await consist_of("dual", "old")
        assert {(await stream.next())["method"] for _ in KINDS} == set(map(changed, KINDS))
        await tool(system, bearer, project, "old__toggle", kind="prompts")
        assert (await stream.next())["method"] == changed("prompts")
        await tool(system, bearer, project, "old__toggle", kind="prompts")
        await stream.hear(changed("prompts"))

        await consist_of("dual")
        assert {(await stream.next())["method"] for _ in KINDS} == set(map(changed, KINDS))
        other = await agent(system, "old")
        await tool(system, other, "old", "toggle", kind="prompts")
        await tool(system, other, "old", "toggle", kind="prompts")
        await tool(system, bearer, project, "dual__toggle", kind="tools")
        await tool(system, bearer, project, "dual__toggle", kind="tools")
        assert (await stream.next())["method"] == changed("tools")


async def test_another_naming_is_another_list_and_renames_what_is_heard(system):
    project = f"own-{next(_names)}"
    await system.project(project, "dual", naming="prefix")
    bearer = await agent(system, project)
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["dual+note://today"]}
    async with listening(system, bearer, project, **wanted) as stream:
        spec = catalog.ProjectSpec(name=project, servers=("dual",), naming="plain")
        await system.operator.call(catalog.edit_project, catalog.EditProject(bearer=system.bearer, spec=spec))
        assert (await stream.next())["method"] == changed("tools")
        await tool(system, bearer, project, "touch", uri="note://today")
        await tool(system, bearer, project, "toggle", kind="tools")
        assert await stream.until(changed("tools")) == [changed("tools")]
        await tool(system, bearer, project, "toggle", kind="tools")


async def test_an_edited_server_is_heard_at_its_new_place(system):
    async with http_upstream("--modern-only") as before, http_upstream("--legacy-only") as after:
        project, bearer = await fresh(system, url=before.url)
        async with listening(system, bearer, project, **EVERY_LIST) as stream:
            spec = catalog.ServerSpec(name=project, url=after.url)
            await system.operator.call(catalog.edit_server, catalog.EditServer(bearer=system.bearer, spec=spec))
            assert {(await stream.next())["method"] for _ in KINDS} == set(map(changed, KINDS))
            await tool(system, bearer, project, "toggle", kind="prompts")
            assert (await stream.next())["method"] == changed("prompts")


async def test_a_listen_leaves_one_event_in_the_ledger(system):
    bearer = await system.token("dual", "audited-listener", WHOLE)
    async with listening(system, bearer, "dual", **EVERY_LIST) as stream:
        for _ in range(2):
            await tool(system, system.bearer, "dual", "toggle", kind="tools")
            await stream.hear(changed("tools"))
    query = audit.Query(bearer=system.bearer, project="dual", filter=audit.Filter(token="audited-listener"))
    entries = (await system.operator.call(audit.query, query)).items
    events = [entry.event for entry in entries]
    assert [(event.kind, event.method) for event in events] == [("call", "subscriptions/listen")]


async def test_what_a_router_was_faster_to_end_is_counted_once_when_its_gateway_hears_of_it(system):
    bearer = await system.token("dual", "ended-first", WHOLE)
    async with listening(system, bearer, "dual", toolsListChanged=True) as stream:
        stream.call.principal = "mine"
        revoke = token.RevokeToken(bearer=system.bearer, project="dual", name="ended-first")
        await system.operator.call(token.revoke, revoke)
        with pytest.raises(Unauthenticated):
            await stream.next()
    assert system.plane.count(lambda principal: principal == "another's") == 0
    assert [system.plane.count(lambda principal: principal == "mine") for _ in range(2)] == [1, 0]


async def test_who_comes_while_the_server_is_busy_with_another_is_acknowledged_in_full(system):
    async def script(peer):
        while (request := await peer.request()) is not None:
            if request.method == "initialize":
                await peer.send(whole(initialized(request, resources={"subscribe": True})))
            elif request.method == "resources/subscribe":
                asked.set()
                await answering.wait()
                await peer.send(whole(answer_to(request)))
            elif request.method == "notifications/initialized":
                await peer.send(whole(b"", status="202 Accepted"))
            else:
                await peer.send(whole(b"", status="405 Method Not Allowed"))

    asked, answering = asyncio.Event(), asyncio.Event()
    async with serving(script) as server, asyncio.timeout(2 * SECONDS):
        project, bearer = await fresh(system, url=server.url)

        async def begin(uri):
            params = json.dumps({"notifications": {"resourceSubscriptions": [uri]}, "_meta": META}).encode()
            return await system.plane.call(head(bearer, project, "subscriptions/listen"), params, None)

        calls = [await begin("note://0")]
        await asked.wait()
        while sum(call.router == calls[0].router for call in calls) < 2 or calls[0].router is None:
            calls.append(await begin(f"note://{len(calls)}"))
            while calls[0].router is None or calls[-1].router is None:
                await asyncio.sleep(0.01)  # `accepted` wakes nobody
        answering.set()
        for number, call in enumerate(calls):
            first = await Stream(call).next()
            assert first["params"]["notifications"] == {"resourceSubscriptions": [f"note://{number}"]}
            await call.cancel()
