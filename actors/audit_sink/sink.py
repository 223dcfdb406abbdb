"""The AuditSink: from the stream into the ledger, from there to whoever asks or listens."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import partial

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session

from mcpctl.actors.audit_sink import anchors, ledger, purging, search, verifying
from mcpctl.actors.audit_sink.anchors import AnchorFile
from mcpctl.actors.audit_sink.heads import Notary
from mcpctl.actors.audit_sink.held import Held
from mcpctl.actors.audit_sink.ledger import Appended, Position
from mcpctl.actors.audit_sink.tail import GATHER, LOOK_AGAIN, Tail
from mcpctl.actors.audit_sink.usage import Counting
from mcpctl.actors.audit_sink.watching import Watching
from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.storage import Store, database_url
from mcpctl.bus import measured, metrics
from mcpctl.bus.actor import Actor, Caller, event_of, handles
from mcpctl.bus.connection import Bus, Publisher, cancel, run_together
from mcpctl.bus.context import remaining
from mcpctl.bus.contract import Need
from mcpctl.bus.contracts import audit
from mcpctl.bus.deliveries import Stored
from mcpctl.bus.errors import BusError, Unavailable
from mcpctl.bus.permissions import SINK_CONSUMER
from mcpctl.bus.shared_consumer import SharedConsumer
from mcpctl.bus.streams import Streams

log = structlog.get_logger()

SEE_AUDIT = Need("view", "audit")

ACK_SECONDS = 5
"""After so long without an ack a message is given to another sink."""

MAX_HELD = 4000
"""Messages in the hands of all sinks together."""

HELD_BYTES = 64 * 1024 * 1024
PULL = 1000
PULL_BYTES = 16 * 1024 * 1024
PULL_SECONDS = 1.0
COMMIT_BYTES = 2 * 1024 * 1024
"""Bytes of events in one transaction: large enough to share one disk sync among thousands."""

STALL_SECONDS = 15.0
"""After so long without the message whose turn it is, it is asked whether the stream has it still."""

BREATH = 0.1
"""Seconds between two pulls of which the first was refused."""

OUT_OF_TURN = 0.02
"""Seconds between looks at the position while another sink has its turn."""

CLOCK_STEP_NS = 60 * 1_000_000_000
"""How much a server's clock may be set back without its stream being taken for a new one."""

MARGIN = 0.5
"""Seconds of a follower's time budget that are kept for the answer."""

ANCHOR_SECONDS = 1.0
"""Between two anchorings of what was signed since."""

PURGE_SECONDS = 20.0
"""How long one answer goes on purging."""

COMPANY = 0.03
"""Seconds that an event waits for others before it is committed: about what an auditor hears it later."""


class OutOfStep(Exception):
    """The ledger cannot go on with what the stream delivers: both must be looked at anew."""


class AuditSink(Actor):
    """Writes every event into the ledger, in order and once, then broadcasts it."""

    role = "audit"
    audited = frozenset({"purge"})

    def __init__(self, bus: Bus, settings: ActorSettings) -> None:
        super().__init__(bus)
        self._url = settings.nats_url
        self._data = settings.data_dir
        url = settings.database_url.get_secret_value() if settings.database_url else None
        self._store = Store(self.role, database_url(self.role, url, settings.data_dir))
        self._held = Held(MAX_HELD, HELD_BYTES)
        self._position = Position("", 0, 0, 0)
        self._tail = Tail(bus)
        self._anchors = AnchorFile(settings.data_dir / "audit" / "heads.jsonl")
        self._unanchored: dict[str, audit.Head] = {}
        self._chains: set[str] = set()
        metrics.watch(self)
        self.parts = (Counting(self._store),)
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        """Open the ledger and begin to drain the stream. Raises `KeyringRefused`, `NewerDatabase`, `Unavailable`."""
        self._opened.push_async_callback(self._store.close)
        await self._store.open_patiently()
        self.service.checks["database"] = self._store.health
        self.needs["database"] = self._store.reachable
        self._notary = Notary(self._data / "keys" / "audit-heads.json")
        if self._notary.made_keys:
            self._written(await self._store.write(lambda session: ledger.adopt(session, self._notary)))
        self._notary.heard(self._anchors.newest())
        self._publisher = await Publisher.connect(self._url, self.identity, self.bus.closed.set)
        self._opened.push_async_callback(self._publisher.close)
        await self.bus.listen(audit.headed, self._heard)
        anchoring = asyncio.create_task(self._anchor_on_and_on())
        self._opened.push_async_callback(self._anchor)
        self._opened.push_async_callback(cancel, anchoring)
        self._streams = await Streams.connect(self._url, self.identity, self.bus.closed.set)
        self.service.checks[f"JetStream {audit.STREAM}"] = partial(self._streams.health, audit.STREAM)
        self._opened.push_async_callback(self._streams.close)
        self._consumer = SharedConsumer(self._streams, audit.STREAM, SINK_CONSUMER)
        self._watching = Watching(self._streams, lambda: self._position)
        self._opened.push_async_callback(cancel, asyncio.create_task(self._watching.run()))
        self._draining = asyncio.create_task(self._drain())
        self._draining.add_done_callback(self._drain_ended)
        self._opened.push_async_callback(self._stop_draining)

    def measures(self) -> Iterator[metrics.Measured]:
        """Yield what metrics tell of this sink."""
        yield measured.CHAINS, len(self._chains), ()

    async def close(self) -> None:
        await self._opened.aclose()

    async def _stop_draining(self) -> None:
        await cancel(self._draining)
        for stored in self._held.take_all():
            await self._consumer.give_back(stored)
        await self._consumer.hand_over()

    @handles(audit.query)
    async def query(self, request: audit.Query, _caller: Caller) -> audit.Entries:
        wanted = _within(request.filter, request.project)
        return await self._store.read(lambda session: search.newest(session, wanted, request.limit))

    @handles(audit.follow)
    async def follow(self, request: audit.Follow, _caller: Caller) -> audit.Entries:
        wanted = _within(request.filter, request.project)
        until = time.monotonic() + min(request.wait_ms / 1000, remaining(audit.follow.timeout) - MARGIN)
        entries = await self._look(wanted, request.cursor)
        if entries.items or time.monotonic() >= until:
            return entries
        async with self._tail.heard():
            while not entries.items and time.monotonic() < until:
                growth = self._tail.growth
                entries = await self._look(wanted, entries.cursor)
                if not entries.items:
                    await _wait(growth, min(until - time.monotonic(), LOOK_AGAIN))
                    await asyncio.sleep(GATHER)
        # The right was checked before the wait; it may have been taken away since.
        await self.authorize(request.bearer, SEE_AUDIT, None, request.project)
        return entries

    @handles(audit.verify)
    async def verify(self, request: audit.Verify, _caller: Caller) -> audit.Verified:
        self._notary.refresh()
        await self._anchor()

        def check(session: Session) -> audit.Verified:
            kept = anchors.joined(self._anchors.read(), request.anchors)  # before the session sees anything
            return verifying.verify(session, self._notary, kept, request.project, request.place)

        found = await self._store.read(check)
        if found.place is not None or request.project is not None:
            return found
        info = await self._streams.ask(f"STREAM.INFO.{audit.STREAM}", {"deleted_details": True})
        position = await self._store.read(ledger.position) or Position(info["created"], 0, 0, 0)
        faults = (*found.faults, *verifying.stream_faults(info, position))
        waiting = max(info["state"]["last_seq"] - position.seq, 0)
        return found.model_copy(update={"faults": faults, "waiting": waiting})

    @handles(audit.purge)
    async def purge(self, request: audit.Purge, caller: Caller) -> audit.PurgedChains:
        until = time.monotonic() + min(PURGE_SECONDS, remaining(audit.purge.timeout) / 2)
        by = event_of(caller.authority)
        projects = (request.project,) if request.project is not None else await self._store.read(purging.chains)
        removed: list[audit.Purged] = []
        for project in projects:
            due = await self._store.read(partial(purging.due, project=project, before=request.before))
            if due is None or request.dry_run:
                removed += [due] if due else []
                continue
            while (portion := await self._purge(due, by)) is not None:
                removed.append(portion)
                if time.monotonic() > until:
                    return audit.PurgedChains(items=purging.together(removed), more=True)
        return audit.PurgedChains(items=purging.together(removed))

    async def _purge(self, due: audit.Purged, by: dict[str, object]) -> audit.Purged | None:
        portion = await self._store.write(lambda session: purging.purge(session, self._notary, due, by))
        await self._broadcast(portion.appended)
        return portion.purged

    async def _look(self, wanted: audit.Filter, cursor: int) -> audit.Entries:
        return await self._store.read(lambda session: search.after(session, wanted, cursor))

    async def _drain(self) -> None:
        """Fetch and commit for ever; whatever goes wrong on the way is tried again."""
        while True:
            try:
                await self._attach()
                await run_together(self._fetch(), self._commit())
            except (BusError, OutOfStep) as error:
                log.warning("audit stream not drained, trying again", error=str(error))
            await asyncio.sleep(0.2)

    def _drain_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled():
            log.error("audit stream is not drained any more", exc_info=task.exception())
            self.bus.closed.set()

    async def _attach(self) -> None:
        before = await self._store.read(ledger.position)
        stream = await self._streams.state(audit.STREAM)
        aligned = await self._store.write(lambda session: ledger.align(session, self._notary, before, stream))
        if aligned.position.stream != self._position.stream:
            self._held.take_all()
            self._position = aligned.position
        await self._announce(aligned)
        config = {
            "filter_subject": f"{audit.APPEND}.*",
            "ack_wait": ACK_SECONDS * 1_000_000_000,
            "max_ack_pending": MAX_HELD,
            "deliver_policy": "all",
        }
        await self._consumer.make(config)

    async def _fetch(self) -> None:
        while True:
            await self._make_room()
            asked = time.monotonic()
            arriving = self._consumer.pull(PULL, PULL_BYTES, PULL_SECONDS)
            async with aclosing(arriving):
                async for stored in arriving:
                    self._held.add(stored)
                    asked = 0.0
            if time.monotonic() - asked < BREATH:
                await asyncio.sleep(BREATH)  # refused at once: it would be again

    async def _make_room(self) -> None:
        """Wait until more may be fetched; what only waits for another sink's turn is given back for that."""
        while self._held.full:
            if not self._held.run(self._position.seq, 1):
                for stored in self._held.take_latest_half():
                    await self._consumer.give_back(stored)
                return
            await _wait(self._held.room, ACK_SECONDS)

    async def _commit(self) -> None:
        pause = 0.1
        went_on = time.monotonic()
        while True:
            self._held.arrived.clear()
            await self._let_go()
            if self._held:
                await asyncio.sleep(COMPANY)  # a commit costs much more than an event: let others come along
            messages = self._held.run(self._position.seq, COMMIT_BYTES)
            try:
                if messages:
                    await self._announce(await self._append(messages))
                    went_on = time.monotonic()
                elif not self._held:
                    await self._held.arrived.wait()
                    went_on = time.monotonic()
                elif time.monotonic() - went_on > STALL_SECONDS:
                    raise OutOfStep(f"message {self._position.seq + 1} of the stream does not come")
                else:
                    await _wait(self._held.arrived, OUT_OF_TURN)
                    await self._refresh()
                pause = 0.1
            except Unavailable as error:
                log.warning("ledger not written, trying again", error=str(error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, 2.0)

    async def _append(self, messages: Sequence[Stored]) -> Appended:
        stream = self._position.stream
        try:
            return await self._store.write(lambda session: ledger.append(session, self._notary, stream, messages))
        except (SQLAlchemyError, ValueError) as error:
            log.exception("events not taken by the database", messages=len(messages))
            fault = f"not taken by the database ({type(error).__name__})"
        first = messages[:1]
        if len(messages) > 1:
            return await self._append(first)
        return await self._store.write(lambda session: ledger.append(session, self._notary, stream, first, fault))

    async def _announce(self, appended: Appended) -> None:
        """Go on from a new position, and broadcast what was added; only then its messages are let go."""
        if appended.position.stream != self._position.stream:
            raise OutOfStep("the ledger follows another stream now")
        self._position = appended.position
        await self._broadcast(appended)

    async def _broadcast(self, appended: Appended) -> None:
        self._written(appended.heads)
        if appended.tail:
            await self._publisher.publish_all(appended.tail)
            measured.ENTRIES.add(by=len(appended.tail))
            self._tail.grow()

    def _written(self, heads: Sequence[audit.Head]) -> None:
        self._notary.written(heads)
        self._chains |= {head.project for head in heads}
        self._unanchored |= {head.project: head for head in heads}

    async def _anchor_on_and_on(self) -> None:
        while True:
            await asyncio.sleep(ANCHOR_SECONDS)
            self._notary.refresh()
            await self._anchor()

    async def _anchor(self) -> None:
        """Keep what was signed outside of the database: in this sink's file, and (they hear of it) in the others'."""
        heads, self._unanchored = tuple(self._unanchored.values()), {}
        if heads:
            self._keep(heads)
            await self._publisher.publish(audit.headed, audit.Heads(items=heads))

    async def _heard(self, heads: audit.Heads) -> None:
        self._keep(self._notary.heard(heads.items))

    def _keep(self, heads: Sequence[audit.Head]) -> None:
        try:
            self._anchors.add(heads)
            measured.ANCHORS.add(("kept",), len(heads))
        except OSError as error:
            measured.ANCHORS.add(("failed",), len(heads))
            log.warning("heads of the audit chains not anchored", path=str(self._anchors.path), error=str(error))

    async def _let_go(self) -> None:
        """Ack what is in the ledger."""
        for stored in self._held.take_until(self._position.seq):
            if stored.at > self._position.at + CLOCK_STEP_NS:
                raise OutOfStep("a message is newer than its place in the stream allows")
            await self._consumer.ack(stored)

    async def _refresh(self) -> None:
        found = await self._store.read(ledger.position)
        if found is not None:
            await self._announce(Appended(found))


def _within(wanted: audit.Filter, project: str | None) -> audit.Filter:
    """Return the filter bounded to the project for which the right was checked."""
    return wanted if project is None else wanted.model_copy(update={"project": project})


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(max(seconds, 0)):
            await event.wait()
    except TimeoutError:
        pass
