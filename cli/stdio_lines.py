"""Messages on stdin and stdout, one a line."""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

STDIN = 0
AT_ONCE = 65_536
"""Bytes that are read at once."""


async def stdin_lines() -> AsyncIterator[bytes]:
    """Yield the lines of stdin that are not empty, until it is closed.

    A thread reads the descriptor itself: `sys.stdin` holds a lock while it waits, on which an ending interpreter
    aborts, and a descriptor that does not block would not block for whoever shares it either.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()

    def read() -> None:
        parts: list[bytes] = []
        with suppress(RuntimeError):  # the loop has ended
            while chunk := _read():
                first, *rest = chunk.split(b"\n")
                parts.append(first)
                for piece in rest:
                    loop.call_soon_threadsafe(lines.put_nowait, b"".join(parts))
                    parts = [piece]
            loop.call_soon_threadsafe(lines.put_nowait, b"".join(parts))
            loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    while (line := await lines.get()) is not None:
        if line.strip():
            yield line.strip()


def _read() -> bytes:
    try:
        return os.read(STDIN, AT_ONCE)
    except OSError:
        return b""


def write_line(message: bytes) -> None:
    """Write a JSON message as one line. Raises `OSError` where nobody reads any more."""
    if b"\n" in message or b"\r" in message:  # valid between JSON tokens, but here a line is a message
        with suppress(msgspec.DecodeError):
            message = msgspec.json.format(message, indent=-1)
    sys.stdout.buffer.write(message + b"\n")
    sys.stdout.buffer.flush()
