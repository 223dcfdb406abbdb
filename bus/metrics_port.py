"""A port for whoever watches a process: `/metrics`, `/healthz` and `/readyz`, and nothing else.

Not the gateway's own port, since that is open to agents, and the numbers name projects and servers. It is plain HTTP,
and closed unless a port is given.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import orjson

import mcpctl
from mcpctl.bus import measured
from mcpctl.bus.connection import cancel

PATIENCE = 5.0
"""Seconds in which a request must be here, and its answer taken."""

AT_ONCE = 32
"""Connections at once: whoever watches needs one."""

LOOK_EVERY = 0.5

JSON = "application/json"

Missing = Callable[[], Awaitable[list[str]]]


class MetricsPort:
    """One listener. `missing` tells what this process would need to be of use."""

    def __init__(self, missing: Missing) -> None:
        self._missing = missing
        self._open = 0

    async def listen(self, host: str, port: int) -> None:
        """Open the port. Raises `OSError` that names it."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=8192)
        except OSError as error:
            fault = f"cannot listen on {host}:{port}: {error.strerror} (MCPCTL_METRICS_PORT, MCPCTL_METRICS_HOST)"
            raise OSError(fault) from error
        self._looking = asyncio.create_task(_look_at_the_loop())

    async def close(self) -> None:
        self._server.close()
        await cancel(self._looking)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= AT_ONCE:
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(await self._answer(head))
                    await writer.drain()
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            pass  # gone, late (`TimeoutError` is an `OSError`), or no HTTP
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        method, path, *_ = head.split(b" ", 2)
        if method not in (b"GET", b"HEAD"):
            status, kind, body = "405 Method Not Allowed", JSON, orjson.dumps({"error": "GET is served here"})
        else:
            status, kind, body = await self._found(path.partition(b"?")[0])
        lines = (f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if method == b"HEAD" else body)

    async def _found(self, path: bytes) -> tuple[str, str, bytes]:
        if path == b"/metrics":
            from mcpctl.bus import metrics_text  # noqa: PLC0415 - for those processes alone that are asked

            text = await asyncio.to_thread(metrics_text.Snapshot().rendered)
            return "200 OK", metrics_text.CONTENT_TYPE, text
        if path == b"/healthz":
            return "200 OK", JSON, orjson.dumps({"status": "ok", "version": mcpctl.__version__})
        if path == b"/readyz":
            missing = await self._missing()
            if missing:
                return "503 Service Unavailable", JSON, orjson.dumps({"status": "unready", "missing": missing})
            return "200 OK", JSON, orjson.dumps({"status": "ok"})
        return "404 Not Found", JSON, orjson.dumps({"error": "there are /metrics, /healthz and /readyz"})


async def _look_at_the_loop() -> None:
    while True:
        due = time.perf_counter() + LOOK_EVERY
        await asyncio.sleep(LOOK_EVERY)
        measured.LOOP_LAG.observe((), max(0.0, time.perf_counter() - due))


async def opened(host: str, port: int | None, missing: Missing) -> MetricsPort | None:
    """Open the port where one is given. Raises `OSError` that names it."""
    if port is None:
        return None
    listener = MetricsPort(missing)
    await listener.listen(host, port)
    return listener


async def closed(listener: MetricsPort | None) -> None:
    with suppress(OSError):
        if listener is not None:
            await listener.close()
