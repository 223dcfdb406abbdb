"""What a client does with each feature of MCP, in whichever era: a function for each, which fails where it does not.

Their names and what they mean stand in `cells.py`.
"""

import asyncio
from contextlib import asynccontextmanager

import pytest
from mcp.client.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CreateMessageResult,
    ElicitRequestURLParams,
    ElicitResult,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    Root,
    TextContent,
)

from tests.conformance.cells import LEGACY, MODERN
from tests.gateway.peers import observed_client

KINDS = {"tools": ToolsListChanged, "prompts": PromptsListChanged, "resources": ResourcesListChanged}
UNDECLARED = -32021


class Cell:
    """One client era in front of one kind of upstream: clients through either gateway."""

    def __init__(self, system, project: str, mode: str) -> None:
        self._system, self.project, self.mode = system, project, mode

    @asynccontextmanager
    async def observed(self, *, gateway: int = 0, mode: str | None = None, **callbacks):
        url = f"{self._system.urls[gateway]}/projects/{self.project}/mcp"
        token = self._system.tokens[self.project]
        async with observed_client(url, token, mode or self.mode, **callbacks) as (client, injector):
            yield client, injector

    @asynccontextmanager
    async def client(self, **options):
        async with self.observed(**options) as (client, _):
            yield client

    @asynccontextmanager
    async def elsewhere(self):
        """Another client, of the new era, at the other gateway."""
        async with self.client(gateway=1, mode=MODERN) as client:
            yield client

    def key(self, word: str) -> str:
        return f"{word}-{self.project}-{self.mode}"


def said(result) -> str:
    assert not result.is_error, result.content
    return result.content[0].text


async def tools(cell):
    async with cell.client() as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert listed["add"].input_schema["properties"]["a"]["type"] == "integer"
        assert (await client.call_tool("add", {"a": 2, "b": 40})).structured_content == {"result": 42}
        assert said(await client.call_tool("in_region", {"region": "Åland"})) == "Åland"
        failed = await client.call_tool("fail", {"text": "on purpose"})
        assert failed.is_error
        assert "on purpose" in failed.content[0].text
        assert len(said(await client.call_tool("big", {"size": 500_000}))) == 500_000


async def resources(cell):
    async with cell.client() as client:
        assert "note://today" in {str(resource.uri) for resource in (await client.list_resources()).resources}
        assert (await client.read_resource("note://today")).contents[0].text == "the note of today"
        with pytest.raises(MCPError) as refused:
            await client.read_resource("nothing://here")
        assert refused.value.code in ((-32002, -32602) if cell.mode == LEGACY else (-32602,))
        assert refused.value.error.data["uri"] == "nothing://here"


async def templates(cell):
    async with cell.client() as client:
        listed = (await client.list_resource_templates()).resource_templates
        assert [template.uri_template for template in listed] == ["note://by-name/{name}"]
        assert (await client.read_resource("note://by-name/ann")).contents[0].text == "the note ann"


async def prompts(cell):
    async with cell.client() as client:
        assert "greet" in {prompt.name for prompt in (await client.list_prompts()).prompts}
        assert (await client.get_prompt("greet", {"name": "Ann"})).messages[0].content.text == "Say hello to Ann."


async def completion(cell):
    async with cell.client() as client:
        for reference in (
            PromptReference(type="ref/prompt", name="greet"),
            ResourceTemplateReference(type="ref/resource", uri="note://by-name/{name}"),
        ):
            completed = await client.complete(reference, {"name": "name", "value": "An"})
            assert completed.completion.values == ["Ann", "Anna"]


async def progress(cell):
    heard = []

    async def step(done, total, message):
        heard.append((done, total, message))

    async with cell.client() as client:
        assert said(await client.call_tool("count", {"steps": 3}, progress_callback=step)) == "counted to 3"
    assert heard == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]


async def logging(cell):
    heard = []

    async def log(message):
        heard.append((message.level, message.data))

    options = {} if cell.mode == LEGACY else {"log_level": "error"}
    async with cell.client(logging_callback=log, **options) as client:
        if cell.mode == LEGACY:
            await client.set_logging_level("error")
        await client.call_tool("log", {"text": "hear, hear"})
    assert heard == [(level, "hear, hear") for level in ("error", "critical", "alert", "emergency")], heard


async def cancellation(cell):
    heard = asyncio.Event()

    async def step(done, total, message):
        heard.set()

    key = cell.key("cancellation")
    async with cell.client() as client:
        call = asyncio.create_task(client.call_tool("wait_forever", {"key": key}, progress_callback=step))
        await heard.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await client.call_tool("was_cancelled", {"key": key})).structured_content == {"result": True}


async def list_changed(cell):
    for kind, event in KINDS.items():
        async with cell.elsewhere() as other, hearing(cell, kind=kind) as (client, heard):
            present = (await other.call_tool("toggle", {"kind": kind})).structured_content["result"]
            assert await heard() == event()
            assert ("another" in await names(client, kind)) == present


async def resource_updates(cell):
    async with cell.elsewhere() as other, hearing(cell, uri="note://today") as (_, heard):
        await other.call_tool("touch", {"uri": "note://by-name/ann"})
        await other.call_tool("touch", {"uri": "note://today"})
        assert await heard() == ResourceUpdated("note://today")


async def sampling(cell):
    async def answer(context, params):
        return CreateMessageResult(
            role="assistant", model="m", content=TextContent(text=params.messages[0].content.text)
        )

    async with cell.client(sampling_callback=answer) as client:
        assert said(await client.call_tool("ask_model", {"question": "why?"})) == "m: why?"


async def elicitation_form(cell):
    given = ElicitResult(action="accept", content={"colour": "red"})

    async def answer(context, params):
        assert params.requested_schema["properties"]["colour"]["type"] == "string"
        return given

    async with cell.client(elicitation_callback=answer) as client:
        assert said(await client.call_tool("ask_colour", {})) == "red"
        given = ElicitResult(action="decline")
        assert said(await client.call_tool("ask_colour", {})) == "decline"


async def elicitation_url(cell):
    async def answer(context, params):
        assert isinstance(params, ElicitRequestURLParams)
        assert params.url == "https://example.com/login"
        return ElicitResult(action="accept")

    async with cell.client(elicitation_callback=answer) as client:
        assert said(await client.call_tool("ask_visit", {})) == "accept"


async def roots(cell):
    async def answer(context):
        return ListRootsResult(roots=[Root(uri="file:///home/ann"), Root(uri="file:///srv")])

    async with cell.client(list_roots_callback=answer) as client:
        called = await client.call_tool("ask_roots", {})
        assert called.structured_content == {"result": ["file:///home/ann", "file:///srv"]}


async def undeclared(cell):
    async with cell.client() as client:
        with pytest.raises(MCPError) as refused:
            await client.call_tool("ask_model", {"question": "why?"})
        assert refused.value.code == UNDECLARED
        assert refused.value.error.data == {"requiredCapabilities": {"sampling": {}}}


async def names(client, kind: str) -> set[str]:
    """Return what a client sees in one of the lists."""
    if kind == "tools":
        return {tool.name for tool in (await client.list_tools(cache_mode="refresh")).tools}
    if kind == "prompts":
        return {prompt.name for prompt in (await client.list_prompts(cache_mode="refresh")).prompts}
    return {resource.name for resource in (await client.list_resources(cache_mode="refresh")).resources}


@asynccontextmanager
async def hearing(cell, *, kind: str = "", uri: str = ""):
    """Yield a client and how to wait for the next change of which it hears, once it is sure to hear of it."""
    if cell.mode == MODERN:
        wanted = {f"{kind}_list_changed": True} if kind else {"resource_subscriptions": [uri]}
        async with cell.client() as client, client.listen(**wanted) as changes:
            yield client, lambda: anext(changes)
        return
    queue: asyncio.Queue[object] = asyncio.Queue()

    async def message(incoming):
        method = getattr(incoming, "method", "")
        if method == "notifications/resources/updated":
            queue.put_nowait(ResourceUpdated(str(incoming.params.uri)))
        for name, event in KINDS.items():
            if method == f"notifications/{name}/list_changed":
                queue.put_nowait(event())

    async with cell.observed(message_handler=message) as (client, injector):
        await injector.standing.wait()
        if uri:
            await client.subscribe_resource(uri)
        yield client, queue.get
