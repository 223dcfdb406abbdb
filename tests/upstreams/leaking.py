"""A server that gives away what it was entrusted with, in every way in which a server can fail.

`python leaking.py RECORD` serves HTTP and appends every request that it gets to the file RECORD; its first line on
stdout is the port. `python leaking.py --stdio` speaks stdio, and its secret is the variable LEAKING.
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOOLS = ("fine", "fault", "status401", "status500", "garbage", "redirect", "slow", "end")
SLOW_SECONDS = 60


def answer(message, secret):
    """Return the response to a message that has one; None for notifications, and where the tool is to fail."""
    method = message.get("method")
    if "id" not in message:
        return None
    if method == "initialize":
        info = {"name": "leaking", "version": "1"}
        result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "tools/list":
        result = {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}
    elif method == "tools/call" and message["params"]["name"] == "fine":
        result = {"content": [{"type": "text", "text": "fine"}]}
    elif method == "tools/call" and message["params"]["name"] != "fault":
        return None
    else:
        error = {"code": -32000, "message": f"my credential is {secret}", "data": {"credential": secret}}
        return {"jsonrpc": "2.0", "id": message["id"], "error": error}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.record(b"")
        self.reply(405, b"")

    def do_DELETE(self):
        self.do_GET()

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.record(body)
        message, secret = json.loads(body), self.headers.get("Authorization", "")
        response = answer(message, secret)
        if response is not None:
            self.reply(200, json.dumps(response).encode())
        elif "id" not in message:
            self.reply(202, b"")
        else:
            self.fail(message["params"]["name"], secret)

    def fail(self, tool, secret):
        said = f"my credential is {secret}".encode()
        if tool == "status401":
            self.reply(401, said, **{"WWW-Authenticate": f'Bearer realm="{secret}"'})
        elif tool == "status500":
            self.reply(500, said, kind="text/html")
        elif tool == "garbage":
            self.reply(200, b'{"jsonrpc": "2.0", ' + said)
        elif tool == "redirect":
            self.reply(302, said, Location=f"http://127.0.0.1:1/?key={secret.partition(' ')[2]}")
        elif tool == "slow":
            time.sleep(SLOW_SECONDS)
        else:
            self.close_connection = True

    def reply(self, status, body, kind="application/json", **headers):
        self.send_response(status)
        for name, value in (headers | {"Content-Type": kind, "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def record(self, body):
        with open(self.server.record, "ab") as file:
            file.write(f"{self.requestline}\n{self.headers}".encode() + body + b"\n")

    def log_message(self, *_):
        pass


def serve_stdio(secret):
    print(f"started with the credential {secret}", file=sys.stderr, flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        response = answer(message, secret)
        if response is not None:
            print(json.dumps(response), flush=True)
        elif message.get("params", {}).get("name") == "garbage":
            print(f"my credential is {secret}", flush=True)
        elif message.get("params", {}).get("name") == "end":
            sys.exit(f"ended with the credential {secret}")


if __name__ == "__main__":
    if sys.argv[1] == "--stdio":
        serve_stdio(os.environ["LEAKING"])
    else:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads, server.record = True, sys.argv[1]
        print(server.server_port, flush=True)
        server.serve_forever()
