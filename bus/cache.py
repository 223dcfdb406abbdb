"""A cache that is believed only under the lease of the feed it hangs on."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mcpctl.bus.contract import Change
from mcpctl.bus.errors import BusError, DeadlineExceeded, Unavailable
from mcpctl.bus.feed import Follower, now

K = TypeVar("K")
V = TypeVar("V")

LIMIT = 50_000
"""Entries at the most; the oldest goes first."""

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
        self._refused: dict[K, tuple[float, BusError]] = {}
        self._forgiven = 0
        self._concerns = concerns
        self._heard: deque[Change] = deque()
        self._heard_after = follower.seq
        self._loading: dict[K, asyncio.Task[V]] = {}
        follower.on_change.append(self._note)
        follower.on_reset.append(self._start_anew)

    def peek(self, key: K) -> V | None:
        """Return what is kept and may be believed now, or None. Costs no wait: this is the hot path."""
        entry = self._kept.get(key)
        if entry is None or entry[0] <= now() or not self.follower.trusted:
            return None
        return entry[1]

    async def get(self, key: K, bearer: str) -> V:
        """Return what is kept, or ask the owner on the authority of `bearer`.

        Raises what the owner answers, and `Unavailable` without a lease or while changes overtake every answer.
        """
        kept = self.peek(key)
        if kept is not None:
            return kept
        self.follower.demand_lease()
        refused = self._refused.get(key)
        if refused is not None and refused[0] > now():
            raise refused[1].with_traceback(None)
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._ask(key, bearer))
            task.add_done_callback(lambda done: self._loaded(key, done))
        return await asyncio.shield(task)

    async def _ask(self, key: K, bearer: str) -> V:
        for _ in range(ATTEMPTS):
            forgiven = self._forgiven
            try:
                loaded = await self._load(key, bearer)
            except self._refusals as refusal:
                if forgiven == self._forgiven:
                    self._keep(self._refused, key, (now() + self._refusal_ttl, refusal))
                raise
            except DeadlineExceeded as silence:
                raise Unavailable(f"the {self.follower.feed.actor} actor does not answer") from silence
            # What the owner said before a change that is known here may be stale. It must not even be returned:
            # whoever acts on it now would not be told of that change again.
            if loaded.epoch != self.follower.epoch:
                await self.follower.catch_up()
            elif not self._overtaken(key, loaded):
                self._keep(self._kept, key, (now() + loaded.ttl, loaded.value))
                return loaded.value
        raise Unavailable(f"the {self.follower.feed.actor} actor's answers are overtaken by changes: ask again")

    def _overtaken(self, key: K, loaded: Loaded[V]) -> bool:
        if loaded.seq >= self.follower.seq:
            return False
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

    def _loaded(self, key: K, done: "asyncio.Task[V]") -> None:
        self._loading.pop(key, None)
        if not done.cancelled():
            done.exception()  # whoever asked may have gone: nobody is left to take it

    @staticmethod
    def _keep(
        entries: dict[K, tuple[float, V]] | dict[K, tuple[float, BusError]],
        key: K,
        entry: tuple[float, object],
    ) -> None:
        if len(entries) >= LIMIT:
            del entries[next(iter(entries))]
        entries[key] = entry  # type: ignore[assignment]  # the two dictionaries differ in the second member only

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
