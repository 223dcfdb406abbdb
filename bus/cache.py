"""A cache that is believed only under the lease of the feed it hangs on."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mcpctl.bus.contract import Change
from mcpctl.bus.errors import BusError, DeadlineExceeded, Unavailable
from mcpctl.bus.feed import Follower, now

K = TypeVar("K")
V = TypeVar("V")

LIMIT = 50_000
"""Entries at the most; the oldest goes first."""

REFUSALS = 5_000
"""Refusals at the most: anybody can cause one."""

ATTEMPTS = 5
"""Times the owner is asked for an answer that no change overtakes."""

HEARD = 1000
"""Changes remembered to tell whether one that overtook an answer concerns it."""


@dataclass(slots=True)
class Loaded(Generic[V]):
    """An answer of the owner, true at change `seq` of `epoch`, and the seconds for which it may be kept."""

    epoch: str
    seq: int
    value: V
    ttl: float


class LeasedCache(Generic[K, V]):
    """Answers of the owner, and its refusals (for a shorter time), kept while the follower's lease runs.

    `concerns` tells whether a change is about a key and its value; without it, every change may be.
    """

    def __init__(
        self,
        follower: Follower,
        load: Callable[[K, str], Awaitable[Loaded[V]]],
        *,
        refusals: tuple[type[BusError], ...] = (),
        refusal_ttl: float = 0.0,
        concerns: Callable[[K, V, Change], bool] = lambda _key, _value, _change: True,
    ) -> None:
        self.follower = follower
        self._load = load
        self._refusals, self._refusal_ttl = refusals, refusal_ttl
        self._kept: dict[K, tuple[float, V]] = {}
        self._refused: dict[K, tuple[float, type[BusError], str]] = {}
        self._forgiven = 0
        self._concerns = concerns
        self._heard: deque[Change] = deque()
        self._heard_after = follower.seq
        self._loading: dict[tuple[K, str], asyncio.Task[V]] = {}
        follower.on_change.append(self._note)
        follower.on_reset.append(self._start_anew)

    @property
    def count(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    def peek(self, key: K) -> V | None:
        """Return what is kept and may be believed now, or None. Costs no wait: this is the hot path."""
        entry = self._kept.get(key)
        if entry is None or entry[0] <= now() or not self.follower.trusted:
            return None
        return entry[1]

    def holds(self, key: K) -> bool:
        """Tell whether something is kept, though it may be too old to be believed."""
        return key in self._kept

    async def get(self, key: K, bearer: str) -> V:
        """Return what is kept, or ask the owner on the authority of `bearer`.

        Raises what the owner answers, and `Unavailable` without a lease or while changes overtake every answer.
        """
        kept = self.peek(key)
        if kept is not None:
            return kept
        await self.follower.lease()
        self._raise_refusal(key)
        asked = (key, bearer)  # what one bearer is refused says nothing about another
        task = self._loading.get(asked)
        if task is None:
            task = self._loading[asked] = asyncio.create_task(self._ask(key, bearer))
            task.add_done_callback(lambda done: self._loaded(asked, done))
        return await asyncio.shield(task)

    def _raise_refusal(self, key: K) -> None:
        refused = self._refused.get(key)
        if refused is None:
            return
        until, kind, text = refused
        if until > now():
            raise kind(text)
        del self._refused[key]

    async def _ask(self, key: K, bearer: str) -> V:
        for _ in range(ATTEMPTS):
            forgiven = self._forgiven
            try:
                loaded = await self._load(key, bearer)
            except self._refusals as refusal:
                if forgiven == self._forgiven:
                    _make_room(self._refused, key, REFUSALS)
                    self._refused[key] = now() + self._refusal_ttl, type(refusal), str(refusal)
                raise
            except DeadlineExceeded as silence:
                raise Unavailable(f"the {self.follower.feed.actor} actor does not answer") from silence
            # What the owner said before a change that is known here may be stale. It must not even be returned:
            # whoever acts on it now would not be told of that change again.
            if loaded.epoch != self.follower.epoch:
                await self.follower.catch_up()
            elif not self._overtaken(key, loaded):
                _make_room(self._kept, key, LIMIT)
                self._kept[key] = now() + loaded.ttl, loaded.value
                return loaded.value
        raise Unavailable(f"the {self.follower.feed.actor} actor's answers are overtaken by changes: ask again")

    def _overtaken(self, key: K, loaded: Loaded[V]) -> bool:
        if loaded.seq < self._heard_after:
            return True
        return any(change.seq > loaded.seq and self._concerns(key, loaded.value, change) for change in self._heard)

    def _note(self, change: Change) -> None:
        self._heard.append(change)
        if len(self._heard) > HEARD:
            self._heard_after = self._heard.popleft().seq

    def _start_anew(self) -> None:
        self._heard.clear()
        self._heard_after = self.follower.seq
        self.clear()

    def _loaded(self, asked: tuple[K, str], done: "asyncio.Task[V]") -> None:
        self._loading.pop(asked, None)
        if not done.cancelled():
            done.exception()  # whoever asked may have gone: nobody is left to take it

    def drop(self, concerns: Callable[[K, V], bool]) -> list[V]:
        """Drop what a change concerns, and return it."""
        gone = [key for key, (_, value) in self._kept.items() if concerns(key, value)]
        return [self._kept.pop(key)[1] for key in gone]

    def drop_refusals(self) -> None:
        """Forget the refusals, those on their way here too."""
        self._forgiven += 1
        self._refused.clear()

    def clear(self) -> None:
        self._kept.clear()
        self.drop_refusals()


def _make_room(entries: dict[K, Any], key: K, limit: int) -> None:
    if key not in entries and len(entries) >= limit:
        del entries[next(iter(entries))]
