"""Appending to the ledger: in the stream's order, one hash chain a project, one transaction a batch.

The row of the position is locked first and moved in the transaction that inserts, so of several sinks one
writes at a time, and after a crash the position and the entries agree. What a transaction changes it signs, and it
goes on only from what was signed: where that is something else, the ledger itself says so.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Dialect, insert
from sqlalchemy.sql.compiler import SQLCompiler
from sqlmodel import Session, SQLModel, col, select

from mcpctl.actors.audit_sink import records
from mcpctl.actors.audit_sink.heads import Notary
from mcpctl.actors.audit_sink.records import Accepted, Record
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
    """Where the ledger stands after a transaction, the tail messages (subject, payload) of what it added, its heads."""

    position: Position
    tail: Sequence[tuple[str, bytes]] = field(default=())
    heads: Sequence[audit.Head] = field(default=())


def position(session: Session) -> Position | None:
    """Return where the ledger stands, None before its first start."""
    row = session.get(PositionRow, 1)
    return None if row is None else Position(row.stream, row.seq, row.at, row.last)


def adopt(session: Session, notary: Notary) -> Sequence[audit.Head]:
    """Sign what is not signed yet, as it stands: right only where there has never been a key to sign it with."""
    heads = []
    for chain in session.exec(select(ChainRow).where(ChainRow.signature == "")):
        head = notary.sign(chain.project, chain.number, chain.hash)
        session.merge(_chain_row(head))
        heads.append(head)
    row = session.exec(select(PositionRow).with_for_update()).one_or_none()
    if row is not None and not row.signature:
        notary.sign_position(row)
        session.add(row)
    return heads


def align(session: Session, notary: Notary, before: Position | None, stream: StreamState) -> Appended:
    """Bring the position to what the stream holds; what cannot come any more is noted in the ledger itself.

    `before` was read before `stream` was asked, and this session reads after: so another sink's progress in the
    meantime is not mistaken for a loss.
    """
    row = session.exec(select(PositionRow).with_for_update()).one_or_none()
    start = max(stream.first - 1, 0)
    found: list[Record] = []
    if row is None:
        row = PositionRow(id=1, stream=stream.created, seq=start, at=0, last=0, key="", signature="")
        if start:
            found.append(records.notice("audit.gap", detail=f"the ledger begins after message {start} of the stream"))
        return _write(session, notary, row, found)
    found += _doubts(notary, row)
    if row.stream != stream.created:
        found.append(records.notice("audit.stream", detail=f"the stream was made anew after message {row.seq}"))
        row.stream, row.seq, row.at = stream.created, start, 0
    elif row.seq < start:
        found.append(records.notice("audit.gap", detail=f"messages {row.seq + 1} to {start} are gone from the stream"))
        row.seq = start
    elif before is not None and before.seq == row.seq and row.seq > stream.last:
        found.append(records.notice("audit.stream", detail=f"the stream was set back from {row.seq} to {stream.last}"))
        row.seq, row.at = stream.last, 0
    return _write(session, notary, row, found)


def append(session: Session, notary: Notary, stream: str, messages: Sequence[Stored], fault: str = "") -> Appended:
    """Append messages that begin right after the position; where they do not any more, only say where it is.

    With `fault` (for one message that could not be appended as it is) the message itself is recorded.
    """
    row = session.exec(select(PositionRow).with_for_update()).one()
    found: list[Record] = _doubts(notary, row)
    if row.stream != stream or messages[0].seq != row.seq + 1:
        return _write(session, notary, row, found)
    row.seq, row.at = messages[-1].seq, messages[-1].at
    if fault:
        found += [records.of_message(message, fault) for message in messages]
    else:
        found += [record for message in messages for record in records.read(message)]
    return _write(session, notary, row, found)


def add(session: Session, notary: Notary, found: Sequence[Record]) -> Appended:
    """Add records of the sink's own."""
    row = session.exec(select(PositionRow).with_for_update()).one()
    return _write(session, notary, row, [*_doubts(notary, row), *found])


def lock(session: Session) -> None:
    """Have this transaction be the only one that writes, until it ends."""
    session.exec(select(PositionRow).with_for_update()).one_or_none()


def _doubts(notary: Notary, row: PositionRow) -> list[Record]:
    doubt = notary.doubt_position(row)
    if doubt is None:
        return []
    return [
        records.notice(
            "audit.position", detail=f"the position (message {row.seq}) is not the one that was signed: {doubt}"
        )
    ]


def _write(session: Session, notary: Notary, row: PositionRow, found: Sequence[Record]) -> Appended:
    known = _known(session, found)
    chains = _Chains(session, notary)
    entries, tail = [], []
    last = row.last
    for record in [*chains.doubts({record.event.project or NO_PROJECT for record in found}), *found]:
        event = record.event
        if event.id in known:
            continue
        known.add(event.id)
        last += 1
        number, prev, digest = chains.extend(event.project or NO_PROJECT, last, record.text)
        entries.append(_columns(event, record.text) | {"seq": last, "number": number, "prev": prev, "hash": digest})
        subject = audit.tail_subject(event.project, event.kind, event.outcome, event.principal)
        tail.append((subject, _payload(last, number, digest, record.text)))
    if entries:
        _insert(session, entries)
    row.last = last
    if session.is_modified(row) or not row.signature:
        notary.sign_position(row)
        session.add(row)
    return Appended(Position(row.stream, row.seq, row.at, row.last), tail, chains.sign())


def _insert(session: Session, entries: Sequence[Columns]) -> None:
    """Insert rows past SQLAlchemy's own handling of values, which costs as much as the database does."""
    connection = session.connection()
    schemas = connection.get_execution_options().get("schema_translate_map") or {}
    statement, names = _insertion(connection.dialect, schemas.get(None))
    rows: Sequence[object] = entries if names is None else [tuple(entry[name] for name in names) for entry in entries]
    connection.exec_driver_sql(statement, rows)


@cache
def _insertion(dialect: Dialect, schema: str | None) -> tuple[str, Sequence[str] | None]:
    """Return the statement in a driver's own words, and the order of its values where these have no names."""
    translation: Any = {"schema_translate_map": {None: schema}, "render_schema_translate": True} if schema else {}
    compiled = insert(_LEDGER).compile(dialect=dialect, **translation)
    return str(compiled), compiled.positiontup if isinstance(compiled, SQLCompiler) and compiled.positional else None


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

    def __init__(self, session: Session, notary: Notary) -> None:
        self._session, self._notary = session, notary
        self._ends: dict[str, tuple[int, str]] = {}
        self._extended: set[str] = set()

    def doubts(self, projects: Iterable[str]) -> Sequence[Record]:
        """Load the ends of chains; where one is not what was signed, return what is to be noted in that chain."""
        found = []
        for project in sorted(set(projects)):
            row = self._session.get(ChainRow, project)
            doubt = self._notary.doubt(project, row)
            if doubt is not None:
                found.append(records.notice("audit.cut", None if project == NO_PROJECT else project, detail=doubt))
            self._ends[project] = (0, GENESIS) if row is None else (row.number, row.hash)
        return found

    def extend(self, project: str, seq: int, text: bytes) -> tuple[int, str, str]:
        """Return the number and the hashes (the previous one's and its own) of the next entry of a project's chain."""
        number, prev = self._ends[project]
        digest = chained(prev, seq, text)
        self._ends[project] = number + 1, digest
        self._extended.add(project)
        return number + 1, prev, digest

    def sign(self) -> Sequence[audit.Head]:
        """Sign and store the new ends."""
        heads = [self._notary.sign(project, *self._ends[project]) for project in sorted(self._extended)]
        for head in heads:
            self._session.merge(_chain_row(head))
        return heads


def _chain_row(head: audit.Head) -> ChainRow:
    return ChainRow(
        project=head.project, number=head.number, hash=head.hash, at=head.at, key=head.key, signature=head.signature
    )


def chained(prev: str, seq: int, text: bytes) -> str:
    """Return the hash of an entry: SHA-256 over the previous one's 32 bytes, `seq` (8 bytes) and the canonical text."""
    return hashlib.sha256(bytes.fromhex(prev) + seq.to_bytes(8, "big") + text).hexdigest()


def _columns(event: Accepted, text: bytes) -> Columns:
    return {
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


def _payload(seq: int, number: int, digest: str, text: bytes) -> bytes:
    """Return the JSON of an `Entry`, around the event's own text."""
    return f'{{"seq":{seq},"number":{number},"hash":"{digest}","event":'.encode() + text + b"}"
