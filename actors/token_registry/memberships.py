"""Who is a direct member of which group, as a transaction has it: read once, not once for each question.

A transaction that changes many groups asks for each of them who is in which, and others wait for it meanwhile.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import event
from sqlalchemy.orm import UOWTransaction
from sqlmodel import Session, select


class Member(Protocol):
    """A row that says of which groups it is a member."""

    name: Any
    groups: Any


@dataclass
class Memberships:
    """The direct memberships of one table's rows: `groups` by member, `members` by group."""

    groups: dict[str, list[str]] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)

    def put(self, name: str, groups: Iterable[str]) -> None:
        self.drop(name)
        self.groups[name] = list(groups)
        for group in self.groups[name]:
            self.members.setdefault(group, set()).add(name)

    def drop(self, name: str) -> None:
        for group in self.groups.pop(name, ()):
            self.members[group].discard(name)


def memberships(session: Session, table: type[Member]) -> Memberships:
    """Return the memberships of a table's rows, with all that this session has changed so far."""
    session.flush()
    kept = _kept(session)
    if table not in kept:
        found = Memberships()
        for name, groups in session.exec(select(table.name, table.groups)).all():
            found.put(name, groups)
        kept[table] = found
    return kept[table]


def forget_memberships(session: Session) -> None:
    """Have everything read anew: rows were changed by statements that the session does not follow."""
    _kept(session).clear()


def _kept(session: Session) -> dict[type[Any], Memberships]:
    found: dict[type[Any], Memberships] = session.info.setdefault(__name__, {})
    return found


@event.listens_for(Session, "after_flush")
def _follow(session: Session, _flush: UOWTransaction) -> None:
    kept: Mapping[type[Any], Memberships] = session.info.get(__name__, {})
    if not kept:
        return
    for row in (*session.new, *session.dirty):
        if type(row) in kept:
            kept[type(row)].put(row.name, row.groups)
    for row in session.deleted:
        if type(row) in kept:
            kept[type(row)].drop(row.name)
