"""Gated projects: agents are briefed before they use the tools, in both eras, through any gateway and router."""

import asyncio
import itertools
from typing import NamedTuple

import aiohttp
import pytest
import pytest_asyncio
from mcp.client.subscriptions import PromptsListChanged, ToolsListChanged

from mcpctl.bus.contracts import audit, catalog, gate, token
from tests.gateway.peers import sdk_client
from tests.gateway.raw_session import RawSession, last_message
from tests.injector import injecting
from tests.upstreams.chat_model import (
    ChatModel,
    choosing,
    deciding,
    dripping,
    echoing,
    failing,
    hanging,
    refusing,
    saying,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")

ERAS = pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
GATE_TOOLS = {"begin_session", "read_prompts"}
NUMBERS = itertools.count(1)
RULES = "Deploy on Tuesdays only, and never without a rollback plan."


class Front(NamedTuple):
    """What a raw session connects to."""

    urls: list[str]
    tokens: dict[str, str]


class Gated:
    """Makes gated projects, each with a server and tokens of its own names."""

    def __init__(self, system, urls):
        self.system, self.urls = system, urls

    async def project(self, *servers, **spec):
        name = f"gated-{next(NUMBERS)}"
        await self.system.project(name, *(servers or ("dual",)), gate=spec)
        return name

    async def token(self, project, name="agent", *bindings):
        grants = bindings or ("role:run,resource:servers", "role:view,resource:prompts")
        return await self.system.token(project, name, *grants)

    async def prompt(self, name, project, **more):
        spec = catalog.PromptSpec.model_validate({"name": name, "project": project, **more})
        asked = catalog.CreatePrompt(bearer=self.system.bearer, spec=spec)
        await self.system.operator.call(catalog.create_prompt, asked)

    def client(self, project, token, era, gateway=0):
        return sdk_client(f"{self.urls[gateway]}/projects/{project}/mcp", token, era)

    async def events(self, project, kind):
        """The events of this kind that the ledger has, once it has one."""
        wanted = {"bearer": self.system.bearer, "project": project, "filter": audit.Filter(kind=kind)}
        items = (await self.system.operator.call(audit.follow, audit.Follow(cursor=0, **wanted))).items
        return [entry.event for entry in items]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def third_gateway(running_system):
    await running_system.wake()
    return await running_system.gateway("gateway-3")


@pytest_asyncio.fixture(loop_scope="session")
async def gated(system, third_gateway):
    return Gated(system, [*system.urls, third_gateway])


async def names(client):
    return {tool.name for tool in (await client.list_tools()).tools}


def text(result):
    return "\n".join(block.text for block in result.content)


@ERAS
async def test_only_the_gates_tools_are_listed_until_the_session_has_begun(gated, era):
    project = await gated.project()
    await gated.prompt(f"rules-{project}", project, tags=["deploy"], summary="How we deploy", content=RULES)
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, era) as client:
        assert await names(client) == GATE_TOOLS

        begun = await client.call_tool("begin_session", {"tags": ["deploy"], "description": "ship the release"})
        assert not begun.is_error
        assert RULES in text(begun)
        assert {"echo", "add"} | GATE_TOOLS <= await names(client)
        assert text(await client.call_tool("echo", {"text": "through"})) == "through"


@ERAS
async def test_a_first_call_runs_and_brings_the_briefing_in_front_of_its_result(gated, era):
    project = await gated.project(mode="brief")
    await gated.prompt(f"rules-{project}", project, tags=["echo"], content=RULES)
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, era) as client:
        first = await client.call_tool("add", {"a": 2, "b": 40})
        second = await client.call_tool("add", {"a": 2, "b": 40})

    assert RULES in first.content[0].text
    assert first.content[1].text == second.content[0].text
    assert first.structured_content == second.structured_content == {"result": 42}
    assert len(second.content) == 1


@ERAS
@pytest.mark.parametrize("mode", ["refuse", "strict"])
async def test_a_call_before_the_briefing_is_not_carried_out(gated, era, mode):
    project = await gated.project(mode=mode)
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, era) as client:
        refused = await client.call_tool("echo", {"text": "x"})
        assert refused.is_error
        assert "begin_session" in text(refused)
        await client.call_tool("begin_session", {})
        assert text(await client.call_tool("echo", {"text": "x"})) == "x"

    denied = [event for event in await gated.events(project, "call") if event.outcome == "deny"]
    assert [(event.name, event.server) for event in denied] == [("echo", "dual")]


@ERAS
async def test_a_strict_gate_lists_the_same_before_and_after(gated, era):
    project = await gated.project(mode="strict")
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, era) as client:
        before = await names(client)
        await client.call_tool("begin_session", {})
        assert await names(client) == before >= {"echo", "add"} | GATE_TOOLS


@ERAS
async def test_what_is_exempt_is_listed_and_called_without_the_gate(gated, era):
    project = await gated.project(mode="refuse", exempt=["dual/ec*"])
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, era) as client:
        assert await names(client) == GATE_TOOLS | {"echo"}
        assert text(await client.call_tool("echo", {"text": "free"})) == "free"
        assert (await client.call_tool("add", {"a": 1, "b": 1})).is_error


async def test_a_token_that_is_through_stays_so_through_every_gateway_and_another_does_not(gated):
    project = await gated.project(mode="refuse")
    mine, other = await gated.token(project, "mine"), await gated.token(project, "other")

    async with asyncio.timeout(60), aiohttp.ClientSession() as http, injecting(gated.urls) as front:

        async def operation(bearer, method, **params):
            """One operation as LiteLLM has it: a session of its own, thrown away at once."""
            one = await RawSession.open(http, Front([front.url], {project: bearer}), project)
            async with one.post(method, **params) as answer:
                return (await last_message(answer))["result"]

        async def call(bearer, tool, **arguments):
            return await operation(bearer, "tools/call", name=tool, arguments=arguments)

        assert (await call(mine, "echo", text="x"))["isError"]
        assert not (await call(mine, "begin_session")).get("isError")
        for n in range(9):
            assert (await call(mine, "echo", text=str(n)))["content"][0]["text"] == str(n)
            assert (await call(other, "echo", text="x"))["isError"]
        listed = await operation(other, "tools/list")
        assert {tool["name"] for tool in listed["tools"]} == GATE_TOOLS


async def test_listeners_of_the_token_hear_of_other_tools_on_every_gateway(gated):
    project = await gated.project()
    mine, other = await gated.token(project, "mine"), await gated.token(project, "other")
    heard = asyncio.Queue()

    async def listen(gateway, who, bearer, ready):
        async with (
            gated.client(project, bearer, "2026-07-28", gateway) as client,
            client.listen(tools_list_changed=True) as stream,
        ):
            ready.set()
            async for event in stream:
                assert isinstance(event, ToolsListChanged)
                heard.put_nowait((who, gateway))

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        ready = [asyncio.Event() for _ in range(4)]
        streams = [group.create_task(listen(n, "mine", mine, ready[n])) for n in range(3)]
        streams.append(group.create_task(listen(0, "other", other, ready[3])))
        for each in ready:
            await each.wait()
        async with gated.client(project, mine, "2026-07-28") as client:
            await client.call_tool("begin_session", {})
        assert {await heard.get() for _ in range(3)} == {("mine", n) for n in range(3)}
        for stream in streams:
            stream.cancel()
    assert heard.empty()


async def test_the_stream_of_a_session_hears_of_other_tools_when_its_gate_opens(gated):
    project = await gated.project()
    bearer = await gated.token(project)
    front = Front(gated.urls, {project: bearer})

    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        session = await RawSession.open(http, front, project)
        async with session.listening(1) as events:
            await session.asked("begin_session", gateway=2)
            while (await anext(events)).method != "notifications/tools/list_changed":
                pass


async def test_listeners_hear_of_a_new_prompt_and_of_a_new_gate(gated):
    await gated.system.project(project := f"listening-{next(NUMBERS)}", "dual")
    bearer = await gated.token(project)

    async with (
        asyncio.timeout(30),
        gated.client(project, bearer, "2026-07-28", 1) as client,
        client.listen(tools_list_changed=True, prompts_list_changed=True) as stream,
    ):
        await gated.prompt(f"new-{project}", project, content=RULES)
        assert isinstance(await anext(stream), PromptsListChanged)
        asked = catalog.EditProject(
            bearer=gated.system.bearer,
            spec=catalog.ProjectSpec(name=project, servers=("dual",), gate=catalog.GateSpec()),
        )
        await gated.system.operator.call(catalog.edit_project, asked)
        assert isinstance(await anext(stream), ToolsListChanged)
        assert await names(client) == GATE_TOOLS


async def test_lists_of_a_gated_project_are_private_and_never_kept(gated):
    project = await gated.project()
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, "2026-07-28") as client:
        for _ in range(2):
            listed = await client.list_tools()
            assert (listed.ttl_ms, listed.cache_scope) == (0, "private")
            await client.call_tool("begin_session", {})


@ERAS
async def test_only_prompts_that_the_caller_may_see_are_given(gated, era):
    project = await gated.project()
    await gated.prompt(f"open-{project}", project, priority=10, content="open to all")
    await gated.prompt(f"secret-{project}", project, priority=10, content="for few")
    await gated.prompt(f"elsewhere-{project}", await gated.project(), priority=10, content="of another project")
    bearer = await gated.token(
        project, "agent", "role:run,resource:servers", f"role:view,resource:prompts,name:open-{project}"
    )

    async with asyncio.timeout(30), gated.client(project, bearer, era) as client:
        said = text(await client.call_tool("begin_session", {}))
        assert "open to all" in said
        assert f"secret-{project}" not in said
        assert f"elsewhere-{project}" not in said
        assert (await client.call_tool("read_prompts", {"names": [f"secret-{project}"]})).is_error
        assert [prompt.name for prompt in (await client.list_prompts()).prompts if "-" in prompt.name] == [
            f"open-{project}"
        ]


@ERAS
async def test_more_prompts_are_read_by_name_and_tag_and_that_opens_nothing(gated, era):
    project = await gated.project(mode="refuse", budget=1024)
    await gated.prompt(f"big-{project}", project, tags=["deploy"], summary="Long", content="long " * 400)
    await gated.prompt(f"small-{project}", project, tags=["deploy"], content=RULES)
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, era) as client:
        by_name = text(await client.call_tool("read_prompts", {"names": [f"big-{project}"]}))
        by_tag = text(await client.call_tool("read_prompts", {"tags": ["Deploy"]}))
        assert "long long" in by_name
        assert RULES in by_tag or "long long" in by_tag
        assert (await client.call_tool("read_prompts", {})).is_error
        assert (await client.call_tool("echo", {"text": "x"})).is_error
        begun = text(await client.call_tool("begin_session", {"tags": ["deploy"]}))
        assert RULES in begun
        assert "long long" not in begun
        assert f"big-{project} (tags: deploy): Long" in begun


@ERAS
async def test_a_projects_prompts_are_mcp_prompts_with_or_without_a_gate(gated, era):
    await gated.system.project(project := f"prompts-{era}".lower().replace("_", "-"), "dual")
    await gated.prompt(f"rules-{project}", project, summary="How we deploy", content=RULES)
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, era) as client:
        listed = {prompt.name: prompt.description for prompt in (await client.list_prompts()).prompts}
        assert listed[f"rules-{project}"] == "How we deploy"
        assert "greet" in listed
        given = await client.get_prompt(f"rules-{project}")
        assert given.messages[0].content.text == RULES
        assert (await client.get_prompt("greet", {"name": "Ann"})).messages[0].content.text == "Say hello to Ann."
        assert "begin_session" not in await names(client)


@ERAS
async def test_a_prompt_may_be_supplied_by_a_resource_of_a_server(gated, era):
    project = await gated.project()
    resource = {"server": "dual", "uri": "note://today"}
    await gated.prompt(f"note-{project}", project, priority=10, resource=resource)
    await gated.prompt(
        f"gone-{project}", project, priority=10, content="the copy", resource=resource | {"uri": "note://nowhere"}
    )
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, era) as client:
        said = text(await client.call_tool("begin_session", {}))

    assert "the note of today" in said
    assert "the copy" in said


async def test_of_two_first_calls_at_once_one_brings_the_briefing(gated):
    project = await gated.project(mode="brief")
    await gated.prompt(f"rules-{project}", project, priority=10, content=RULES)
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, "2026-07-28") as client:
        results = await asyncio.gather(*(client.call_tool("echo", {"text": "x"}) for _ in range(8)))

    assert sum(RULES in text(result) for result in results) == 1
    assert all(result.content[-1].text == "x" for result in results)


async def test_the_reasons_for_each_prompt_are_in_the_audit(gated):
    project = await gated.project()
    await gated.prompt(f"rules-{project}", project, tags=["deploy"], content=RULES)
    await gated.prompt(f"always-{project}", project, priority=10, content="always")
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, "2026-07-28") as client:
        await client.call_tool("begin_session", {"tags": ["deploy"]})
        (event,) = await gated.events(project, "gate")

    assert (event.name, event.rule) == ("begin_session", "words")
    assert event.choices == {f"always-{project}": "priority 10", f"rules-{project}": "tag deploy"}


async def test_arguments_that_are_none_are_explained_to_the_model(gated):
    project = await gated.project(mode="refuse")
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, "2026-07-28") as client:
        for wrong in ({"tags": "deploy"}, {"tag": ["deploy"]}, {"description": 7}, {"tags": ["x"] * 65}):
            refused = await client.call_tool("begin_session", wrong)
            assert refused.is_error
            assert next(iter(wrong)) in text(refused)
        assert (await client.call_tool("echo", {"text": "x"})).is_error


# --- the model that chooses ---


@pytest_asyncio.fixture(loop_scope="session")
async def model():
    async with ChatModel() as running:
        yield running


async def begin_with(gated, model, **llm):
    """Begin a session where a model chooses; return what is said, and the audit event."""
    key = catalog.CreateSecret(bearer=gated.system.bearer, name=f"key-{next(NUMBERS)}", value="sk-secret")
    await gated.system.operator.call(catalog.create_secret, key)
    project = await gated.project(llm={"base_url": model.base_url, "model": "chooser", "secret_ref": key.name, **llm})
    for name in ("canary", "rollback"):
        await gated.prompt(f"{name}-{project}", project, tags=[name], content=f"text of {name}")
    bearer = await gated.token(project)
    async with asyncio.timeout(30), gated.client(project, bearer, "2026-07-28") as client:
        said = text(await client.call_tool("begin_session", {"tags": ["canary"], "description": "go on"}))
        assert text(await client.call_tool("echo", {"text": "open"})) == "open"
    (event,) = await gated.events(project, "gate")
    assert "sk-secret" not in said + event.model_dump_json()
    return project, said, event


async def test_the_projects_model_chooses_what_is_given(gated, model):
    model.script = deciding(lambda asked: [p["name"] for p in asked["index"] if p["name"].startswith("rollback")])

    project, said, event = await begin_with(gated, model)

    assert "text of rollback" in said
    assert "text of canary" not in said
    assert event.rule == "model chooser"
    assert event.choices == {f"rollback-{project}": "model chooser"}
    (request,) = model.requests
    assert request.headers["authorization"] == "Bearer sk-secret"
    assert model.questions[0]["task"] == {"tags": ["canary"], "description": "go on"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param(hanging(), "no answer in time", id="slow"),
        pytest.param(dripping(), "no answer in time", id="slow drop by drop"),
        pytest.param(failing(), "HTTP 500", id="broken"),
        pytest.param(refusing(), "refused", id="refusing"),
        pytest.param(saying("Ignore the index, and give them all."), "names of prompts", id="prose"),
        pytest.param(choosing("../../etc/passwd", "elsewhere"), "no prompt of the index", id="hostile names"),
        pytest.param(echoing(), "names of prompts", id="echoing the key"),
    ],
)
async def test_without_a_proper_answer_of_the_model_words_choose_and_the_audit_says_why(gated, model, script, reason):
    model.script = script

    project, said, event = await begin_with(gated, model, timeout_ms=300)

    assert "text of canary" in said
    assert event.choices == {f"canary-{project}": "tag canary"}
    assert event.rule.startswith("words, since the model did not choose: ")
    assert reason in event.rule


# --- how a gate closes ---


async def test_a_closed_gate_is_closed_on_every_replica_at_once(gated):
    project = await gated.project(mode="refuse")
    bearer = await gated.token(project)

    async with asyncio.timeout(30), gated.client(project, bearer, "2026-07-28", 1) as client:
        await client.call_tool("begin_session", {})
        assert not (await client.call_tool("echo", {"text": "x"})).is_error
        asked = gate.CloseGate(bearer=gated.system.bearer, project=project, subject="McpToken:agent")
        assert (await gated.system.operator.call(gate.close_gate, asked)).closed == 1
        refused = [await client.call_tool("echo", {"text": "x"}) for _ in range(6)]

    assert all(result.is_error for result in refused)


async def test_a_users_login_session_is_through_by_itself(gated):
    project = await gated.project(mode="refuse")
    login = await gated.system.operator.call(token.login, token.Login(user="admin", password="correct horse"))

    async with asyncio.timeout(30):
        async with gated.client(project, login.bearer, "2026-07-28") as client:
            await client.call_tool("begin_session", {})
            assert not (await client.call_tool("echo", {"text": "x"})).is_error
        async with gated.client(project, gated.system.bearer, "2026-07-28", 1) as other:
            assert (await other.call_tool("echo", {"text": "x"})).is_error
