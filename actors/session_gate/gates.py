"""The gates of projects: who is through, for how long, and what was given there.

A bearer that opens a gate is through for an hour, with all its sessions, and so are requests that belong to no
session. A legacy session that opened it by itself stays through as long as it lasts.
"""

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from weakref import WeakValueDictionary

import structlog

from mcpctl.actors.session_gate.bucket import Overtaken, until_written
from mcpctl.actors.session_gate.endings import Endings
from mcpctl.actors.session_gate.passages import Held, Passages
from mcpctl.actors.session_gate.sessions import Sessions, principal_in
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import gate, token
from mcpctl.bus.contracts.gate import FoundPassage, OpenedGate, OpenGate, Passage
from mcpctl.bus.contracts.session import Session
from mcpctl.bus.errors import BusError, NotFound, Unauthenticated

log = structlog.get_logger()

TAGS, PROMPTS = 64, 500
"""What is remembered of one passage at the most, the first that came."""

BEHIND = 60.0
"""Seconds by which a session's passage may be older than the session: both are let go a day after their last write."""


class Gates:
    """Opens and closes gates, and says who is through. `ttl_ms` is how long a bearer is."""

    def __init__(self, bus: Bus, passages: Passages, endings: Endings, sessions: Sessions, ttl_ms: int) -> None:
        self._bus, self._passages, self._endings, self._sessions = bus, passages, endings, sessions
        self._ttl = timedelta(milliseconds=ttl_ms)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @handles(gate.find_passage)
    async def find_passage(self, request: gate.FindPassage, _caller: Caller) -> FoundPassage:
        principal = await self._principal(request)
        epoch, seq = await self._passages.position()
        for key in _keys(principal, request):
            stored, held = await self._passages.read(key)
            if stored is not None and held is not None:
                return FoundPassage(epoch=epoch, seq=max(seq, stored.seq), passage=held.passage)
        return FoundPassage(epoch=epoch, seq=seq, passage=None)

    @handles(gate.open_gate)
    async def open_gate(self, request: OpenGate, _caller: Caller) -> OpenedGate:
        principal = await self._principal(request)
        async with self._turn(principal.sha):
            opened = await until_written(lambda: self._open(principal, request, None))
            fresh, passage = opened.fresh, opened.passage
            if passage.until is not None:
                self._endings.at(passage.id, passage.until)
            if request.session is not None:
                passage = (await until_written(lambda: self._open(principal, request, request.session))).passage
        await self._passages.flush()  # the client may reach another router next, which must know by then
        await self._take_back_if_ended(principal, request)
        return OpenedGate(fresh=fresh, passage=passage)

    @handles(gate.note_reading)
    async def note_reading(self, request: gate.NoteReading, _caller: Caller) -> FoundPassage:
        principal = await self._principal(request)
        epoch, seq = await self._passages.position()
        passage: Passage | None = None
        async with self._turn(principal.sha):
            for key in reversed(_keys(principal, request)):  # the session's own comes last, and counts
                noted, written = await self._note(key, request)
                passage, seq = noted or passage, max(seq, written)
        return FoundPassage(epoch=epoch, seq=seq, passage=passage)

    @handles(gate.list_gates)
    async def list_gates(self, request: gate.ListGates, _caller: Caller) -> gate.Gates:
        found = await self._passages.find_all(f"{request.project or '*'}.>")
        found.sort(key=lambda each: (each.project, each.kind, each.name, each.sha, each.session or ""))
        return gate.Gates(items=tuple(found))

    @handles(gate.close_gate)
    async def close_gate(self, request: gate.CloseGate, _caller: Caller) -> gate.ClosedGate:
        def is_meant(held: Held) -> bool:
            return request.subject in (None, held.passage.subject)

        closed = await self._passages.remove_all(f"{request.project}.>", is_meant)
        await self._passages.flush()
        return gate.ClosedGate(closed=closed)

    async def keep_session(self, changed: Session) -> None:
        """Write a session's passage again after the session itself: it lasts as long."""
        key = gate.key(changed.project, changed.owner, changed.key)
        try:
            stored, held = await self._passages.read(key)
            if stored is not None and held is not None and time.time() - stored.at / 1e9 > BEHIND:
                await self._passages.write(key, held, stored, fresh=False)
        except Overtaken:
            pass  # written by another just now, or removed
        except BusError as error:
            log.info("passage of a session not written again", error=str(error))

    # --- opening ---

    async def _open(self, principal: token.Principal, request: OpenGate, session: str | None) -> OpenedGate:
        """Try once to write the bearer's passage, or that of a session. Raises `Overtaken`, `Unavailable`."""
        key = gate.key(request.project, principal.sha, session)
        stored, held = await self._passages.read(key)
        now = datetime.now(UTC)
        until = now + self._ttl if session is None else None
        if held is None:
            passage = Passage(
                project=request.project,
                kind=principal.kind,
                name=principal.name,
                sha=principal.sha,
                session=session,
                since=now,
                until=until,
                opened_by=request.by,
                tags=_merged((), request.tags, TAGS),
                prompts=_merged((), request.prompts, PROMPTS),
            )
            left = principal.expires_in_ms
            expires_at = None if left is None else now + timedelta(milliseconds=left)
            await self._passages.write(
                key, Held(passage=passage, owner=principal.owner, expires_at=expires_at), stored, fresh=True
            )
            return OpenedGate(fresh=True, passage=passage)
        passage = _with(held.passage, request)
        if request.by == "begin_session":
            passage = passage.model_copy(update={"until": until})
        if passage != held.passage:
            await self._passages.write(key, held.model_copy(update={"passage": passage}), stored, fresh=False)
        return OpenedGate(fresh=False, passage=passage)

    async def _note(self, key: str, request: gate.NoteReading) -> tuple[Passage | None, int]:
        """Add to a passage; return it and its number, None and 0 where there is none. Raises `Unavailable`."""

        async def attempt() -> tuple[Passage | None, int]:
            stored, held = await self._passages.read(key)
            if stored is None or held is None:
                return None, 0
            passage = _with(held.passage, request)
            if passage == held.passage:
                return passage, stored.seq
            changed = held.model_copy(update={"passage": passage})
            return passage, await self._passages.write(key, changed, stored, fresh=False)

        return await until_written(attempt)

    async def _take_back_if_ended(self, principal: token.Principal, request: OpenGate) -> None:
        """Raise where the bearer or its session ended meanwhile: what closes gates then saw none of these passages."""
        try:
            await self._principal(request)
        except Unauthenticated:
            for key in _keys(principal, request):
                await self._passages.remove(key)
            raise
        except NotFound:
            await self._passages.remove(gate.key(request.project, principal.sha, request.session))
            raise

    async def _principal(self, request: gate.FindPassage | OpenGate | gate.NoteReading) -> token.Principal:
        """Return who asks. Raises `Unauthenticated`, `Forbidden`, and `NotFound` for a session that is not his."""
        principal = await principal_in(self._bus, request.bearer, request.project)
        if request.session is not None:
            found = await self._sessions.by_key(request.session, request.bearer)
            if found.project != request.project:
                raise NotFound("no such session")
        return principal

    def _turn(self, sha: str) -> asyncio.Lock:
        """Return the lock for changes of a bearer: within one replica they wait, and do not overtake each other."""
        return self._turns.setdefault(sha, asyncio.Lock())


def _keys(principal: token.Principal, request: gate.FindPassage | OpenGate | gate.NoteReading) -> list[str]:
    """Return the keys of the passages that let a request through: its session's own first, if it has one."""
    of_session = [gate.key(request.project, principal.sha, request.session)] if request.session else []
    return [*of_session, gate.key(request.project, principal.sha)]


def _with(passage: Passage, given: OpenGate | gate.NoteReading) -> Passage:
    """Return a passage with what was given just now."""
    tags = _merged(passage.tags, given.tags, TAGS)
    prompts = _merged(passage.prompts, given.prompts, PROMPTS)
    return passage.model_copy(update={"tags": tags, "prompts": prompts})


def _merged(known: Iterable[str], new: Iterable[str], limit: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*known, *new)))[:limit]
