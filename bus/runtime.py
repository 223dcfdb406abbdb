"""What every process of ours does at its start: logging, the event loop, telling its parent that it is ready."""

import asyncio
import logging
import os
import resource
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from mcpctl.bus.bearer import masked

T = TypeVar("T")


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
            _without_bearers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _without_bearers(_logger: Any, _name: str, line: Any) -> str:
    """Mask bearers in a line of the log: some repeat what a client has sent."""
    return masked(line.encode(errors="replace")).decode()


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop where there is one. Should the process crash, it leaves no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # bearers are in memory
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


def tell_ready(descriptor: int | None) -> None:
    """Write `ready` to the descriptor that the parent gave, if it gave one."""
    if descriptor is not None:
        with suppress(OSError):
            os.write(descriptor, b"ready\n")
            os.close(descriptor)
