#!/usr/bin/env python3
"""A small MCP client on nothing but Python's standard library.

It opens a session (initialize, notifications/initialized), lists the tools, and calls one if asked to:

    export MCPCTL_TOKEN=mcpctl_pat_...
    python mcp_client.py http://127.0.0.1:3200/projects/demo/mcp
    python mcp_client.py http://127.0.0.1:3200/projects/demo/mcp \\
        --tool time__get_current_time --args '{"timezone": "UTC"}'

It speaks Streamable HTTP, revision 2025-11-25 (https://modelcontextprotocol.io/specification/2025-11-25): each
message is one POST, and the answer is either JSON or a stream of server-sent events.

Exit codes: 0 done, 1 no answer (network, HTTP, token), 2 a wrong answer, a tool's error or wrong arguments.
"""

import argparse
import http.client
import json
import os
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PROTOCOL_VERSION = "2025-11-25"


class NoAnswer(Exception):
    """The network, HTTP or the token stood in the way."""


class WrongAnswer(Exception):
    """What came back is not MCP, or is an error of the server or the tool."""


class McpClient:
    """One session with one endpoint."""

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise WrongAnswer(f"{url!r} is no http:// or https:// URL")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._last_id = 0

    def initialize(self) -> dict[str, Any]:
        """Open the session and return what the server says of itself."""
        params = {
            "protocolVersion": PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "mcp-client-example", "version": "1.0"},
        }
        result = self.request("initialize", params)
        # From now on every request names the revision that was agreed on; the session id was kept in _post().
        self._headers["MCP-Protocol-Version"] = str(result.get("protocolVersion", PROTOCOL_VERSION))
        for _ in self._post({"jsonrpc": "2.0", "method": "notifications/initialized"}):
            pass  # there is nothing to hear, but the connection is free for the next request only when it was read
        return result

    def tools(self) -> Iterator[dict[str, Any]]:
        """Yield all tools, page after page."""
        params: dict[str, Any] = {}
        while True:
            page = self.request("tools/list", params)
            yield from page.get("tools", ())
            if not page.get("nextCursor"):
                return
            params = {"cursor": page["nextCursor"]}

    def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask, wait for the answer with our id, and return its result."""
        self._last_id += 1
        answer: dict[str, Any] = {}
        for message in self._post({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}):
            if message.get("method") == "notifications/progress":
                print(f"  progress: {message['params'].get('progress')}", file=sys.stderr)
            elif "method" not in message and message.get("id") == self._last_id:
                answer = message
        if "error" in answer:
            raise WrongAnswer(f"{method}: error {answer['error'].get('code')}: {answer['error'].get('message')}")
        if not isinstance(answer.get("result"), dict):
            raise WrongAnswer(f"{method}: the answer has no result")
        return answer["result"]

    def close(self) -> None:
        """End the session; a server that keeps none answers 405, which is fine."""
        if "Mcp-Session-Id" in self._headers:
            self._connection.request("DELETE", self._path, headers=self._headers)
            self._connection.getresponse().read()
        self._connection.close()

    def _post(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Send one message and yield the messages of the answer as they come."""
        try:
            self._connection.request("POST", self._path, json.dumps(message), self._headers)
            response = self._connection.getresponse()
            session = response.getheader("Mcp-Session-Id")
            if session:
                self._headers["Mcp-Session-Id"] = session
            kind = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
            if response.status == 200 and kind == "text/event-stream":
                yield from read_events(response)
                return
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"no answer: {error}") from error
        if response.status == 202:
            return
        if response.status != 200:
            raise NoAnswer(f"HTTP {response.status} {reason(response.status, body)}")
        if kind != "application/json":
            raise WrongAnswer(f"an answer of type {kind or 'unknown'} is neither JSON nor an event stream")
        yield parse(body)


def read_events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the messages of an event stream: `data:` lines up to an empty line make one event."""
    data: list[str] = []
    for raw in response:
        line = raw.decode().rstrip("\r\n")
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            text, data = "\n".join(data), []
            if text:  # a server may begin with an empty event that only carries an id
                yield parse(text)


def parse(text: str | bytes) -> dict[str, Any]:
    """Read one JSON-RPC message."""
    try:
        message = json.loads(text)
    except ValueError as error:
        raise WrongAnswer(f"the answer is no JSON: {error}") from error
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise WrongAnswer("the answer is no JSON-RPC message")
    return message


def reason(status: int, body: bytes) -> str:
    """Say what an HTTP error means; a JSON-RPC error in its body says it best."""
    if status == 401:
        return "(the token is missing, expired or revoked)"
    if status == 403:
        return "(this token may not use this endpoint)"
    try:
        return f"({json.loads(body)['error']['message']})"
    except (ValueError, KeyError, TypeError):
        return http.client.responses.get(status, "")


def show(result: dict[str, Any]) -> None:
    """Print what a tool returned: texts as they are, the rest by its kind."""
    for part in result.get("content", ()):
        print(part["text"] if part.get("type") == "text" else f"[{part.get('type')} {part.get('mimeType', '')}]")


def run(arguments: argparse.Namespace) -> None:
    token = Path(arguments.token_file).read_text().strip() if arguments.token_file else os.environ.get("MCPCTL_TOKEN")
    client = McpClient(arguments.url, token, arguments.timeout)
    server = client.initialize().get("serverInfo", {})
    print(f"connected to {server.get('name')} {server.get('version')}")
    for tool in client.tools():
        print(f"- {tool['name']}: {(tool.get('description') or '').strip().partition(chr(10))[0]}")
    if arguments.tool:
        wanted = {"name": arguments.tool, "arguments": json.loads(arguments.args), "_meta": {"progressToken": 1}}
        result = client.request("tools/call", wanted)
        show(result)
        if result.get("isError"):
            raise WrongAnswer(f"{arguments.tool} reports an error")
    client.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="Streamable HTTP endpoint")
    parser.add_argument("--token-file", help="file with the bearer (default: the variable MCPCTL_TOKEN)")
    parser.add_argument("--tool", help="tool to call")
    parser.add_argument("--args", default="{}", help="its arguments, as a JSON object")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds without a sign of life")
    try:
        run(parser.parse_args())
    except (NoAnswer, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except (WrongAnswer, ValueError, KeyError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
