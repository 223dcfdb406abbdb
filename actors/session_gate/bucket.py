"""A JetStream key-value bucket, written by compare-and-set: a key's last sequence is its revision."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from mcpctl.bus.deliveries import Stored
from mcpctl.bus.errors import Conflict, NotFound, Unavailable
from mcpctl.bus.service import Service
from mcpctl.bus.streams import Streams, StreamState

OPERATION = "KV-Operation"
"""Header of a message that stands for the removal of its key (ADR-8)."""


ATTEMPTS = 10
"""Times a write is tried that others overtake."""

PAUSE_FIRST, PAUSE_LAST = 0.005, 0.1
"""Seconds to the next attempt, at the most: doubled from the first to the last."""

T = TypeVar("T")


class Overtaken(Exception):
    """Another has written the key since it was read."""


class Bucket:
    """One bucket; `stream` is its JetStream stream, `subject` what stands before each key."""

    def __init__(self, streams: Streams, name: str) -> None:
        self.streams = streams
        self.stream, self.subject = f"KV_{name}", f"$KV.{name}."

    def watch_health(self, service: Service) -> None:
        """Have the service say how the bucket is."""
        service.checks[f"JetStream {self.stream}"] = partial(self.streams.health, self.stream)

    async def state(self) -> StreamState:
        """Return what the bucket's stream holds now. Raises `NotFound`, `Unavailable`."""
        return await self.streams.state(self.stream)

    async def last(self, key: str) -> Stored | None:
        """Return the last message of a key (a removal too), as the stream's leader has it; None where there is none.

        Raises `Unavailable`.
        """
        try:
            return await self.streams.last(self.stream, self.subject + key)
        except NotFound:
            return None

    async def put(
        self, key: str, data: bytes, headers: dict[str, str] | None = None, *, after: int, ttl: int | None = None
    ) -> int:
        """Write a key, for `ttl` seconds where given, and return the new revision.

        Raises `Overtaken` where `after` is not its revision any more (0: it has none), `Unavailable`,
        `DeadlineExceeded`.
        """
        try:
            return await self.streams.put(self.subject + key, data, headers or {}, after=after, ttl=ttl)
        except Conflict:
            raise Overtaken from None

    async def remove(self, key: str, *, after: int, ttl: int) -> int:
        """Note that a key is removed; the note itself is gone after `ttl` seconds. Raises as `put` does."""
        return await self.put(key, b"", {OPERATION: "DEL"}, after=after, ttl=ttl)

    async def keys(self, fitting: str) -> list[str]:
        """Return the keys that fit, those of removed ones too. Raises `NotFound`, `Unavailable`."""
        subjects = await self.streams.subjects(self.stream, self.subject + fitting)
        return [subject.removeprefix(self.subject) for subject in subjects]

    async def purge(self, keys: str) -> None:
        """Remove all keys that fit, without a trace. Raises `NotFound`, `Unavailable`."""
        await self.streams.purge(self.stream, self.subject + keys)


def is_removed(stored: Stored) -> bool:
    """Tell whether a message stands for the removal of its key."""
    return bool(stored.headers.get(OPERATION))


async def until_written(attempt: Callable[[], Awaitable[T]]) -> T:
    """Read and write again while others are faster. Raises `Unavailable` where they always are."""
    pause = PAUSE_FIRST
    for _ in range(ATTEMPTS):
        try:
            return await attempt()
        except Overtaken:
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, PAUSE_LAST)
    raise Unavailable("others are changing this just now: ask again")
