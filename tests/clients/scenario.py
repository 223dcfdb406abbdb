"""What every client does, and the report in which it must end: the same keys whatever the client is written in."""

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

OLD, NEW = "2025-11-25", "2026-07-28"
TOOLS = {"echo", "add", "fail", "count", "ask_colour", "wait_forever", "was_cancelled"}


def done(report, version):
    """Assert that a client's report tells of all the steps, done on this version of the protocol."""
    assert set(report.pop("tools")) >= TOOLS
    assert report == {
        "version": version,
        "resources": ["today"],
        "templates": ["note"],
        "prompts": ["greet"],
        "sum": 42,
        "failure": True,
        "read": "the note of today",
        "templated": "the note ann",
        "prompt": "Say hello to Ann.",
        "steps": [[1, 3, "step 1"], [2, 3, "step 2"], [3, 3, "step 3"]],
        "counted": "counted to 3",
        "colour": "green",
        "asked": ["Which colour?"],
        "gave_up": True,
        "cancelled": True,
    }


async def tells(endpoint, tool, key):
    """Ask a server by another client how a call of `wait_forever` fares: `has_started`, or `was_cancelled`."""
    async with (
        httpx2.AsyncClient(headers=endpoint.headers, timeout=30) as http,
        Client(streamable_http_client(endpoint.url, http_client=http), mode=NEW) as client,
    ):
        return (await client.call_tool(tool, {"key": key})).structured_content["result"]
