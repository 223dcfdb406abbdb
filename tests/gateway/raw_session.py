"""A legacy client without an SDK: one session, its requests through any gateway, and its streams event by event."""

import json
from contextlib import asynccontextmanager

from tests.gateway.test_edge import BOTH

CAPABILITIES = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {"listChanged": True}, "tasks": {}}


class RawSession:
    """Sends what it is told; `sent` are the headers of every request."""

    def __init__(self, http, system, project, bearer):
        self._http, self._system, self._project = http, system, project
        self.sent = {"Authorization": f"Bearer {bearer}", "Accept": BOTH}

    @classmethod
    async def open(
        cls, http, system, project, *, version="2025-11-25", capabilities=CAPABILITIES, bearer=None, gateway=0
    ):
        session = cls(http, system, project, bearer or system.tokens[project])
        client = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"}}
        async with session.post("initialize", gateway=gateway, **client) as answer:
            assert answer.status == 200, await answer.text()
            session.sent["Mcp-Session-Id"] = answer.headers["Mcp-Session-Id"]
        session.sent["MCP-Protocol-Version"] = version
        async with session.notify("notifications/initialized", gateway=gateway) as answer:
            assert answer.status == 202
        return session

    def url(self, gateway):
        return f"{self._system.urls[gateway]}/projects/{self._project}/mcp"

    def send(self, message, gateway=0):
        return self._http.post(self.url(gateway), json={"jsonrpc": "2.0", **message}, headers=self.sent)

    def post(self, method, *, id=1, gateway=0, **params):  # noqa: A002 - JSON-RPC's own word
        return self.send({"id": id, "method": method, "params": params}, gateway)

    def call(self, tool, *, id=1, gateway=0, token=None, **arguments):  # noqa: A002
        meta = {} if token is None else {"_meta": {"progressToken": token}}
        return self.post("tools/call", id=id, gateway=gateway, name=tool, arguments=arguments, **meta)

    def notify(self, method, *, gateway=0, **params):
        return self.send({"method": method, "params": params}, gateway)

    async def answer(self, request_id, *, gateway=0, **answer):
        async with self.send({"id": request_id, **answer}, gateway) as taken:
            return taken.status

    def get(self, gateway=0, last=None, **headers):
        more = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last is not None else {}) | headers
        return self._http.get(self.url(gateway), headers={**self.sent, **more})

    def delete(self, gateway=0):
        return self._http.delete(self.url(gateway), headers=self.sent)

    async def asked(self, tool, **arguments):
        """Return the result of a call that answers at once, or after some messages."""
        async with self.call(tool, **arguments) as answer:
            return (await last_message(answer))["result"]

    @asynccontextmanager
    async def listening(self, gateway=0, last=None):
        """The session's stream of changes, open, with its first event read."""
        async with self.get(gateway, last) as stream:
            assert stream.status == 200, await stream.text()
            events = events_of(stream)
            await anext(events)
            yield events


class Event:
    def __init__(self, lines):
        fields = dict(line.split(":", 1) for line in lines)
        self.id, self.retry = fields.get("id", "").strip(), fields.get("retry", "").strip()
        self.data = fields.get("data", "").strip()
        self.message = json.loads(self.data) if self.data else None

    @property
    def method(self):
        return self.message.get("method") if self.message else None

    def __repr__(self):
        return f"{self.id}: {self.data}"


async def events_of(answer):
    """The events of a stream, one after the other."""
    lines = []
    async for line in answer.content:
        text = line.decode().rstrip("\n")
        if text and not text.startswith(":"):
            lines.append(text)
        elif not text and lines:
            yield Event(lines)
            lines = []


async def last_message(answer):
    """The message with which an answer ends, in JSON or in a stream."""
    if answer.content_type == "application/json":
        return await answer.json()
    return [event.message async for event in events_of(answer)][-1]
