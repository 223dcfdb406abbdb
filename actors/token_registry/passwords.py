"""Passwords: hashed by argon2 in threads of their own, and guessed only slowly."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from mcpctl.bus.errors import Forbidden, Unauthenticated, Unavailable

T = TypeVar("T")

THREADS = 2
"""Hashes at once: each takes 64 MiB and a core."""

WAITING = 64
"""Hashes that may wait for a thread."""

FREE_FAILURES = 5
LONGEST_WAIT = 60.0
REMEMBERED = 10_000


class Passwords:
    """Makes and checks argon2id hashes (RFC 9106)."""

    def __init__(self, hasher: PasswordHasher) -> None:
        self._hasher = hasher
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="argon2")
        self._waiting = 0
        self._nobodys = self._threads.submit(self._hasher.hash, "nobody has this password")

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Tell whether the password is the one; `stored` None or empty takes as long to say no."""
        return await self._run(lambda: self._verify(stored or self._nobodys.result(), password)) and bool(stored)

    def outdated(self, stored: str) -> bool:
        """Tell whether a hash was made with other parameters than those of now."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        self._threads.shutdown()

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= THREADS + WAITING:
            raise Unavailable("too many passwords are being checked; try again in a moment")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._waiting -= 1


class Throttle:
    """Lets a user's password be guessed five times at once, then ever more slowly: once a minute in the end.

    Unknown names are throttled like known ones, so that the difference tells nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def attempt(self, user: str) -> AsyncIterator[None]:
        """Let one attempt after the other run. Raises `Forbidden` where it comes too soon after failed ones."""
        turn = self._turns.setdefault(user, asyncio.Lock())
        async with turn:
            count, next_at = self._failures.get(user, (0, 0.0))
            wait = next_at - self._clock()
            if wait > 0:
                raise Forbidden(f"too many failed logins as {user}: wait {math.ceil(wait)} s and try again")
            try:
                yield
            except (Unauthenticated, asyncio.CancelledError):
                self._count(user, count + 1)
                raise
            self._failures.pop(user, None)

    def forget(self, user: str) -> None:
        """Let a user's next attempt be a first one."""
        self._failures.pop(user, None)

    def _count(self, user: str, count: int) -> None:
        self._failures.pop(user, None)
        if len(self._failures) >= REMEMBERED:
            del self._failures[next(iter(self._failures))]
        wait = 0.0 if count < FREE_FAILURES else min(LONGEST_WAIT, 2.0 ** min(count - FREE_FAILURES, 10))
        self._failures[user] = (count, self._clock() + wait)
