"""A stdio server with a state of its own: it counts, and says in which process. Without an SDK it starts at once."""

import json
import os
import sys

TOOL = {"name": "count_up", "description": "Add one.", "inputSchema": {"type": "object"}}


def answer(message, counted):
    if message["method"] == "initialize":
        info = {"name": "counting", "version": "1"}
        version = message["params"]["protocolVersion"]
        return {"result": {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}}
    if message["method"] == "tools/list":
        return {"result": {"tools": [TOOL | {"_meta": {"process": os.getpid()}}]}}
    if message["method"] == "tools/call":
        counted.append(1)
        state = {"count": len(counted), "process": os.getpid()}
        return {"result": {"content": [{"type": "text", "text": str(state)}], "structuredContent": state}}
    return {"error": {"code": -32601, "message": "Method not found"}}


def main():
    counted = []
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            said = {"jsonrpc": "2.0", "id": message["id"], **answer(message, counted)}
            print(json.dumps(said), flush=True)


main()
