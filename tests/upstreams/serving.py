"""How the fixture servers are run: by their path, over HTTP or stdio, as servers of both eras or of one alone.

The first line on stdout is the port. `--legacy-only` hides the 2026-07-28 header from the SDK, as a server
of last year would not know it; `--modern-only` refuses whatever names an older revision or none.
"""

import argparse
import asyncio
import json
import socket
import sys
import warnings
import weakref
from functools import partial

import uvicorn
from mcp.server import NotificationOptions
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.types import EmptyResult, SetLevelRequestParams, SubscribeRequestParams, UnsubscribeRequestParams

# The legacy era's features are deprecated, and are what these servers are for.
warnings.simplefilter("ignore", MCPDeprecationWarning)
MODERN = "2026-07-28"


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


class Sessions:
    """What the SDK leaves to a server of the legacy era: who subscribed to what, from which level on, and whom to tell.

    The new era's `subscriptions/listen` and `logLevel` are the SDK's own work.
    """

    LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

    def __init__(self, server):
        self.connections = weakref.WeakSet()
        lowlevel = server._lowlevel_server
        lowlevel.create_initialization_options = partial(
            lowlevel.create_initialization_options, NotificationOptions(True, True, True)
        )
        lowlevel.add_request_handler("logging/setLevel", SetLevelRequestParams, self._set_level)
        lowlevel.add_request_handler("resources/subscribe", SubscribeRequestParams, self._subscribe)
        lowlevel.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, self._unsubscribe)
        server.middleware.append(self._meet)

    async def _meet(self, context, call_next):
        if context.protocol_version != MODERN:
            self.connections.add(context.session._connection)
        return await call_next(context)

    async def _set_level(self, context, params):
        context.session._connection.state["level"] = params.level
        return EmptyResult()

    async def _subscribe(self, context, params):
        context.session._connection.state.setdefault("subscribed", set()).add(str(params.uri))
        return EmptyResult()

    async def _unsubscribe(self, context, params):
        context.session._connection.state.setdefault("subscribed", set()).discard(str(params.uri))
        return EmptyResult()

    def wants(self, session, level):
        """Tell whether a session's client asked for messages of this level; one that said nothing wants them all."""
        chosen = session._connection.state.get("level", "debug")
        return self.LEVELS.index(level) >= self.LEVELS.index(chosen)

    async def list_changed(self, kind):
        """Tell every session that the list of `tools`, `prompts` or `resources` is another one."""
        for connection in list(self.connections):
            await connection.notify(f"notifications/{kind}/list_changed", None)

    async def updated(self, uri):
        """Tell the sessions that subscribed to a resource that it is another one."""
        for connection in list(self.connections):
            if uri in connection.state.get("subscribed", ()):
                await connection.notify("notifications/resources/updated", {"uri": uri})


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
        version = dict(scope.get("headers", ())).get(b"mcp-protocol-version", b"")
        if scope["type"] != "http" or version >= MODERN.encode():
            await app(scope, receive, send)
            return
        status = 400 if scope["method"] == "POST" else 405
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(refusal).encode()})

    return serve


def serve_http(server, arguments):
    app = server.streamable_http_app(
        event_store=Events(),
        retry_interval=arguments.retry,
        json_response=arguments.json,
        stateless_http=arguments.stateless,
    )
    if arguments.legacy_only:
        app = legacy_only(app)
    if arguments.modern_only:
        app = modern_only(app)
    with socket.create_server(("127.0.0.1", arguments.port)) as listener:
        print(listener.getsockname()[1], flush=True)
        # h11 trims the white space around a header's value, httptools leaves it.
        settings = uvicorn.Config(app, http="h11", log_level="warning", timeout_graceful_shutdown=1)
        asyncio.run(uvicorn.Server(settings).serve(sockets=[listener]))


def run(server):
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--stdio", action="store_true")
    parser.add_argument("--json", action="store_true", help="answer with JSON, never with a stream")
    parser.add_argument("--stateless", action="store_true", help="no sessions on the legacy wire")
    parser.add_argument("--retry", type=int, default=10, help="milliseconds until a client comes back to a stream")
    era = parser.add_mutually_exclusive_group()
    era.add_argument("--legacy-only", action="store_true")
    era.add_argument("--modern-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.stdio:
        serve_http(server, arguments)
    elif arguments.legacy_only or arguments.modern_only:
        sys.exit("over stdio the SDK speaks both eras")
    else:
        server.run("stdio")
