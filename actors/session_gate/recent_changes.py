"""The latest changes of the sessions, to answer those who follow them."""

import asyncio
from collections import deque

from mcpctl.bus.contract import Change, Changes, PullChanges
from mcpctl.bus.errors import Unavailable

REMEMBERED = 10_000
"""Changes kept to answer pulls; a follower that missed more starts afresh."""

CATCH_UP = 0.7
"""Seconds for which a pull waits until this replica has seen what the bucket holds."""


class RecentChanges:
    """The bucket's latest changes, complete from `base` to `seq` of its stream."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self.epoch, self.base, self.seq = "", 0, 0
        self._limit = limit
        self._changes: deque[Change] = deque()
        self._latest: dict[str, int] = {}
        self._moved = asyncio.Event()

    def begin(self, epoch: str, seq: int) -> None:
        """Forget all, and go on from `seq` of a bucket."""
        self.epoch, self.base, self.seq = epoch, seq, seq
        self._changes.clear()
        self._latest.clear()
        self._wake()

    def take(self, change: Change) -> None:
        """Add the next change of the stream."""
        self._changes.append(change)
        self._latest[change.key] = change.seq
        self.seq = change.seq
        if len(self._changes) > self._limit:
            oldest = self._changes.popleft()
            self.base = oldest.seq
            if self._latest[oldest.key] == oldest.seq:
                del self._latest[oldest.key]
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def latest(self, key: str) -> int:
        """Return the number of the latest change of a session, 0 where none is remembered."""
        return self._latest.get(key, 0)

    async def reach(self, epoch: str, seq: int) -> None:
        """Return when `seq` has been seen. Raises `Unavailable` where that takes too long."""
        try:
            async with asyncio.timeout(CATCH_UP):
                while self.epoch != epoch or self.seq < seq:
                    await self._moved.wait()
        except TimeoutError:
            raise Unavailable("this replica has not seen all changes of the sessions yet") from None

    def since(self, asked: PullChanges) -> Changes:
        """Answer a pull."""
        if asked.epoch != self.epoch or not self.base <= asked.seq <= self.seq:
            return Changes(epoch=self.epoch, seq=self.seq, reset=True)
        missed = []
        for change in reversed(self._changes):
            if change.seq <= asked.seq:
                break
            missed.append(change)
        return Changes(epoch=self.epoch, seq=self.seq, changes=tuple(reversed(missed)))
