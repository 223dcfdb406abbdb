"""Checking the ledger: every entry against its hash, its columns and its neighbours, every chain against its heads.

One page at a time, so that a long ledger takes many short answers instead of one that never comes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Row, func
from sqlalchemy import select as select_columns
from sqlmodel import Session, SQLModel, col, select

from mcpctl.actors.audit_sink.anchors import Anchors
from mcpctl.actors.audit_sink.heads import PURGED, Notary
from mcpctl.actors.audit_sink.ledger import GENESIS, Position, chained
from mcpctl.actors.audit_sink.rows import ChainRow, EntryRow, PositionRow, PurgedRow
from mcpctl.bus.contracts.audit import Chain, Fault, Head, Place, Verified
from mcpctl.bus.names import NO_PROJECT

PAGE_SECONDS = 2.0
PAGE_FAULTS = 200
"""After so long, or so many faults, one answer ends."""

ROWS = 1000
"""Rows in one query."""

NOTED = frozenset({"audit.gap", "audit.stream", "audit.cut", "audit.position"})
"""Kinds of what the sink itself found wrong, and wrote down."""

COLUMNS = ("kind", "outcome", "at", "principal", "user", "token_name", "token_sha", "server", "name")
"""Columns that repeat a member of the event."""

_LEDGER = SQLModel.metadata.tables[EntryRow.__tablename__]


@dataclass
class Page:
    """What one answer has found so far."""

    checked: int = 0
    faults: list[Fault] = field(default_factory=list)
    chains: list[Chain] = field(default_factory=list)
    until: float = field(default_factory=lambda: time.monotonic() + PAGE_SECONDS)

    @property
    def full(self) -> bool:
        return time.monotonic() > self.until or len(self.faults) >= PAGE_FAULTS


def verify(session: Session, notary: Notary, anchors: Anchors, project: str | None, start: Place | None) -> Verified:
    """Check from a place on; of all projects, or of one."""
    if session.get_bind().dialect.name != "sqlite":
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    page = Page()
    place = start or _next(session, anchors, "")
    if start is None and project is not None:
        place = Place(chain=project, number=0, hash=GENESIS)
    while place is not None:
        walk = _Walk(session, notary, anchors.get(place.chain, {}), page, place)
        if not walk.run():
            return Verified(
                checked=page.checked, faults=tuple(page.faults), chains=tuple(page.chains), place=walk.place
            )
        place = None if project is not None else _next(session, anchors, place.chain)
    if project is None:
        page.faults += _whole(session, notary, anchors)
    return Verified(checked=page.checked, faults=tuple(page.faults), chains=tuple(page.chains), keys=notary.keys.public)


def _known(session: Session, anchors: Anchors) -> set[str]:
    return {*session.exec(select(ChainRow.project)), *session.exec(select(PurgedRow.project)), *anchors}


def _next(session: Session, anchors: Anchors, after: str) -> Place | None:
    """Return the beginning of the next chain, by the name of its project."""
    following = min((name for name in _known(session, anchors) if name > after), default=None)
    return None if following is None else Place(chain=following, number=0, hash=GENESIS)


def _whole(session: Session, notary: Notary, anchors: Anchors) -> Iterator[Fault]:
    """Check what is about all chains together: that none of them is missing, and the position in the stream."""
    unknown = col(EntryRow.project).not_in(sorted(_known(session, anchors)))
    for project in session.exec(select(EntryRow.project).where(unknown).distinct()):
        yield Fault(kind="head", project=project, detail="there are entries, and no signed end of their chain")
    row = session.get(PositionRow, 1)
    written = session.exec(select(func.sum(ChainRow.number))).one() or 0
    doubt = "it is gone" if row is None else notary.position_fault(row)
    if doubt is not None and (row is not None or written):
        yield Fault(
            kind="position", detail=f"the ledger's position in the stream is not the one that was signed: {doubt}"
        )
    elif row is not None and written != row.last:
        detail = f"the chains have {written} entries, purged ones counted; {row.last} were written"
        yield Fault(kind="removed", detail=detail)


class _Walk:
    """Goes along one chain."""

    def __init__(self, session: Session, notary: Notary, anchors: dict[int, Head], page: Page, place: Place) -> None:
        self._session, self._notary, self._anchors, self._page = session, notary, anchors, page
        self._chain, self._number, self._hash = place.chain, place.number, place.hash
        self._purged = 0

    @property
    def place(self) -> Place:
        return Place(chain=self._chain, number=self._number, hash=self._hash)

    def run(self) -> bool:
        """Check up to the chain's end; return false where the page ended before."""
        self._pass_purged()
        while rows := self._rows():
            for row in rows:
                self._check(row)
            if self._page.full:
                return False
        self._check_end()
        return True

    def _rows(self) -> Sequence[Row[Any]]:
        columns = _LEDGER.c
        after = select_columns(_LEDGER).where(columns.project == self._chain, columns.number > self._number)
        return self._session.execute(after.order_by(columns.number).limit(ROWS)).all()

    def _pass_purged(self) -> None:
        row = self._session.get(PurgedRow, self._chain)
        fault = None if row is None else self._notary.fault(row, what=PURGED)
        if row is not None and fault is None:
            self._purged = row.number
            if self._number < row.number:
                self._number, self._hash = row.number, row.hash
        elif row is not None and self._number == 0:
            self._tell("purged", f"the checkpoint of a purge is not genuine: {fault}", number=row.number)

    def _check(self, row: Row[Any]) -> None:
        self._page.checked += 1
        missing = row.number - self._number - 1
        if missing:
            what = (
                f"entries {self._number + 1} to {row.number - 1} are" if missing > 1 else f"entry {row.number - 1} is"
            )
            self._tell("removed", f"{what} not there", number=self._number + 1)
        elif self._hash and row.prev != self._hash:
            self._tell_of(row, "order", "it does not follow on the entry before it")
        self._number, self._hash = row.number, row.hash
        if not self._content_fits(row):
            self._hash = ""
        anchor = self._anchors.get(row.number)
        if anchor is not None and anchor.hash != row.hash and self._notary.fault(anchor) is None:
            self._tell_of(
                row, "anchor", f"it, or an entry before it, is not the one that was signed at {_time(anchor.at)}"
            )

    def _content_fits(self, row: Row[Any]) -> bool:
        try:
            digest = chained(row.prev, row.seq, row.event.encode())
        except (ValueError, OverflowError):  # `prev` is no hash any more
            digest = ""
        if digest != row.hash:
            self._tell_of(row, "changed", "its text, its place or its hash was changed")
            return False
        event = orjson.loads(row.event)
        expected = {name: event.get(name) for name in COLUMNS}
        expected |= {"event_id": event.get("id"), "project": event.get("project", NO_PROJECT)}
        wrong = sorted(name for name, value in expected.items() if getattr(row, name) != value)
        if wrong:
            self._tell_of(row, "column", f"it says another {' and '.join(wrong)} than the event")
        if event["kind"] in NOTED:
            self._tell_of(row, "noted", f"{event['kind']}: {event.get('detail')}")
        return True

    def _check_end(self) -> None:
        head = self._head()
        newest = max(self._anchors, default=0)
        if newest > self._number and (head is None or head.number < newest):
            anchor = self._anchors[newest]
            fault = self._notary.fault(anchor)
            if fault is None:
                what = f"it ends with entry {self._number}; entry {newest} was signed at {_time(anchor.at)}"
                self._tell("cut", what, number=self._number + 1)
            else:
                self._tell("anchor", f"an anchored head is not genuine: {fault}", number=newest)
        self._page.chains.append(
            Chain(
                project=self._chain,
                entries=self._number - self._purged,
                purged=self._purged,
                anchors=len(self._anchors),
                head=head,
            )
        )

    def _head(self) -> Head | None:
        """Return the signed end of the chain, and tell what does not fit it."""
        row = self._session.get(ChainRow, self._chain)
        if row is None:
            if self._number:
                self._tell("head", "the signed end of the chain is gone", number=self._number)
            return None
        fault = self._notary.fault(row)
        if fault is not None:
            self._tell("head", f"the end of the chain is not genuine: {fault}", number=row.number)
        elif row.number > self._number:
            what = f"it ends with entry {self._number}; entry {row.number} was signed at {_time(row.at)}"
            self._tell("cut", what, number=self._number + 1)
        elif row.number < self._number:
            what = f"entries up to {self._number} stand after the signed end, entry {row.number}"
            self._tell("unsigned", what, number=row.number + 1)
        elif self._hash and row.hash != self._hash:
            self._tell("head", "its last entry is not the one that was signed", number=row.number)
        return Head.model_validate(row.model_dump())

    def _tell_of(self, row: Row[Any], kind: str, detail: str) -> None:
        self._tell(kind, detail, number=row.number, seq=row.seq, event=row.event_id)

    def _tell(self, kind: str, detail: str, **where: object) -> None:
        self._page.faults.append(Fault.model_validate({"kind": kind, "project": self._chain, "detail": detail} | where))


def _time(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at / 1000))


def stream_faults(info: Mapping[str, Any], position: Position) -> Iterator[Fault]:
    """Compare what JetStream says of the stream, deleted messages included, with a later position of the ledger."""
    state = info["state"]
    if info["created"] != position.stream:
        yield Fault(kind="stream", detail="the stream is another one than the ledger followed")
        return
    gone = [seq for seq in state.get("deleted") or () if seq > position.seq]
    if state["first_seq"] > position.seq + 1:
        gone = [*range(position.seq + 1, min(state["first_seq"], position.seq + 1 + PAGE_FAULTS)), *gone]
    for seq in gone[:PAGE_FAULTS]:
        yield Fault(kind="stream", detail=f"message {seq} is gone from the stream and not in the ledger")
    if state["last_seq"] < position.seq:
        what = f"the stream was set back: it ends with message {state['last_seq']}, the ledger has {position.seq}"
        yield Fault(kind="stream", detail=what)
