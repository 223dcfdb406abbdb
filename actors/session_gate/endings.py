"""What ends passages through gates: their time, their session, and whoever they belong to."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from mcpctl.actors.session_gate.passages import Held, Passages
from mcpctl.bus.connection import Tasks
from mcpctl.bus.contract import Change
from mcpctl.bus.errors import BusError

log = structlog.get_logger()

PAUSE = 0.5
"""Seconds to the next attempt where the bucket could not be asked."""

FEW = 10
"""Bearers for which the bucket is asked one by one; for more, all its passages are looked through."""


class Endings:
    """Removes passages that have ended. All replicas hear the same and try: of what one removed the others find none.

    What ends while no replica runs is missed: a passage then lasts to the end of its hour, or of its session, though
    nobody can use that of a bearer which is revoked.
    """

    def __init__(self, passages: Passages, tasks: Tasks) -> None:
        self._passages, self._tasks = passages, tasks
        self._bearers: set[str] = set()
        self._owners: set[tuple[str, str]] = set()
        self._ended = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def close(self) -> None:
        """Wait for no passage's end any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def at(self, key: str, moment: datetime) -> None:
        """Remove a bearer's passage when its time has passed, so that who follows hears of it."""
        if key in self._timers:
            self._timers[key].cancel()
        left = (moment - datetime.now(UTC)).total_seconds()
        self._timers[key] = asyncio.get_running_loop().call_later(left, self._time_has_passed, key)

    def _time_has_passed(self, key: str) -> None:
        del self._timers[key]
        self._tasks.start(self._quietly(key))

    async def _quietly(self, key: str) -> None:
        try:
            await self._passages.remove_over(key)
        except BusError as error:
            log.info("passage that is over left to be let go", error=str(error))

    async def forget_session(self, session_key: str) -> None:
        """Remove the passage of a session that is closed."""
        try:
            await self._passages.remove_all(f"*.*.{session_key}")
        except BusError as error:
            log.info("passage of a closed session left to be let go", error=str(error))

    def token_changed(self, change: Change) -> None:
        """Follow the feed of tokens: the end of a bearer, and of an owner that is disabled or deleted."""
        if change.action not in ("removed", "revoked"):
            return
        if change.kind == "token":
            self._bearers.add(change.key)
        elif change.kind in ("user", "serviceaccount"):
            self._owners.add((change.kind, change.key))
        self._ended.set()

    async def run(self) -> None:
        """For ever: remove the passages of those who ended, many at a time where many do."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            bearers, self._bearers = self._bearers, set()
            owners, self._owners = self._owners, set()
            try:
                await self._end(bearers, owners)
            except BusError as error:
                log.warning("gates not closed behind who ended, trying again", error=str(error))
                self._bearers |= bearers
                self._owners |= owners
                self._ended.set()
                await asyncio.sleep(PAUSE)

    async def _end(self, bearers: set[str], owners: set[tuple[str, str]]) -> None:
        if owners:
            await self._passages.remove_all(">", _of_owners(owners))
        if len(bearers) > FEW:
            keys = [key for key in await self._passages.keys(">") if key.split(".")[1] in bearers]
            await self._passages.remove_each(keys)
            return
        for sha in bearers:
            for fitting in (f"*.{sha}", f"*.{sha}.*"):
                await self._passages.remove_all(fitting)


def _of_owners(owners: set[tuple[str, str]]) -> Callable[[Held], bool]:
    return lambda held: (held.owner.kind.lower(), held.owner.name) in owners
