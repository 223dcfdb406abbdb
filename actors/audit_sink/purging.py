"""Letting go of the oldest entries: a prefix of each chain, in portions, with a signed checkpoint where it ended."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from mcpctl.actors.audit_sink import ledger, records
from mcpctl.actors.audit_sink.heads import PURGED, Notary
from mcpctl.actors.audit_sink.ledger import Appended
from mcpctl.actors.audit_sink.rows import ChainRow, EntryRow, PurgedRow
from mcpctl.bus.contracts import audit
from mcpctl.bus.names import NO_PROJECT

PORTION = 20_000
"""Entries removed in one transaction: the ledger grows no further until it ends."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What one transaction removed, and what it wrote."""

    purged: audit.Purged | None
    appended: Appended


def chains(session: Session) -> Sequence[str]:
    return session.exec(select(ChainRow.project).order_by(ChainRow.project)).all()


def due(session: Session, project: str, before: datetime) -> audit.Purged | None:
    """Return which entries of a chain are to go: all up to the first that is not older."""
    place = col(EntryRow.number)
    first = session.exec(select(func.min(place)).where(col(EntryRow.project) == project)).one()
    if first is None:
        return None
    kept = (
        select(EntryRow.number)
        .where(col(EntryRow.project) == project, col(EntryRow.at) >= int(before.timestamp() * 1000))
        .order_by(place)
        .limit(1)
    )
    stays = session.exec(kept).one_or_none()
    if stays is None:
        stays = session.exec(select(func.max(place)).where(col(EntryRow.project) == project)).one() + 1
    return None if stays <= first else audit.Purged(project=project, first=first, last=stays - 1)


def purge(session: Session, notary: Notary, wanted: audit.Purged, by: dict[str, object]) -> Portion:
    """Remove a portion of what is due; the event that says so is in the same transaction."""
    ledger.lock(session)
    project, place = wanted.project, col(EntryRow.number)
    first = session.exec(select(func.min(place)).where(col(EntryRow.project) == project)).one()
    if first is None or first > wanted.last:
        return Portion(None, ledger.add(session, notary, ()))
    last = min(wanted.last, first + PORTION - 1)
    digest = session.exec(select(EntryRow.hash).where(col(EntryRow.project) == project, place == last)).one()
    head = notary.sign(project, last, digest, what=PURGED)
    session.merge(PurgedRow(**head.model_dump()))
    session.execute(delete(EntryRow).where(col(EntryRow.project) == project, place <= last))
    members = {"outcome": "allow"} | by | {"detail": f"entries {first} to {last}"}
    told = records.notice("audit.purged", None if project == NO_PROJECT else project, **members)
    return Portion(audit.Purged(project=project, first=first, last=last), ledger.add(session, notary, [told]))


def together(portions: Iterable[audit.Purged]) -> tuple[audit.Purged, ...]:
    """Join the portions of each chain."""
    found: dict[str, audit.Purged] = {}
    for portion in portions:
        before = found.get(portion.project)
        found[portion.project] = portion if before is None else before.model_copy(update={"last": portion.last})
    return tuple(found.values())
