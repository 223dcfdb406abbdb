"""What every process of ours does at its start: logging, the event loop, telling its parent that it is ready."""

import asyncio
import ctypes
import difflib
import gc
import logging
import os
import re
import resource
import sys
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import structlog

from mcpctl.bus.bearer import masked
from mcpctl.bus.variables import KNOWN

log = structlog.get_logger()

T = TypeVar("T")

LARGE = 256 * 1024
"""Bytes from which on a piece of memory is asked of the system, and given back to it, by itself."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

LEAST_FILES, ENOUGH_FILES = 512, 65536
"""Descriptors without which a part does not start, and those that it asks the system for."""

_OF_SERVICE = re.compile(r"MCPCTL_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
"""What a Service named `mcpctl` or `mcpctl-gateway` puts into the environment of every pod of its namespace."""


class CannotStart(OSError):
    """The environment is not one in which a part would work as it was meant to."""


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
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_OfLibraries()], level=logging.WARNING)


class _Stderr:
    """Writes lines to stderr. A log that takes none, on a full disk say, is no reason to stop."""

    def msg(self, line: str) -> None:
        with suppress(OSError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    log = debug = info = warn = warning = error = critical = fatal = exception = failure = err = msg


class _OfLibraries(logging.Handler):
    """Sends what libraries log the same way: aiohttp repeats a line that it cannot read, and the bearer in it."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)


def _without_bearers(_logger: Any, _name: str, line: Any) -> str:
    """Mask bearers in a line of the log: some repeat what a client has sent."""
    return masked(line.encode(errors="replace")).decode()


def demand_environment(environment: Mapping[str, str]) -> None:
    """Raise `CannotStart` for a variable that no part reads, and for a limit of open files that is too low."""
    for name in sorted(environment):
        if not name.startswith("MCPCTL_") or name in KNOWN or _is_of_others(name, environment[name]):
            continue
        near = difflib.get_close_matches(name, KNOWN, 1, cutoff=0.85)
        raise CannotStart(f"{name} is no setting: {f'did you mean {near[0]}?' if near else 'unset it'}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        raise CannotStart(f"only {soft} files may be open at once: allow {LEAST_FILES} or more (ulimit -n)")


def _is_of_others(name: str, value: str) -> bool:
    """Tell whether a variable is one of the tests, or of Kubernetes."""
    of_service = _OF_SERVICE.fullmatch(name) is not None or value.startswith(("tcp://", "udp://", "sctp://"))
    return of_service or name.startswith("MCPCTL_TEST_")


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop where there is one. Should the process crash, it leaves no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # bearers are in memory
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main)
    try:
        return uvloop.run(main)
    finally:
        gc.freeze()  # else the interpreter looks for cycles in all modules before it ends: 0.2 s


def spare_collector() -> None:
    """Have the garbage collector leave alone what the start has made, and look for cycles less often."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def give_back_memory() -> None:
    """Have glibc return what large messages took when they are gone: else it keeps as much as it once needed."""
    with suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, 4 * LARGE)


def wait_to_start(descriptor: int | None) -> None:
    """Return when the parent has closed its end of the descriptor that it gave, if it gave one."""
    if descriptor is not None:
        with suppress(OSError):
            os.read(descriptor, 1)
            os.close(descriptor)


def tell_ready(descriptor: int | None) -> None:
    """Write `ready` to the descriptor that the parent gave, if it gave one."""
    if descriptor is not None:
        with suppress(OSError):
            os.write(descriptor, b"ready\n")
            os.close(descriptor)
