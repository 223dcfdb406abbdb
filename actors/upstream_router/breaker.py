"""The circuit breaker of one server at this router: whether it is asked at all, how much at once, and when again.

Closed: all is passed on. After failures in a row it opens: whatever is asked is refused at once, and nothing but a
probe reaches the server. It is half-open while one probe, a handshake or a ping, is at it, and closes when that
succeeds. A probe carries nobody's call, so that nothing is carried out twice.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog

from mcpctl.actors.settings import ActorSettings
from mcpctl.bus.connection import cancel
from mcpctl.bus.errors import Unavailable
from mcpctl.bus.mcp_client import McpAuthError, McpTooLargeError, McpTransportError
from mcpctl.bus.places import Places

log = structlog.get_logger()

Cause = Literal["away", "slow", "credentials"]
State = Literal["closed", "open", "half-open"]

PROJECTS_SHARE = 8
"""One project alone gets eight ninths of the places, so that what it lets hang leaves room for another."""

UNREPAIRED = 10
"""Longest pauses that pass before refused credentials are tried again: a probe is one more failed login."""

HINT: dict[Cause, str] = {"away": "", "slow": "", "credentials": ", which is about the credentials that it is sent"}


@dataclass(frozen=True, slots=True)
class Rules:
    """After how many failures in a row a breaker opens, seconds between probes, and requests at once at the most."""

    failures: int
    first: float
    last: float
    requests: int

    @classmethod
    def of(cls, settings: ActorSettings) -> "Rules":
        first, last = settings.breaker_first_ms / 1000, settings.breaker_last_ms / 1000
        return cls(settings.breaker_failures, first, max(first, last), settings.upstream_requests)


class Faulty(Protocol):
    """A connection that is to be tried again."""

    fault: str | None

    async def try_again(self) -> bool:
        """Tell whether the server is reached."""

    def mark_faulty(self, reason: str) -> None:
        """Leave the server out of lists until it is reached again."""


def cause_of(error: Exception) -> Cause | None:
    """Return what a request's failure says of its server; None where the server answered, if not as one would like."""
    if isinstance(error, McpAuthError):
        return "credentials"
    if isinstance(error, McpTooLargeError) or (isinstance(error, McpTransportError) and 300 <= error.status < 500):
        return None
    return "slow" if is_late(error) else "away"


def is_late(error: Exception) -> bool:
    """Tell whether a request failed for want of an answer."""
    return isinstance(error, McpTransportError) and str(error).startswith("no answer")


class Breaker:
    """All connections of one server share it; each request is made inside of `with breaker.place(project)`.

    `since` and `retry_at` are in seconds of the clock `time.monotonic`.
    """

    def __init__(self, server: str, rules: Rules, turned: Callable[["Breaker"], None]) -> None:
        self.server, self._rules, self._turned = server, rules, turned
        self.state: State = "closed"
        self.cause: Cause | None = None
        self.reason = ""
        self.since = self.retry_at = 0.0
        self.refused = self.opened = 0
        """Since the server was first asked for: requests refused, and how often this opened."""

        self._places = Places(rules.requests, PROJECTS_SHARE)
        self._failures: Counter[Cause] = Counter()
        self._attempts = 0
        self._away_at = 0.0
        self._faulty: dict[Faulty, None] = {}
        self._probing: asyncio.Task[None] | None = None

    @property
    def failures(self) -> int:
        """Failures of one kind in a row."""
        return max(self._failures.values(), default=0)

    @property
    def running(self) -> int:
        """Requests at hand."""
        return self._places.taken

    @contextmanager
    def place(self, project: str) -> Iterator[None]:
        """Take one of the places that requests to the server have. Raises `Unavailable`, as `demand` does."""
        self.demand()
        if not self._places.has_room(project):
            text = f"server {self.server} is at its limit of {self._rules.requests} requests at once at this router"
            raise self._refusal(text, "too many requests at once")
        self._places.take(project)
        try:
            yield
        finally:
            self._places.leave(project)

    def demand(self) -> None:
        """Raise `Unavailable` unless the server may be asked."""
        if self.state != "closed":
            now = time.monotonic()
            since, again = now - self.since, max(0.0, self.retry_at - now)
            text = (
                f"{self.reason}{HINT[self.cause or 'away']}; not asked for {since:.0f} s, tried again in {again:.0f} s"
            )
            raise self._refusal(text, self.rule)

    @property
    def rule(self) -> str:
        """What the audit calls its state."""
        return "breaker closed" if self.state == "closed" else f"breaker open: {self.cause}"

    def _refusal(self, text: str, rule: str) -> Unavailable:
        self.refused += 1
        refusal = Unavailable(text)
        refusal.rule = rule
        return refusal

    def succeeded(self) -> None:
        """Note an answer to a request."""
        if self.state == "closed" and (self._failures or self._attempts):
            self._failures.clear()
            self._attempts = 0

    def failed(
        self, upstream: Faulty, cause: Cause, reason: str, *, at_once: bool = False, began: float = math.inf
    ) -> None:
        """Note a failure of what `began` then; with `at_once` it is reason enough to open.

        Requests that were at hand when another one found the server away are of the same failure: a process that ends
        takes all of them with it.
        """
        if self.state != "closed":
            self.cause, self.reason = cause, reason
            return
        if cause == "away":
            if began < self._away_at:
                return
            self._away_at = time.monotonic()
        self._failures[cause] += 1
        if not at_once and self._failures[cause] < self._rules.failures:
            return
        self.state, self.cause, self.reason, self.since = "open", cause, reason, time.monotonic()
        self.opened += 1
        self.retry_at = max(self.retry_at, self.since + self._pause())
        log.warning("breaker open", server=self.server, cause=cause, reason=reason)
        self._turned(self)
        upstream.mark_faulty(reason)

    def watch(self, upstream: Faulty) -> None:
        """Try a faulty connection again until it works."""
        self._faulty[upstream] = None
        if self._probing is None:
            self.retry_at = max(self.retry_at, time.monotonic() + self._pause())
            self._probing = asyncio.create_task(self._probe())

    def mended(self, upstream: Faulty) -> None:
        """Note that a connection is there again: that is as good as a probe."""
        self._leave(upstream)
        if self.state != "closed":
            self._close("it is reached again")

    def forget(self, upstream: Faulty) -> None:
        """Note that a connection is closed: without another one to probe, the next call is the probe."""
        self._leave(upstream)
        if not self._faulty and self.state != "closed":
            self._close("it was changed, or is no longer in use")
            self._failures["away"] = self._rules.failures - 1

    def _leave(self, upstream: Faulty) -> None:
        self._faulty.pop(upstream, None)
        probing = self._probing
        if not self._faulty and probing is not None and probing is not asyncio.current_task():
            self._probing = None
            probing.cancel()

    async def close(self) -> None:
        """End the probing."""
        if self._probing is not None:
            await cancel(self._probing)

    async def _probe(self) -> None:
        while self._faulty:
            await asyncio.sleep(max(0.0, self.retry_at - time.monotonic()))
            if time.monotonic() >= self.retry_at:  # it is put off where the breaker opened meanwhile
                await self._probe_once()
        self._probing = None

    async def _probe_once(self) -> None:
        """Try the faulty connections in turn: while the breaker is open, no further than to the first that fails."""
        self._attempts += 1
        for upstream in tuple(self._faulty):
            if self.state == "open":
                self.state = "half-open"
            if await self._reaches(upstream):
                self.mended(upstream)
            elif self.state != "closed":
                self.state = "open"
                break
        self.retry_at = time.monotonic() + self._pause()

    async def _reaches(self, upstream: Faulty) -> bool:
        try:
            return await upstream.try_again()
        except Exception:
            log.exception("probe failed", server=self.server)  # and the next one may not: nothing else closes this
            return False

    def _close(self, reason: str) -> None:
        self.state, self.reason = "closed", reason
        self._failures.clear()
        log.info("breaker closed", server=self.server)
        self._turned(self)

    def _pause(self) -> float:
        """Return the seconds to the next probe: doubled with each that did not lead to an answered request."""
        if self.cause == "credentials" and self.state != "closed":
            return UNREPAIRED * self._rules.last
        longest: float = min(self._rules.last, self._rules.first * 2 ** min(self._attempts, 30))
        return longest * random.uniform(0.8, 1.0)  # routers do not probe in step
