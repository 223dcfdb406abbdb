"""An upstream whose tool `tick` sends a stamped notification of progress again and again, until it is cancelled.

Stateless (2026-07-28). A stamp is the seconds of the machine's monotonic clock, so that whoever reads it on the same
machine knows its age.
"""

import argparse
import asyncio
import time

import orjson
from aiohttp import web

VERSION = "2026-07-28"
OPEN = {"type": "object", "properties": {"pause_ms": {"type": "integer"}}}


def result_of(method: str) -> dict[str, object] | None:
    done = {"resultType": "complete", "ttlMs": 0, "cacheScope": "public"}
    if method == "server/discover":
        return done | {"supportedVersions": [VERSION], "capabilities": {"tools": {}}}
    if method == "tools/list":
        return done | {"tools": [{"name": "tick", "inputSchema": OPEN}]}
    return None


async def answer(request: web.Request) -> web.StreamResponse:
    asked = orjson.loads(await request.read())
    if asked["method"] == "tools/call":
        return await tick(request, asked["params"])
    result = result_of(asked["method"])
    if result is None:
        error = {"code": -32601, "message": "method not found"}
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "error": error}, status=404)
    return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": result})


async def tick(request: web.Request, params: dict[str, dict[str, object]]) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    pause = int(str(params["arguments"].get("pause_ms", 100))) / 1000
    token = params["_meta"]["progressToken"]
    count = 0
    while True:
        count += 1
        told = {"progressToken": token, "progress": count, "message": f"{time.monotonic():.6f}"}
        note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": told}
        await stream.write(b"event: message\ndata: " + orjson.dumps(note) + b"\n\n")
        await asyncio.sleep(pause)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    application = web.Application()
    application.router.add_post("/mcp", answer)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", parser.parse_args().port, backlog=4096)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
