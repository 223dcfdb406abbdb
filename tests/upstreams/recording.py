"""An upstream whose tool `record` writes down each execution, so that a test can count them: one line an execution.

`--log FILE` is appended to by any number of such servers; `serving.py` describes the other options.
"""

import asyncio
import os
import sys

from mcp.server import MCPServer
from serving import run

server = MCPServer("recording", version="1.0.0", log_level="WARNING")
place = sys.argv.index("--log")
log = os.open(sys.argv[place + 1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
del sys.argv[place : place + 2]


@server.tool()
async def record(mark: str, wait_ms: int = 0) -> str:
    """Write a mark down, wait, and return it."""
    os.write(log, f"{mark}\n".encode())
    await asyncio.sleep(wait_ms / 1000)
    return f"recorded {mark}"


if __name__ == "__main__":
    run(server)
