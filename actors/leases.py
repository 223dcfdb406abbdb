"""Who follows an actor's changes: up to where, for how long it may go on without asking again, and what it has ended.

Kept in SQL, since another replica of the actor may be asked next; on SQLite in a file of its own, so that a pull never
waits for a change. It is worth nothing a minute later, and so has no history of versions.
"""

import asyncio
import json
import time
from pathlib import Path

from sqlalchemy import BigInteger, delete
from sqlmodel import Field, Session, SQLModel, col, select

from mcpctl.actors.storage import Store, database_url
from mcpctl.bus.contract import Committed, Follower, PullChanges
from mcpctl.bus.feed import LEASE

KEPT_MS = 60_000
"""How long a follower that asks no more is remembered."""

ENDED_KEPT = 200
"""Changes of which a follower's row keeps what they ended."""


class LeaseRow(SQLModel, table=True):
    """A follower. `settled` is the change up to which it has ended whatever had to end; `until` is in ms since 1970."""

    __tablename__ = "leases"
    instance: str = Field(primary_key=True)
    caller: str
    host: str
    epoch: str
    settled: int = Field(sa_type=BigInteger)
    until: int = Field(sa_type=BigInteger)
    ended: str


class Leases:
    """The followers of one actor's feed."""

    def __init__(self, actor: str, url: str | None, data: Path) -> None:
        place = database_url(actor if url else f"{actor}-leases", url, data)
        self._store = Store(actor, place, durable=False)
        self.renewed = asyncio.Event()
        """Set when this replica is asked next."""

    async def open(self) -> None:
        await self._store.make(LeaseRow)

    async def close(self) -> None:
        await self._store.close()

    async def renew(self, asked: PullChanges, caller: str, seq: int) -> None:
        """Note a pull that is answered with what is known at change `seq`, or later. Raises `Unavailable`.

        The lease that the answer gives ends before the one noted here, since the follower counts from when it has
        asked. One that knew nothing has nothing to end.
        """
        await self._store.write(lambda session: _renew(session, asked, caller, seq))
        renewed, self.renewed = self.renewed, asyncio.Event()
        renewed.set()

    async def followers(self, epoch: str, committed: Committed) -> tuple[Follower, ...]:
        """Return those whose lease runs, and which of them act on some changes. Raises `Unavailable`."""
        return await self._store.read(lambda session: _followers(session, epoch, committed))


def _renew(session: Session, asked: PullChanges, caller: str, seq: int) -> None:
    now = _now_ms()
    instance = f"{caller}/{asked.instance}"  # so that nobody confirms in the name of another connection
    row = session.get(LeaseRow, instance)
    if row is None:
        session.execute(delete(LeaseRow).where(col(LeaseRow.until) < now - KEPT_MS))
        row = LeaseRow(instance=instance, caller=caller, host=asked.host, epoch="", settled=-1, until=0, ended="{}")
    row.epoch, row.settled = (asked.epoch, asked.settled) if asked.epoch else ("", seq)
    row.until = now + int(LEASE * 1000)
    if asked.ended:
        ended = json.loads(row.ended) | {str(change): count for change, count in asked.ended.items()}
        row.ended = json.dumps(dict(list(ended.items())[-ENDED_KEPT:]))
    session.add(row)


def _followers(session: Session, epoch: str, committed: Committed) -> tuple[Follower, ...]:
    now = _now_ms()
    rows = session.exec(select(LeaseRow).where(col(LeaseRow.until) > now).order_by(col(LeaseRow.instance)))
    return tuple(
        Follower(
            caller=row.caller,
            host=row.host,
            # What had nothing when it asked first (no epoch) was told all that was true then.
            confirmed=row.epoch in ("", epoch) and row.settled >= committed.last,
            ended=_ended(row, committed),
            lease_ms=row.until - now,
        )
        for row in rows
    )


def _ended(row: LeaseRow, committed: Committed) -> int:
    ended = json.loads(row.ended)
    return sum(ended.get(str(change), 0) for change in range(committed.first, committed.last + 1))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
