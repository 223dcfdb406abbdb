"""An MCP server on the official SDK that shows every kind of answer; run it by its path.

The first line on stdout is the port. `--legacy-only` hides the 2026-07-28 header from the SDK, as a server
of last year would not know it; `--modern-only` refuses whatever does not carry it.
"""

import argparse
import asyncio
import json
import socket
import sys
from collections import defaultdict

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.streamable_http import EventMessage, EventStore
from pydantic import BaseModel

MODERN = "2026-07-28"

server = MCPServer("everything", version="1.0.0", log_level="WARNING")
started: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
cancelled: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)


class Colour(BaseModel):
    colour: str


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
async def ask_colour(ctx: Context) -> str:
    """Ask the client's user for a colour."""
    answer = await ctx.elicit("Which colour?", Colour)
    return answer.data.colour if answer.action == "accept" else answer.action


@server.tool()
async def hang_up(ctx: Context) -> str:
    """Close the stream in the middle of a call; the answer waits for the client's return."""
    await ctx.close_sse_stream()
    await ctx.info("said while nobody listened")
    return "resumed"


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


class Events(EventStore):
    """All events of all streams in one list; the id is the index."""

    def __init__(self):
        self.all = []

    async def store_event(self, stream_id, message):
        self.all.append((stream_id, message))
        return str(len(self.all) - 1)

    async def replay_events_after(self, last_event_id, send_callback):
        index = int(last_event_id)
        stream = self.all[index][0]
        for later, (stream_id, message) in enumerate(self.all[index + 1 :], index + 1):
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, str(later)))
        return stream


def legacy_only(app):
    async def serve(scope, receive, send):
        if scope["type"] == "http":
            unknown = (b"mcp-protocol-version", MODERN.encode())
            scope = {**scope, "headers": [line for line in scope["headers"] if line != unknown]}
        await app(scope, receive, send)

    return serve


def modern_only(app):
    refusal = {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": -32022, "message": "Unsupported protocol version", "data": {"supported": [MODERN]}},
    }

    async def serve(scope, receive, send):
        if scope["type"] != "http" or (b"mcp-protocol-version", MODERN.encode()) in scope["headers"]:
            await app(scope, receive, send)
            return
        status = 400 if scope["method"] == "POST" else 405
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(refusal).encode()})

    return serve


def serve_http(arguments):
    app = server.streamable_http_app(
        event_store=Events(),
        retry_interval=10,
        json_response=arguments.json,
        stateless_http=arguments.stateless,
    )
    if arguments.legacy_only:
        app = legacy_only(app)
    if arguments.modern_only:
        app = modern_only(app)
    with socket.create_server(("127.0.0.1", arguments.port)) as listener:
        print(listener.getsockname()[1], flush=True)
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        asyncio.run(uvicorn.Server(settings).serve(sockets=[listener]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stdio", action="store_true")
    parser.add_argument("--json", action="store_true", help="answer with JSON, never with a stream")
    parser.add_argument("--stateless", action="store_true", help="no sessions on the legacy wire")
    era = parser.add_mutually_exclusive_group()
    era.add_argument("--legacy-only", action="store_true")
    era.add_argument("--modern-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.stdio:
        serve_http(arguments)
    elif arguments.legacy_only or arguments.modern_only:
        sys.exit("over stdio the SDK speaks both eras")
    else:
        server.run("stdio")


if __name__ == "__main__":
    main()
