"""The owner's side of a change feed: numbered in the transaction of the change, broadcast after it.

The number comes from a counter row that the transaction locks, so the order of numbers is the order of commits
(a database sequence would not promise that).
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal, TypeVar

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Field, Session, SQLModel, col, select

from mcpctl.actors.leases import Leases
from mcpctl.actors.storage import Store
from mcpctl.bus import measured, metrics
from mcpctl.bus.connection import Publisher
from mcpctl.bus.context import note_committed
from mcpctl.bus.contract import (
    Change,
    Changed,
    Changes,
    Committed,
    Feed,
    GetReceipt,
    PullChanges,
    Receipt,
)
from mcpctl.bus.feed import LEASE

T = TypeVar("T")

LOOK_AGAIN = 0.1
"""Seconds after which one who waits for a confirmation looks again: another replica may have been told."""

PAGE = 1000
"""Changes in one answer at the most; a follower that missed more starts afresh."""


class ChangeCounter(SQLModel, table=True):
    """One row: the epoch (new after a restore) and the number of the latest change."""

    __tablename__ = "change_counter"
    id: int = Field(primary_key=True)
    epoch: str
    seq: int


class ChangeRow(SQLModel, table=True):
    """A change, numbered."""

    __tablename__ = "change"
    seq: int = Field(primary_key=True)
    kind: str
    key: str
    action: str
    at: datetime


class Changing:
    """A transaction's session that also records what changes in it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.recorded: list[Change] = []
        self.epoch = ""

    def record(self, kind: str, key: str, action: Literal["created", "changed", "removed", "revoked"]) -> None:
        """Give a change of this transaction its number."""
        self.session.execute(update(ChangeCounter).values(seq=ChangeCounter.seq + 1))
        counter = self.session.exec(select(ChangeCounter).execution_options(populate_existing=True)).one()
        self.epoch = counter.epoch
        row = ChangeRow(seq=counter.seq, kind=kind, key=key, action=action, at=datetime.now(UTC))
        self.session.add(row)
        self.recorded.append(Change(seq=counter.seq, kind=kind, key=key, action=action))

    def begin_epoch(self) -> None:
        """Go on under a new epoch: every follower drops what it knows.

        The numbers go on, and the changes so far stay: they tell what was ever removed or revoked.
        """
        self.session.execute(update(ChangeCounter).values(epoch=secrets.token_hex(8)))
        self.recorded = []
        self.record("everything", "*", "changed")


class ChangeFeed:
    """Numbers, keeps and broadcasts the changes of one actor."""

    def __init__(self, store: Store, publisher: Publisher, feed: Feed, leases: Leases) -> None:
        self._store, self._publisher, self._feed, self._leases = store, publisher, feed, leases
        self.on_written: list[Callable[[list[Change]], None]] = []
        """called with the changes of each transaction, here and not at other replicas"""

        self._asked: dict[str, float] = {}
        self._seq = -1
        metrics.watch(self)

    def measures(self) -> Iterator[metrics.Measured]:
        """Yield what metrics tell of the feed, as this replica knows it."""
        horizon = time.monotonic() - LEASE
        self._asked = {who: at for who, at in self._asked.items() if at > horizon}
        yield measured.FOLLOWERS, len(self._asked), (self._feed.actor,)
        yield measured.FEED_CHANGE, self._seq, (self._feed.actor,)

    async def open(self) -> None:
        """Make the counter row at the very first start."""

        def begin(session: Session) -> None:
            if session.exec(select(ChangeCounter)).first() is None:
                session.add(ChangeCounter(id=1, epoch=secrets.token_hex(8), seq=0))

        with suppress(IntegrityError):  # another replica was first
            await self._store.write(begin)
        await self._leases.open()

    async def write(self, work: Callable[[Changing], T]) -> T:
        """Run `work` in one transaction, then tell everybody what it recorded."""

        def run(session: Session) -> tuple[T, Changing]:
            changing = _alone(session)
            return work(changing), changing

        result, changing = await self._store.write(run)
        for change in changing.recorded:
            await self._publisher.publish(self._feed.changed, Changed(epoch=changing.epoch, change=change))
        if changing.recorded:
            measured.CHANGES.add((self._feed.actor,), len(changing.recorded))
            first, last = changing.recorded[0].seq, changing.recorded[-1].seq
            note_committed(Committed(actor=self._feed.actor, epoch=changing.epoch, first=first, last=last))
        for written in self.on_written:
            written(changing.recorded)
        return result

    async def rehearse(self, work: Callable[[Changing], T]) -> T:
        """Run `work` as `write` does, and take everything back: nobody hears of it."""

        def run(session: Session) -> T:
            result = work(_alone(session))
            session.flush()
            session.rollback()
            return result

        return await self._store.write(run)

    async def pull(self, asked: PullChanges, caller: str) -> Changes:
        """Answer a follower's pull, from the database itself: never from a copy.

        It is remembered as a follower first: so a change that this answer does not have yet finds it there.
        """
        _, seq = (asked.epoch, asked.seq) if asked.epoch else await self._store.read(position)
        await self._leases.renew(asked, caller, seq)
        self._asked[f"{caller}/{asked.instance}"] = time.monotonic()
        found = await self._store.read(lambda session: _changes_since(session, asked))
        self._seq = max(self._seq, found.seq)
        return found

    async def receipt(self, asked: GetReceipt) -> Receipt:
        """Return who has confirmed some changes, once everybody has or the time is over."""
        give_up = time.monotonic() + asked.wait_ms / 1000
        while True:
            renewed = self._leases.renewed
            epoch, ms = await self._store.read(lambda session: _since(session, asked.committed))
            followers = await self._leases.followers(epoch, asked.committed)
            left = give_up - time.monotonic()
            if all(follower.confirmed for follower in followers) or left <= 0:
                return Receipt(epoch=epoch, last=asked.committed.last, ms=ms, followers=followers)
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_AGAIN)):
                    await renewed.wait()


def _alone(session: Session) -> Changing:
    """Begin a change. PostgreSQL: one at a time, so that what it checks is still true when it commits."""
    session.exec(select(ChangeCounter).with_for_update()).one()
    return Changing(session)


def _since(session: Session, committed: Committed) -> tuple[str, int]:
    """Return the epoch, and the milliseconds since the first of some changes."""
    epoch, _ = position(session)
    began = session.get(ChangeRow, committed.first)
    ms = 0.0 if began is None else (datetime.now(UTC) - began.at.replace(tzinfo=UTC)).total_seconds() * 1000
    return epoch, max(int(ms), 0)


def position(session: Session) -> tuple[str, int]:
    """Return the epoch and number as of which this session reads."""
    counter = session.exec(select(ChangeCounter)).one()
    return counter.epoch, counter.seq


def _changes_since(session: Session, asked: PullChanges) -> Changes:
    epoch, seq = position(session)
    if asked.epoch != epoch or asked.seq > seq or seq - asked.seq > PAGE:
        return Changes(epoch=epoch, seq=seq, reset=True)
    rows = session.exec(select(ChangeRow).where(col(ChangeRow.seq) > asked.seq).order_by(col(ChangeRow.seq)))
    changes = tuple(Change.model_validate(row, from_attributes=True) for row in rows)
    return Changes(epoch=epoch, seq=changes[-1].seq if changes else seq, changes=changes)
