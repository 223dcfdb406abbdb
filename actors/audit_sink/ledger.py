"""Appending to the ledger: in the stream's order, one hash chain a project, one transaction a batch.

The row of the position is locked first and moved in the transaction that inserts, so of several sinks one
writes at a time, and after a crash the position and the entries agree.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import insert
from sqlmodel import Session, SQLModel, col, select

from mcpctl.actors.audit_sink import records
from mcpctl.actors.audit_sink.records import Record
from mcpctl.actors.audit_sink.rows import ChainRow, EntryRow, PositionRow
from mcpctl.bus.contracts import audit
from mcpctl.bus.deliveries import Stored
from mcpctl.bus.names import NO_PROJECT
from mcpctl.bus.streams import StreamState

GENESIS = "0" * 64
"""Stands before the first entry of a chain."""

IDS_PER_QUERY = 500

Columns = dict[str, object]
_LEDGER = SQLModel.metadata.tables[EntryRow.__tablename__]


@dataclass(frozen=True, slots=True)
class Position:
    """Up to where the stream is in the ledger: its sequence `seq`, stored `at` ns; `last`: the ledger's number."""

    stream: str
    seq: int
    at: int
    last: int


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the ledger stands after a transaction, and the tail messages (subject and payload) of what it added."""

    position: Position
    tail: Sequence[tuple[str, bytes]] = field(default=())


def position(session: Session) -> Position | None:
    """Return where the ledger stands, None before its first start."""
    row = session.get(PositionRow, 1)
    return None if row is None else Position(row.stream, row.seq, row.at, row.last)


def align(session: Session, before: Position | None, stream: StreamState) -> Appended:
    """Bring the position to what the stream holds; what cannot come any more is noted in the ledger itself.

    `before` was read before `stream` was asked, and this session reads after: so another sink's progress in the
    meantime is not mistaken for a loss.
    """
    row = session.exec(select(PositionRow).with_for_update()).one_or_none()
    start = max(stream.first - 1, 0)
    found: list[Record] = []
    if row is None:
        row = PositionRow(id=1, stream=stream.created, seq=start, at=0, last=0)
        if start:
            found.append(records.notice("audit.gap", f"the ledger begins after message {start} of the stream"))
    elif row.stream != stream.created:
        found.append(records.notice("audit.stream", f"the stream was made anew after message {row.seq}"))
        row.stream, row.seq, row.at = stream.created, start, 0
    elif row.seq < start:
        found.append(records.notice("audit.gap", f"messages {row.seq + 1} to {start} are gone from the stream"))
        row.seq = start
    elif before is not None and before.seq == row.seq and row.seq > stream.last:
        found.append(records.notice("audit.stream", f"the stream was set back from {row.seq} to {stream.last}"))
        row.seq, row.at = stream.last, 0
    return Appended(*_write(session, row, found))


def append(session: Session, stream: str, messages: Sequence[Stored], fault: str = "") -> Appended:
    """Append messages that begin right after the position; where they do not any more, only say where it is.

    With `fault` (for one message that could not be appended as it is) the message itself is recorded.
    """
    row = session.exec(select(PositionRow).with_for_update()).one()
    if row.stream != stream or messages[0].seq != row.seq + 1:
        return Appended(Position(row.stream, row.seq, row.at, row.last))
    row.seq, row.at = messages[-1].seq, messages[-1].at
    if fault:
        return Appended(*_write(session, row, [records.of_message(message, fault) for message in messages]))
    return Appended(*_write(session, row, [record for message in messages for record in records.read(message)]))


def _write(session: Session, row: PositionRow, found: Sequence[Record]) -> tuple[Position, Sequence[tuple[str, bytes]]]:
    known = _known(session, found)
    chains = _Chains(session)
    entries, tail = [], []
    last = row.last
    for record in found:
        event = record.event
        if event.id in known:
            continue
        known.add(event.id)
        last += 1
        entry = chains.extend(_columns(event, record.text, last), record.text)
        entries.append(entry)
        tail.append((event.tail_subject, _payload(entry, record.text)))
    if entries:
        # The plain table: the ORM's own way costs twice the time, and this is the busiest statement of all.
        session.execute(insert(_LEDGER), entries)
    chains.save()
    row.last = last
    session.add(row)
    return Position(row.stream, row.seq, row.at, row.last), tail


def _known(session: Session, found: Sequence[Record]) -> set[str]:
    """Return the ids that are in the ledger already: a writer resent them after the stream's own window."""
    ids = [record.event.id for record in found]
    known: set[str] = set()
    for start in range(0, len(ids), IDS_PER_QUERY):
        some = ids[start : start + IDS_PER_QUERY]
        known.update(session.exec(select(EntryRow.event_id).where(col(EntryRow.event_id).in_(some))))
    return known


class _Chains:
    """The ends (number and hash) of the chains that a transaction extends."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ends: dict[str, tuple[int, str]] = {}

    def extend(self, entry: Columns, text: bytes) -> Columns:
        """Return an entry with its number and hashes: the next of its project's chain."""
        project = str(entry["project"])
        number, prev = self._ends.get(project) or self._load(project)
        digest = chained(prev, text)
        self._ends[project] = number + 1, digest
        return entry | {"number": number + 1, "prev": prev, "hash": digest}

    def _load(self, project: str) -> tuple[int, str]:
        row = self._session.get(ChainRow, project)
        return (0, GENESIS) if row is None else (row.number, row.hash)

    def save(self) -> None:
        for project, (number, digest) in self._ends.items():
            self._session.merge(ChainRow(project=project, number=number, hash=digest))


def chained(prev: str, text: bytes) -> str:
    """Return the hash of an entry: SHA-256 over the previous one's 32 bytes and the event's canonical text."""
    return hashlib.sha256(bytes.fromhex(prev) + text).hexdigest()


def _columns(event: audit.Event, text: bytes, seq: int) -> Columns:
    return {
        "seq": seq,
        "event_id": event.id,
        "project": event.project or NO_PROJECT,
        "at": event.at,
        "kind": event.kind,
        "outcome": event.outcome,
        "principal": event.principal,
        "user": event.user,
        "token_name": event.token_name,
        "token_sha": event.token_sha,
        "server": event.server,
        "name": event.name,
        "event": text.decode(),
    }


def _payload(entry: Columns, text: bytes) -> bytes:
    """Return the JSON of an `Entry`, around the event's own text."""
    head = f'{{"seq":{entry["seq"]},"number":{entry["number"]},"hash":"{entry["hash"]}","event":'
    return head.encode() + text + b"}"
