"""Load that does not wait for answers: `--rate` requests a second, whatever becomes of them. Prints one JSON line.

Each request takes a connection that is free, or opens one, `--connections` at the most; what finds none is counted as
`unsent`. Latencies are in milliseconds from when a request was due, so a late generator counts against the server.
"""

import argparse
import asyncio
import json
import time
from collections import Counter
from urllib.parse import urlsplit

import uvloop

TICK = 0.001


class Connection(asyncio.Protocol):
    """One keep-alive connection; an answer is read by its length."""

    def __init__(self, load):
        self.load, self.data, self.due = load, b"", None

    def connection_made(self, transport):
        self.transport = transport

    def send(self, request, due):
        self.due = due
        self.transport.write(request)

    def data_received(self, data):
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        status = int(head[9:12])
        good = b'"isError":true' not in body and b'"result"' in body
        self.data, due, self.due = b"", self.due, None
        self.load.answered(status if status != 200 or good else 600, due, b"retry-after:" in lower)
        if b"connection: close" in lower:
            self.transport.close()
        else:
            self.load.free.append(self)

    def connection_lost(self, _):
        self.load.open -= 1
        if self.due is not None:
            self.load.answered(0, self.due, False)
            self.due = None
        if self in self.load.free:
            self.load.free.remove(self)


class Load:
    def __init__(self, options):
        self.options, url = options, urlsplit(options.url)
        self.host, self.port = url.hostname, url.port
        params = {
            "name": options.tool,
            "arguments": json.loads(options.arguments),
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "open-load", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        }
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
        self.request = (
            f"POST {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\nAuthorization: Bearer {options.token}\r\n"
            f"Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
            f"MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {options.tool}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self.free, self.open, self.unsent, self.without_retry = [], 0, 0, 0
        self.statuses, self.latencies = Counter(), {}

    def answered(self, status, due, retry):
        self.statuses[status] += 1
        self.without_retry += status in (429, 503) and not retry
        self.latencies.setdefault(status, []).append(time.perf_counter() - due)

    async def connect(self, due):
        try:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: Connection(self), self.host, self.port)
            connection.send(self.request, due)
        except OSError:
            self.open -= 1
            self.answered(0, due, False)

    async def warm_up(self):
        """Open connections that have been used once, as clients keep them."""
        loop = asyncio.get_running_loop()
        while self.open < self.options.warm:
            _, connection = await loop.create_connection(lambda: Connection(self), self.host, self.port)
            self.open += 1
            connection.send(self.request, time.perf_counter())
            while connection not in self.free:
                await asyncio.sleep(TICK)
        self.statuses.clear()
        self.latencies.clear()

    async def run(self):
        await self.warm_up()
        rate, began = self.options.rate, time.perf_counter()
        sent, connecting = 0, set()
        while (now := time.perf_counter()) - began < self.options.secs:
            while sent < (now - began) * rate:
                due = began + sent / rate
                sent += 1
                if self.free:
                    self.free.pop().send(self.request, due)
                elif self.open < self.options.connections:
                    self.open += 1
                    task = asyncio.create_task(self.connect(due))
                    connecting.add(task)
                    task.add_done_callback(connecting.discard)
                else:
                    self.unsent += 1
            await asyncio.sleep(TICK)
        waited = time.perf_counter()
        while sum(self.statuses.values()) + self.unsent < sent and time.perf_counter() - waited < 10:
            await asyncio.sleep(0.01)
        return {
            "sent": sent - self.unsent,
            "unsent": self.unsent,
            "open": self.open,
            "unanswered": sent - self.unsent - sum(self.statuses.values()),
            "without_retry_after": self.without_retry,
            "ok_per_second": self.statuses[200] / self.options.secs,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "ms": {str(status): summary(values) for status, values in sorted(self.latencies.items())},
        }


def summary(values):
    values.sort()
    at = {"p50": 0.5, "p99": 0.99}
    found = {name: round(values[int(len(values) * part)] * 1000, 1) for name, part in at.items()}
    return found | {"max": round(values[-1] * 1000, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--secs", type=float, default=10)
    parser.add_argument("--connections", type=int, default=4000)
    parser.add_argument("--warm", type=int, default=0, help="connections that are open before it begins")
    parser.add_argument("--tool", default="echo")
    parser.add_argument("--arguments", default='{"text": "hello"}')
    options = parser.parse_args()
    print(json.dumps(uvloop.run(Load(options).run())))


if __name__ == "__main__":
    main()
