"""What belongs to the request at hand and travels with it: its time budget and its trace."""

import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from mcpctl.bus.contract import Committed

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
_traceparent: ContextVar[str | None] = ContextVar("traceparent", default=None)
_committed: ContextVar[list[Committed] | None] = ContextVar("committed", default=None)


def new_traceparent() -> str:
    """Return a fresh W3C traceparent (Trace Context, section 3.2)."""
    return f"00-{random.getrandbits(128):032x}-{random.getrandbits(64):016x}-01"


def trace_of(given: str | None) -> str:
    """Return the caller's traceparent where it is one, else a fresh one."""
    return given if given is not None and _TRACEPARENT.match(given) else new_traceparent()


def traceparent() -> str:
    """Return the trace of the request at hand, or a fresh one outside any request."""
    return _traceparent.get() or new_traceparent()


def remaining(limit: float) -> float:
    """Return `limit` seconds, cut to what is left of the request at hand (never below 0)."""
    deadline = _deadline.get()
    return limit if deadline is None else max(0.0, min(limit, deadline - time.monotonic()))


def note_committed(committed: Committed) -> None:
    """Note what the request at hand has changed: its answer names that."""
    found = _committed.get()
    if found is not None:
        found.append(committed)


@contextmanager
def committing() -> Iterator[list[Committed]]:
    """Collect what `note_committed` is told inside of this, by tasks that are begun in it too."""
    found: list[Committed] = []
    before = _committed.set(found)
    try:
        yield found
    finally:
        _committed.reset(before)


@contextmanager
def request_context(budget: float, trace: str | None) -> Iterator[None]:
    """Give the calls made inside it `budget` seconds together, and one trace."""
    deadline = _deadline.set(time.monotonic() + budget)
    traced = _traceparent.set(trace or new_traceparent())
    try:
        yield
    finally:
        _traceparent.reset(traced)
        _deadline.reset(deadline)
