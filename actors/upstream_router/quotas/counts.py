"""What has been used of each limit: a bucket for a rate, the holders for what is held. Nothing here waits."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from mcpctl.actors.upstream_router.quotas.limits import Limit

HELD_RETRY = 1.0
"""Seconds after which it is worth asking again for what others hold: when they let go is not known."""

BUCKETS = 10_000
"""Buckets past which those that are full again are forgotten."""


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Which of the limits that were asked for (its index) is used up, and the seconds until it may not be any more."""

    limit: int
    seconds: float


Held = Mapping[str, Mapping[str, int]]
"""By the key of a limit: how often a router holds each thing."""


@dataclass(slots=True)
class _Bucket:
    """`left` requests were left at `at`; it may be in debt where routers had to decide alone."""

    left: float
    at: float
    limit: Limit

    def fill(self, now: float) -> None:
        self.left = min(self.limit.most, self.left + (now - self.at) * self.limit.per_second)
        self.at = now


class Counts:
    """The use of limits by routers, as the one who keeps it knows it. `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._holders: dict[str, dict[str, Counter[str]]] = {}
        """By limit, then by thing: how often which router holds it. A thing that several hold counts once."""

    def take(self, router: str, thing: str, limits: Iterable[Limit]) -> Refusal | None:
        """Use all limits or none. Return which one refused."""
        now, buckets = self._clock(), []
        for index, limit in enumerate(limits):
            if limit.per_second:
                bucket = self._bucket(limit, now)
                if bucket.left < 1:
                    return Refusal(index, (1 - bucket.left) / limit.per_second)
                buckets.append(bucket)
            else:
                holders = self._holders.get(limit.key, {})
                if len(holders) >= limit.most and thing not in holders:
                    return Refusal(index, HELD_RETRY)
        for bucket in buckets:
            bucket.left -= 1
        for limit in limits:
            if not limit.per_second:
                self._holders.setdefault(limit.key, {}).setdefault(thing, Counter())[router] += 1
        return None

    def give_back(self, router: str, thing: str, keys: Iterable[str]) -> None:
        """Take back what was used: of a rate one request, of what is held one thing."""
        for key in keys:
            if bucket := self._buckets.get(key):
                bucket.left = min(bucket.limit.most, bucket.left + 1)
            holders = self._holders.get(key, {})
            if thing in holders:
                holders[thing][router] -= 1
                self._clean(key, thing, router)

    def set_held(self, router: str, held: Held) -> None:
        """Replace what a router holds."""
        self.drop(router)
        for key, things in held.items():
            holders = self._holders.setdefault(key, {})
            for thing, times in things.items():
                holders.setdefault(thing, Counter())[router] = times

    def drop(self, router: str) -> None:
        """Forget what a router holds: it is gone."""
        for key, holders in list(self._holders.items()):
            for thing in [thing for thing, routers in holders.items() if router in routers]:
                holders[thing][router] = 0
                self._clean(key, thing, router)

    def _clean(self, key: str, thing: str, router: str) -> None:
        holders = self._holders[key]
        if holders[thing][router] <= 0:
            del holders[thing][router]
        if not holders[thing]:
            del holders[thing]
        if not holders:
            del self._holders[key]

    def _bucket(self, limit: Limit, now: float) -> _Bucket:
        bucket = self._buckets.get(limit.key)
        if bucket is None:
            if len(self._buckets) >= BUCKETS:
                self._forget_full(now)
            bucket = self._buckets[limit.key] = _Bucket(limit.most, now, limit)
        bucket.limit = limit  # as the latest caller knows it
        bucket.fill(now)
        return bucket

    def _forget_full(self, now: float) -> None:
        for key, bucket in list(self._buckets.items()):
            bucket.fill(now)
            if bucket.left >= bucket.limit.most:
                del self._buckets[key]
