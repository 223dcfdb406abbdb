"""What every process of ours does at its start: logging, the event loop, telling its parent that it is ready."""

import asyncio
import ctypes
import logging
import os
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

T = TypeVar("T")

LARGE = 256 * 1024
"""Bytes from which on a piece of memory is asked of the system, and given back to it, by itself."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def configure_logging() -> None:
    """Log to stderr: key and value in a terminal, JSON lines elsewhere; `MCPCTL_LOG_LEVEL` sets the level."""
    level = logging.getLevelNamesMapping().get(os.environ.get("MCPCTL_LOG_LEVEL", "info").upper(), logging.INFO)
    tty = sys.stderr.isatty()
    last: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]  # no locals: a bearer may be one
        if tty
        else [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def give_back_memory() -> None:
    """Have glibc return what large messages took when they are gone: else it keeps as much as it once needed."""
    with suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 4 * LARGE)


def tell_ready(descriptor: int | None) -> None:
    """Write `ready` to the descriptor that the parent gave, if it gave one."""
    if descriptor is not None:
        with suppress(OSError):
            os.write(descriptor, b"ready\n")
            os.close(descriptor)
