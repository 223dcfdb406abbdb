"""An MCP server on the official SDK that shows every kind of answer, question and announcement; run it by its path.

The first line on stdout is the port; `serving.py` describes the options.
"""

import asyncio
from collections import defaultdict
from typing import Annotated, Literal

from mcp.server import MCPServer
from mcp.server.elicitation import ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.prompts import Prompt
from mcp.server.mcpserver.resolve import Elicit, ListRoots, Resolve, Sample
from mcp.server.mcpserver.resources import FunctionResource
from mcp.types import (
    Completion,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestURLParams,
    InputRequiredResult,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, Field
from serving import MODERN, Sessions, run

NAMES = ("Ann", "Anna", "Bob")
VISIT = {"message": "Log in, please", "url": "https://example.com/login"}

server = MCPServer("everything", version="1.0.0", log_level="WARNING")
sessions = Sessions(server)
started: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
cancelled: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
extra: set[str] = set()


class Colour(BaseModel):
    colour: str


# --- answers ---


@server.tool()
def echo(text: str) -> str:
    """Return the text."""
    return text


@server.tool()
def add(a: int, b: int) -> int:
    """Add two whole numbers."""
    return a + b


@server.tool()
def fail(text: str) -> str:
    """Fail with this text."""
    raise ToolError(text)


@server.tool()
def big(size: int) -> str:
    """Return a text of so many bytes."""
    return "x" * size


@server.tool()
def in_region(region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})], count: int = 1) -> str:
    """Return the region, which in the new era is repeated in a header."""
    return " ".join([region] * count)


@server.tool()
def headers(ctx: Context) -> dict[str, str]:
    """Return the headers of the request that carried the call; none over stdio."""
    return dict(ctx.headers or {})


# --- calls that take a while ---


@server.tool()
async def count(steps: int, ctx: Context) -> str:
    """Report progress for each step."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
    return f"counted to {steps}"


@server.tool()
async def wait_forever(key: str, ctx: Context) -> str:
    """Report one step of progress, then wait until cancelled."""
    try:
        await ctx.report_progress(1, 2, "waiting")
        started[key].set()
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled[key].set()
        raise
    return "never"


@server.tool()
async def was_cancelled(key: str) -> bool:
    """Tell whether wait_forever with this key was cancelled, or is within five seconds."""
    try:
        async with asyncio.timeout(5):
            await cancelled[key].wait()
    except TimeoutError:
        return False
    return True


@server.tool()
async def has_started(key: str) -> bool:
    """Return when wait_forever with this key runs."""
    async with asyncio.timeout(5):
        await started[key].wait()
    return True


@server.tool()
async def hang_up(ctx: Context) -> str:
    """Close the stream in the middle of a call; the answer waits for the client's return."""
    await ctx.close_sse_stream()
    await ctx.info("said while nobody listened")
    return "resumed"


@server.tool()
async def log(text: str, ctx: Context) -> str:
    """Say the text at every level, as far as the client wants to hear it."""
    for level in Sessions.LEVELS:
        if sessions.wants(ctx.session, level):
            await ctx.log(level, text, logger_name="everything")
    return "logged"


# --- questions: requests of the server in the legacy era, results that ask for more in the new one ---


def ask_for_colour() -> Elicit[Colour]:
    return Elicit("Which colour?", Colour)


@server.tool()
async def ask_colour(answer: Annotated[ElicitationResult[Colour], Resolve(ask_for_colour)]) -> str:
    """Ask the client's user for a colour."""
    return answer.data.colour if answer.action == "accept" else answer.action


def ask_for_text(question: str) -> Sample:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=question))
    return Sample([message], max_tokens=100)


@server.tool()
async def ask_model(question: str, answer: Annotated[CreateMessageResult, Resolve(ask_for_text)]) -> str:
    """Ask the client's model."""
    return f"{answer.model}: {answer.content.text}"


def ask_for_roots() -> ListRoots:
    return ListRoots()


@server.tool()
async def ask_roots(answer: Annotated[ListRootsResult, Resolve(ask_for_roots)]) -> list[str]:
    """Ask for the client's roots and return their URIs."""
    return [str(root.uri) for root in answer.roots]


@server.tool()
async def ask_visit(ctx: Context) -> str | InputRequiredResult:
    """Ask the client's user to open a page."""
    if ctx.protocol_version != MODERN:
        return (await ctx.elicit_url(**VISIT, elicitation_id="visit-1")).action
    answer = (ctx.input_responses or {}).get("visit")
    if answer is not None:
        return answer.action
    return InputRequiredResult(input_requests={"visit": ElicitRequest(params=ElicitRequestURLParams(**VISIT))})


# --- changes ---


def another() -> str:
    """What comes and goes."""
    return "another"


@server.tool()
async def toggle(kind: Literal["tools", "prompts", "resources"], ctx: Context) -> bool:
    """Add one more tool (`another`), prompt (`another`) or resource (`note://another`), or remove it; announce it."""
    if kind in extra:
        extra.discard(kind)
    else:
        extra.add(kind)
    present = kind in extra
    if kind == "tools":
        server.add_tool(another) if present else server.remove_tool("another")
        await ctx.notify_tools_changed()
    elif kind == "prompts":
        server.add_prompt(Prompt.from_function(another)) if present else server.remove_prompt("another")
        await ctx.notify_prompts_changed()
    else:
        _toggle_resource(present)
        await ctx.notify_resources_changed()
    await sessions.list_changed(kind)
    return present


def _toggle_resource(present):
    if present:
        server.add_resource(FunctionResource.from_function(another, uri="note://another"))
    else:
        # The SDK adds resources at run time, but has no way to remove one.
        server._resource_manager._resources.pop("note://another")


@server.tool()
async def touch(uri: str, ctx: Context) -> str:
    """Announce that a resource has changed to whoever subscribed to it."""
    await ctx.notify_resource_updated(uri)
    await sessions.updated(uri)
    return "touched"


# --- resources, prompts, completion ---


@server.resource("note://today")
def today() -> str:
    """A fixed note."""
    return "the note of today"


@server.resource("note://by-name/{name}")
def note(name: str) -> str:
    """A note by its name."""
    return f"the note {name}"


@server.prompt()
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Say hello to {name}."


@server.completion()
async def complete(reference, argument, context) -> Completion:
    """Complete the names that the prompt and the template take."""
    values = [name for name in NAMES if name.startswith(argument.value)]
    return Completion(values=values, total=len(values), has_more=False)


if __name__ == "__main__":
    run(server)
