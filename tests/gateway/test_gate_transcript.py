"""What a model sees of a gated project, as `docs/gate-transcript.md` shows it.

`MCPCTL_RECORD_TRANSCRIPT=1` writes the page.
"""

import asyncio
import json
import os
import textwrap
from pathlib import Path

import pytest

from mcpctl.bus.contracts import catalog
from tests.gateway.peers import sdk_client

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = Path(__file__).parents[2] / "docs" / "gate-transcript.md"
ERAS = {"2025-11-25": "legacy", "2026-07-28": "2026-07-28"}
TASK = {"tags": ["refund"], "description": "A customer wants the money back for order 7"}
SEES_PROMPTS = "role:view,resource:prompts"
PROMPTS = (
    {
        "name": "house-rules",
        "priority": 10,
        "summary": "What holds for every task",
        "content": "Never delete an order. Ask before you write to a customer.",
    },
    {
        "name": "refunds",
        "tags": ["refund", "payment"],
        "summary": "How we give money back",
        "content": "A refund above 100 EUR needs the number of a ticket.",
    },
    {"name": "releases", "tags": ["deploy"], "summary": "When a release goes out", "content": "On Tuesdays."},
)


class Model:
    """A client's side of the talk, written down."""

    def __init__(self, client):
        self._client = client
        self.lines = []

    async def look(self):
        tools = (await self._client.list_tools()).tools
        own = [tool for tool in tools if tool.name in ("begin_session", "read_prompts")]
        self.lines.append(f"> tools/list: {', '.join(sorted(tool.name for tool in tools))}\n")
        return own

    async def call(self, name, **arguments):
        called = await self._client.call_tool(name, arguments)
        said = "\n\n(next block)\n\n".join(block.text for block in called.content)
        failed = " (isError)" if called.is_error else ""
        self.lines += [f"> {name}({json.dumps(arguments)}){failed}\n", f"{textwrap.indent(said, '    ')}\n"]


async def transcript(system, era, mode):
    """Talk to two gated projects: `shop` has the mode `brief`, `shop-refuse` the mode `refuse`."""
    urls = {name: f"{system.urls[0]}/projects/{name}/mcp" for name in ("shop", "shop-refuse")}
    grants = ("role:run,resource:tools,name:dual/add", "role:run,resource:tools,name:dual/echo", SEES_PROMPTS)
    bearers = {name: await system.token(name, f"agent-{era}", *grants) for name in urls}
    lines = [f"## {era}\n"]
    async with sdk_client(urls["shop"], bearers["shop"], mode) as client:
        model = Model(client)
        lines += ["### Listed before the briefing\n"]
        for tool in await model.look():
            model.lines += [f"{tool.name}: {tool.description}\n"]
        await model.call("begin_session", **TASK)
        lines += [*model.lines, "### Open\n"]
        model.lines = []
        await model.look()
        await model.call("read_prompts", names=["releases"])
        await model.call("add", a=2, b=40)
        lines += model.lines
    other = await system.token("shop", f"hasty-{era}", *grants)
    async with sdk_client(urls["shop"], other, mode) as client:
        model = Model(client)
        lines += ["### A call before the briefing, with `gate.mode: brief`\n"]
        await model.call("add", a=2, b=40)
        lines += model.lines
    async with sdk_client(urls["shop-refuse"], bearers["shop-refuse"], mode) as client:
        model = Model(client)
        lines += ["### The same with `gate.mode: refuse`, and `strict`\n"]
        await model.call("add", a=2, b=40)
        lines += model.lines
    return "\n".join(lines)


HEAD = """# What a model sees of a gated project

Written down by a test, with the official Python SDK as the client. The project `shop` has the prompts `house-rules`
(priority 10), `refunds` (tags refund, payment) and `releases` (tag deploy);
[brief your agents](how-to/brief-your-agents.md) says how to make such a project.

"""


async def test_the_page_shows_what_a_model_sees(system):
    for name, gate in (("shop", {}), ("shop-refuse", {"mode": "refuse"})):
        await system.project(name, "dual", gate=gate)
    for prompt in PROMPTS:
        spec = catalog.PromptSpec.model_validate({"project": "shop", **prompt})
        await system.operator.call(catalog.create_prompt, catalog.CreatePrompt(bearer=system.bearer, spec=spec))

    async with asyncio.timeout(60):
        seen = HEAD + "\n".join([await transcript(system, era, mode) for era, mode in ERAS.items()])

    if os.environ.get("MCPCTL_RECORD_TRANSCRIPT"):
        PAGE.write_text(seen)
    assert PAGE.read_text() == seen
