"""Following an actor's change feed: what makes a cache trustworthy, and for how long.

A broadcast brings a change within milliseconds, but it may be lost. So the follower also pulls every second,
and the answer is a lease: from the moment the pull was *sent*, by this process's own clock, until three
seconds later the cache may be believed. A gap in the numbers pulls at once and leaves the lease as it is; what came
before its turn is told at once too, since it may end something, and again in its turn.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import structlog

from mcpctl.bus import measured, metrics
from mcpctl.bus.connection import Bus, is_clustered
from mcpctl.bus.contract import ELECTION, Change, Changed, Changes, Feed, PullChanges
from mcpctl.bus.errors import BusError, Unavailable

log = structlog.get_logger()

LEASE = 3.0
"""Seconds from the sending of a pull for which its answer vouches."""

PULL_EVERY = 1.0

PULL_SOON = 0.2
"""Seconds to the next pull while the lease is short or over: an answer that came late vouches only briefly."""

COUNTED = 1000
"""Changes of which it is remembered how much they ended."""

Ending = asyncio.Future[int] | int | None

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds on a clock that also runs while the machine is suspended."""
    return time.clock_gettime(_CLOCK)


class Follower:
    """One process's view of one feed. `on_change` and `on_reset` are called in the order of the numbers.

    A change that is heard before its turn is told twice: at once, and again in its turn. So what `on_change` calls must
    bear to hear of a change again. It returns how many calls and streams it has ended, or a task that will; the next
    pull, which what ends something brings about at once, tells the owner that they have ended.
    """

    def __init__(self, bus: Bus, feed: Feed) -> None:
        self.feed = feed
        self.epoch, self.seq = "", -1
        self.on_change: list[Callable[[Change], Ending]] = []
        self.on_reset: list[Callable[[], None]] = []
        self.on_lapse: list[Callable[[], None]] = []
        self._ending: dict[asyncio.Future[int], int] = {}
        self._ended: dict[int, int] = {}
        """Calls and streams ended, by change: all of them, since a pull whose answer was lost may have been noted."""
        self._untold: set[int] = set()
        self._bus = bus
        self._host = f"{socket.gethostname()}:{os.getpid()}"
        self._instance = f"{bus.caller}.{secrets.token_hex(6)}"
        self._lease_until = 0.0
        self._lapsed = True
        self._expiry: asyncio.TimerHandle | None = None
        self._pull_now = asyncio.Event()
        self._pulled = asyncio.Event()
        self._first = asyncio.Event()
        metrics.watch(self)

    def measures(self) -> "Iterator[metrics.Measured]":
        """Yield what metrics tell of this follower."""
        left, of = self._lease_until - now(), (self.feed.actor,)
        yield measured.LEASE_LEFT, max(left, -LEASE), of
        yield measured.FEED_HEARD, self.seq, of
        if self._lease_until:
            yield measured.FEED_AGE, LEASE - left, of

    @property
    def trusted(self) -> bool:
        """Whether the lease still runs. Without it nothing cached may be used."""
        return now() < self._lease_until

    def demand_lease(self) -> None:
        """Raise `Unavailable` where the lease has run out."""
        if not self.trusted:
            raise Unavailable(f"the {self.feed.actor} actor cannot be reached to confirm what is known")

    async def lease(self) -> None:
        """Return when the lease runs: at once, or as soon as a cluster has another leader. Raises `Unavailable`."""
        give_up = self._lease_until + ELECTION
        while not self.trusted and self._lease_until and is_clustered(self._bus.client) and now() < give_up:
            if not self._bus.client.is_connected:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(PULL_SOON):
                    await self._pulled.wait()
        self.demand_lease()

    async def start(self) -> None:
        """Listen to the broadcasts; `run` must be going for the lease to be renewed."""
        await self._bus.listen(self.feed.changed, self._hear)

    async def run(self) -> None:
        """Pull for ever: every second, and at once when a change was missed."""
        try:
            while True:
                self._pull_now.clear()
                try:
                    await self._pull()
                except BusError as error:
                    log.warning("feed not pulled", feed=self.feed.actor, error=str(error))
                self._lapse_if_due()
                try:
                    async with asyncio.timeout(PULL_EVERY if self._lease_until - now() > LEASE / 2 else PULL_SOON):
                        await self._pull_now.wait()
                except TimeoutError:
                    pass
        finally:
            if self._expiry is not None:
                self._expiry.cancel()

    async def first_lease(self) -> None:
        """Return when the feed has been pulled once."""
        await self._first.wait()

    async def catch_up(self) -> None:
        """Pull at once, and return when that is done. Raises `Unavailable` where it takes longer than a lease."""
        pulled = self._pulled
        self._pull_now.set()
        try:
            async with asyncio.timeout(LEASE):
                await pulled.wait()
        except TimeoutError:
            raise Unavailable(f"the {self.feed.actor} actor does not say what changed") from None

    async def _pull(self) -> None:
        sent = now()
        untold, self._untold = self._untold, set()
        ended = {seq: self._ended[seq] for seq in untold if seq in self._ended}
        settled = min(self._ending.values(), default=self.seq + 1) - 1
        asked = PullChanges(
            epoch=self.epoch, seq=self.seq, instance=self._instance, host=self._host, settled=settled, ended=ended
        )
        try:
            answer = await self._bus.call(self.feed.pull, asked)
        except BaseException:
            self._untold |= untold
            raise
        self._apply(asked, answer)
        self._lease_until, self._lapsed = sent + LEASE, False
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(self._lease_until - now(), self._expire)
        self._first.set()
        pulled, self._pulled = self._pulled, asyncio.Event()
        pulled.set()

    def _expire(self) -> None:
        """Say at its very end that the lease has run out, also while a pull still waits for its answer."""
        self._expiry = None
        self._lapse_if_due()
        if not self._lapsed:
            left = max(self._lease_until - now(), 0.001)
            self._expiry = asyncio.get_running_loop().call_later(left, self._expire)

    def _lapse_if_due(self) -> None:
        if not self.trusted and not self._lapsed:
            self._lapsed = True
            for lapse in self.on_lapse:
                lapse()

    def _apply(self, asked: PullChanges, answer: Changes) -> None:
        # Compared with what was asked: a broadcast may have overtaken the answer, which then is no step back.
        if answer.reset or answer.epoch != self.epoch or answer.seq < asked.seq:
            missed = self.epoch != ""
            self.epoch, self.seq = answer.epoch, answer.seq
            for reset in self.on_reset:
                reset()
            for lapse in self.on_lapse if missed else ():
                lapse()  # what was missed may concern anything that runs
            if missed:
                self._pull_now.set()
            return
        for change in answer.changes:
            if change.seq > self.seq:
                self._take(change)
        self.seq = max(self.seq, answer.seq)

    async def _hear(self, changed: Changed) -> None:
        if changed.epoch != self.epoch:
            self._pull_now.set()
        elif changed.change.seq > self.seq + 1:
            self._pull_now.set()
            self._tell(changed.change)  # `seq` stays: what is missing before it is still to come
        elif changed.change.seq == self.seq + 1:
            self._take(changed.change)

    def _take(self, change: Change) -> None:
        self.seq = change.seq
        self._tell(change)

    def _tell(self, change: Change) -> None:
        for take in self.on_change:
            ending = take(change)
            if isinstance(ending, asyncio.Future):
                self._ending[ending] = change.seq
                ending.add_done_callback(self._note_ended)
            elif ending:
                self._count(change.seq, ending)
        if change.action != "created":
            self._pull_now.set()  # somebody may be waiting to hear that it has been acted upon

    def _note_ended(self, ending: "asyncio.Future[int]") -> None:
        seq = self._ending.pop(ending)
        if not ending.cancelled() and ending.exception() is None and ending.result():
            self._count(seq, ending.result())
        self._pull_now.set()

    def _count(self, seq: int, ended: int) -> None:
        self._ended[seq] = self._ended.get(seq, 0) + ended
        self._untold.add(seq)
        if len(self._ended) > COUNTED:
            del self._ended[next(iter(self._ended))]
