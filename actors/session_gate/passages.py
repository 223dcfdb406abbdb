"""Passages through the gates of projects, in the bucket of sessions: so their changes are numbered by its feed.

A bearer's passage has the key `gate.<project>.<sha>`, that of one of its legacy sessions has the session's key behind.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TypeVar

from pydantic import ValidationError

from mcpctl.actors.session_gate.bucket import OPERATION, Bucket, Overtaken, is_removed, until_written
from mcpctl.actors.session_gate.recent_changes import RecentChanges
from mcpctl.actors.session_gate.sessions import ACTION, Action
from mcpctl.bus.connection import Publisher
from mcpctl.bus.contract import Change, Changed, Message
from mcpctl.bus.contracts import gate, session, token
from mcpctl.bus.contracts.gate import Passage
from mcpctl.bus.deliveries import Stored
from mcpctl.bus.errors import Unavailable

PREFIX = f"{gate.KIND}."

AT_ONCE = 32
"""Keys that are read or removed at the same time."""

T = TypeVar("T")


class Held(Message):
    """What the bucket has: the passage, whose bearer it is, and when that expires by itself."""

    passage: Passage
    owner: token.Owner
    expires_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether its time has passed: then it counts as none."""
        now = datetime.now(UTC)
        return any(end is not None and end <= now for end in (self.passage.until, self.expires_at))


class Passages:
    """The passages in their bucket. A `key` here is what `gate.key` makes."""

    def __init__(self, bucket: Bucket, recent: RecentChanges, publisher: Publisher) -> None:
        self._bucket, self._recent, self._publisher = bucket, recent, publisher

    async def position(self) -> tuple[str, int]:
        """Return the epoch and number of the bucket's latest change: what is read next is at least as new."""
        state = await self._bucket.state()
        return state.created, state.last

    async def read(self, key: str) -> tuple[Stored | None, Held | None]:
        """Return what is stored under a key, and the passage, if that is one and not over. Raises `Unavailable`."""
        stored, held = await self._read(key)
        return stored, None if held is not None and held.is_over else held

    async def _read(self, key: str) -> tuple[Stored | None, Held | None]:
        known = self._recent.latest(key)
        stored = await self._bucket.last(PREFIX + key)
        if stored is None:
            return None, None
        if stored.seq < known:
            raise Unavailable("the bucket of sessions was read from a server that lags behind")
        if is_removed(stored):
            return stored, None
        try:
            return stored, Held.model_validate_json(stored.data)
        except ValidationError:
            return stored, None

    async def write(self, key: str, held: Held, stored: Stored | None, *, fresh: bool) -> int:
        """Write a passage after what was stored, and return its number. Raises `Overtaken`, `Unavailable`."""
        return await self._put(key, held.model_dump_json().encode(), stored, "created" if fresh else "changed")

    async def remove(self, key: str, meant: Callable[[Held], bool] = lambda _: True) -> bool:
        """Remove a passage if it is meant, and tell whether there was such a one. Raises `Unavailable`."""

        async def attempt() -> bool:
            stored, held = await self.read(key)
            if held is None or not meant(held):
                return False
            await self._put(key, b"", stored, "removed")
            return True

        return await until_written(attempt)

    async def remove_over(self, key: str) -> None:
        """Remove a passage whose time has passed. Raises `Unavailable`."""
        stored, held = await self._read(key)
        if held is not None and held.is_over:
            with suppress(Overtaken):
                await self._put(key, b"", stored, "removed")

    async def keys(self, fitting: str) -> list[str]:
        """Return the keys that fit (`web.>`), those of removed passages too. Raises `Unavailable`."""
        return [key.removeprefix(PREFIX) for key in await self._bucket.keys(PREFIX + fitting)]

    async def remove_each(self, keys: Sequence[str], meant: Callable[[Held], bool] = lambda _: True) -> int:
        """Remove passages, those that are meant, and return how many there were. Raises `Unavailable`."""
        return sum(await _each(keys, lambda key: self.remove(key, meant)))

    async def remove_all(self, fitting: str, meant: Callable[[Held], bool] = lambda _: True) -> int:
        """Remove the passages whose keys fit, as `remove_each` does. Raises `Unavailable`."""
        return await self.remove_each(await self.keys(fitting), meant)

    async def find_all(self, fitting: str) -> list[Passage]:
        """Return the passages whose keys fit, those for closed sessions left out. Raises `Unavailable`."""

        async def find(key: str) -> Passage | None:
            held = (await self.read(key))[1]
            return held.passage if held is not None and await self._is_for_open_session(held.passage) else None

        return [found for found in await _each(await self.keys(fitting), find) if found is not None]

    async def flush(self) -> None:
        """Return when those who follow are told of all changes."""
        await self._publisher.flush()

    async def _put(self, key: str, data: bytes, stored: Stored | None, action: Action) -> int:
        epoch = self._recent.epoch
        if not epoch:
            raise Unavailable("the bucket of sessions has not been read yet")
        headers = {ACTION: action} | ({OPERATION: "DEL"} if action == "removed" else {})
        seq = await self._bucket.put(PREFIX + key, data, headers, after=0 if stored is None else stored.seq)
        change = Change(seq=seq, kind=gate.KIND, key=key, action=action)
        await self._publisher.publish(session.feed.changed, Changed(epoch=epoch, change=change))
        return seq

    async def _is_for_open_session(self, passage: Passage) -> bool:
        """Tell whether a passage's session is there still: one that was closed may leave its passage for a moment."""
        if passage.session is None:
            return True
        stored = await self._bucket.last(passage.session)
        return stored is not None and not is_removed(stored)


async def _each(keys: Sequence[str], work: Callable[[str], Awaitable[T]]) -> list[T]:
    some = asyncio.Semaphore(AT_ONCE)

    async def one(key: str) -> T:
        async with some:
            return await work(key)

    return await asyncio.gather(*map(one, keys))
