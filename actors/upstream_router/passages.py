"""Who is through the gates of projects, as the SessionGate says, under the lease of its feed."""

from datetime import UTC, datetime

from mcpctl.bus.bearer import digest
from mcpctl.bus.cache import LeasedCache, Loaded
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts import gate
from mcpctl.bus.contracts.gate import FoundPassage, Passage
from mcpctl.bus.feed import Follower
from mcpctl.bus.frames import Request

FOR_LONG = 3600.0
"""Seconds for which is kept what has no end of its own: the feed drops it when it changes."""

Key = tuple[str, str, str]
"""A bearer's SHA-256, a project, and a session's key or an empty text."""


class Passages:
    """The passages of callers; only those of gated projects are ever asked for."""

    def __init__(self, bus: Bus, sessions: Follower) -> None:
        self._bus = bus
        self._found: LeasedCache[Key, FoundPassage] = LeasedCache(sessions, self._load, concerns=_concerns)
        sessions.on_change.append(self._changed)

    async def of(self, head: Request) -> Passage | None:
        """Return the passage of a request's caller, None where the gate is closed.

        Raises `Unavailable` where the SessionGate cannot be reached, and what it answers.
        """
        key = (digest(head.bearer), head.project, head.session or "")
        return (await self._found.get(key, head.bearer)).passage

    async def _load(self, key: Key, bearer: str) -> Loaded[FoundPassage]:
        _, project, session = key
        asked = gate.FindPassage(bearer=bearer, project=project, session=session or None)
        found = await self._bus.call(gate.find_passage, asked)
        until = found.passage.until if found.passage is not None else None
        left = FOR_LONG if until is None else (until - datetime.now(UTC)).total_seconds()
        return Loaded(found.epoch, found.seq, found, min(FOR_LONG, left))

    def _changed(self, change: Change) -> None:
        if change.kind == gate.KIND:
            self._found.drop(lambda key, found: _concerns(key, found, change))


def _concerns(key: Key, _found: FoundPassage, change: Change) -> bool:
    sha, project, session = key
    return change.kind == gate.KIND and change.key in (gate.key(project, sha), gate.key(project, sha, session))
