"""What one era has and the other has no place for: a function for each, which fails where the answer is another one."""

from contextlib import asynccontextmanager

import httpx2
import msgspec

from tests.conformance.cells import LEGACY, MODERN
from tests.conformance.features import Cell
from tests.injector import injecting

REMOVED = ("initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe")
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
BOTH = "application/json, text/event-stream"


@asynccontextmanager
async def http(system, project):
    """A plain HTTP client and the URL of the endpoint."""
    async with injecting(system.urls, system.tokens[project]) as injector, httpx2.AsyncClient(timeout=10) as client:
        yield client, f"{injector.url}/projects/{project}/mcp"


async def ask(client, url, method, params, **headers):
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    return await client.post(url, content=body, headers={"Accept": BOTH, "Content-Type": "application/json", **headers})


async def ask_modern(client, url, method, params):
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method, "Mcp-Name": params.get("name", "")}
    given = {name: value for name, value in headers.items() if value}
    return await ask(client, url, method, params | {"_meta": META}, **given)


async def open_session(client, url):
    """Initialize as a client of 2025-11-25, and return the headers of its requests."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    opened = await ask(client, url, "initialize", params)
    return opened, {"Mcp-Session-Id": opened.headers["Mcp-Session-Id"], "MCP-Protocol-Version": "2025-11-25"}


async def roots_list_changed(system):
    for project in ("old", "new"):
        async with Cell(system, project, LEGACY).client() as client:
            await client.send_roots_list_changed()

            assert (await client.call_tool("add", {"a": 1, "b": 1})).structured_content == {"result": 2}


async def removed_methods(system):
    async with http(system, "old") as (client, url):
        for method in REMOVED:
            refused = await ask_modern(client, url, method, {})
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, -32601), method


async def resuming(system):
    async with http(system, "old") as (client, url):
        headers = {"Accept": BOTH, "Last-Event-ID": "1", "MCP-Protocol-Version": MODERN}
        refused = await client.get(url, headers=headers)

        assert refused.status_code == 405
        assert "POST" in refused.headers["Allow"]


async def tasks(system):
    for project in ("old", "new"):
        async with http(system, project) as (client, url):
            opened, session = await open_session(client, url)
            assert "tasks" not in opened.json()["result"]["capabilities"]
            call = {"name": "add", "arguments": {"a": 1, "b": 1}, "task": {"ttl": 1000}}
            answered = (await ask(client, url, "tools/call", call, **session)).json()
            assert answered["result"]["structuredContent"] == {"result": 2}
            refused = await ask(client, url, "tasks/get", {"taskId": "1"}, **session)
            assert refused.json()["error"]["code"] == -32601
            refused = await ask_modern(client, url, "tasks/get", {"taskId": "1"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (404, -32601)
            discovered = (await ask_modern(client, url, "server/discover", {})).json()["result"]["capabilities"]
            assert "io.modelcontextprotocol/tasks" not in discovered.get("extensions", {})
