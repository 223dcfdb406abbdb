"""Searching the ledger."""

import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select

from mcpctl.actors.audit_sink import ledger
from mcpctl.actors.audit_sink.rows import EntryRow
from mcpctl.bus.contracts import audit

ANSWER_BYTES = 4 * 1024 * 1024
"""Size of one answer's events at the most, well below what a bus message may have."""

FOLLOW_LIMIT = 1000


def newest(session: Session, wanted: audit.Filter, limit: int) -> audit.Entries:
    """Return the newest entries that match, oldest first, and the ledger's end as the cursor."""
    end = _end(session)
    rows = select(EntryRow).where(col(EntryRow.seq) <= end, *conditions(wanted)).order_by(col(EntryRow.seq).desc())
    with closing(session.exec(rows.execution_options(yield_per=limit))) as matching:
        found = _fitting(matching, wanted, limit)
    return audit.Entries(items=tuple(_entry(row) for row in reversed(found)), cursor=end)


def after(session: Session, wanted: audit.Filter, cursor: int) -> audit.Entries:
    """Return the entries after a cursor that match, and how far was looked."""
    end = _end(session)
    place = col(EntryRow.seq)
    rows = select(EntryRow).where(place > cursor, place <= end, *conditions(wanted)).order_by(place)
    with closing(session.exec(rows.execution_options(yield_per=FOLLOW_LIMIT))) as matching:
        found = _fitting(matching, wanted, FOLLOW_LIMIT + 1)
    whole = len(found) <= FOLLOW_LIMIT and sum(len(row.event) for row in found) < ANSWER_BYTES
    found = found[:FOLLOW_LIMIT]
    return audit.Entries(items=tuple(map(_entry, found)), cursor=end if whole else found[-1].seq)


def _end(session: Session) -> int:
    position = ledger.position(session)
    return 0 if position is None else position.last


def _fitting(rows: Iterable[EntryRow], wanted: audit.Filter, limit: int) -> Sequence[EntryRow]:
    """Return the first rows that match, as far as they fit into one answer."""
    found: list[EntryRow] = []
    size = 0
    for row in rows:
        if wanted.tool is not None and not fnmatchcase(f"{row.server}/{row.name}", wanted.tool):
            continue
        found.append(row)
        size += len(row.event)
        if len(found) >= limit or size >= ANSWER_BYTES:
            break
    return found


def conditions(wanted: audit.Filter) -> list[ColumnElement[bool]]:
    exact = {
        EntryRow.project: wanted.project,
        EntryRow.kind: wanted.kind,
        EntryRow.outcome: wanted.outcome,
        EntryRow.token_name: wanted.token,
        EntryRow.user: wanted.user,
    }
    conditions = [col(column) == value for column, value in exact.items() if value is not None]
    if wanted.token_sha is not None:
        # What begins so: "g" comes after every hexadecimal digit.
        sha = col(EntryRow.token_sha)
        conditions += [sha >= wanted.token_sha, sha < f"{wanted.token_sha}g"]
    if wanted.since is not None:
        conditions.append(col(EntryRow.at) >= _ms(wanted.since))
    if wanted.until is not None:
        conditions.append(col(EntryRow.at) <= _ms(wanted.until))
    if wanted.tool is not None:
        conditions += _tool_conditions(wanted.tool)
    return conditions


def _tool_conditions(pattern: str) -> list[ColumnElement[bool]]:
    """Return what SQL can check of a glob over `<server>/<tool>`: never too much, so that the rest is checked after."""
    server, name = col(EntryRow.server), col(EntryRow.name)
    conditions: list[ColumnElement[bool]] = [server.is_not(None), name.is_not(None)]
    head, slash, _ = pattern.partition("/")
    if slash and not re.search(r"[*?\[]", head):
        conditions.append(server == head)
    return conditions


def _ms(moment: datetime) -> int:
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _entry(row: EntryRow) -> audit.Entry:
    event = audit.Event.model_validate_json(row.event)
    return audit.Entry(seq=row.seq, number=row.number, hash=row.hash, event=event)
