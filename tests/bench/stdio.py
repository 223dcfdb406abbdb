"""A lean MCP server on stdio, and what drives it directly: `python -m tests.bench.stdio --conc 16` prints a JSON line.

The server answers `echo` at once, so that what is measured is the way to it.
"""

import argparse
import asyncio
import json
import sys
import time

TEXT = "x" * 64
CALL = {"name": "echo", "arguments": {"text": TEXT}}
CLIENT = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
TOOL = {"name": "echo", "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}}}


def serve() -> None:
    """Answer requests until the end of input."""
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" not in message:
            continue
        match message["method"]:
            case "initialize":
                result = {
                    "protocolVersion": message["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "echo", "version": "1"},
                }
            case "tools/list":
                result = {"tools": [TOOL]}
            case "tools/call":
                result = {"content": [{"type": "text", "text": message["params"]["arguments"]["text"]}]}
            case "ping":
                result = {}
            case _:
                error = {"code": -32601, "message": "method not found"}
                sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}) + "\n")
                sys.stdout.flush()
                continue
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
        sys.stdout.flush()


async def drive(concurrency: int, seconds: float) -> dict[str, float]:
    """Return requests per second of one such server that has as many calls at a time."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--serve"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    started: dict[int, float] = {}
    took: list[float] = []

    def ask(number: int, method: str, params: dict[str, object]) -> None:
        started[number] = time.perf_counter()
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        process.stdin.write(json.dumps(message).encode() + b"\n")

    ask(0, "initialize", CLIENT)
    await process.stdout.readline()
    process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
    began = time.perf_counter()
    for number in range(1, concurrency + 1):
        ask(number, "tools/call", CALL)
    number = concurrency
    while time.perf_counter() - began < seconds:
        answer = json.loads(await process.stdout.readline())
        assert answer["result"]["content"][0]["text"] == TEXT
        took.append(time.perf_counter() - started.pop(answer["id"]))
        number += 1
        ask(number, "tools/call", CALL)
    elapsed = time.perf_counter() - began
    process.kill()
    await process.wait()
    took.sort()
    return {"conc": concurrency, "rps": len(took) / elapsed, "p50_ms": 1000 * took[len(took) // 2]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--conc", type=int, default=16)
    parser.add_argument("--secs", type=float, default=3)
    options = parser.parse_args()
    if options.serve:
        serve()
    else:
        print(json.dumps(asyncio.run(drive(options.conc, options.secs))))
