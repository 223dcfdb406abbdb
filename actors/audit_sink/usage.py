"""Counting what the ledger has: who did what, how often and with what outcome, summed up in SQL."""

import asyncio
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import JSON, ColumnElement, Subquery, and_, case, cast, func, or_, type_coerce
from sqlmodel import Session, col, select

from mcpctl.actors.audit_sink import ledger
from mcpctl.actors.audit_sink.rows import EntryRow
from mcpctl.actors.audit_sink.search import conditions
from mcpctl.actors.storage import Store
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contracts import audit, token
from mcpctl.bus.names import NO_PROJECT

KEYS = (
    "kind",
    "outcome",
    "project",
    "principal",
    "user",
    "token_name",
    "token_sha",
    "server",
    "name",
    "method",
    "rule",
)
"""What all events that are counted together have in common."""

TEXTS = ("method", "rule")
"""Those of them that stand in an event's text alone."""

FAMILY = 1000
"""Bearers below one mcptoken that are counted with it at the most."""

AT_ONCE = 2
"""Answers that are counted side by side: a long count must leave threads to those who look something up."""

ARGS_ROWS = 20_000
"""Different arguments that are told of all uses together."""


class Counting:
    """Answers how often, for a ledger of which nobody would read every line."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = asyncio.Semaphore(AT_ONCE)

    @handles(audit.usage)
    async def usage(self, request: audit.GetUsage, _caller: Caller) -> audit.Usage:
        async with self._turns:
            return await self._store.read(lambda session: count(session, request))


def count(session: Session, asked: audit.GetUsage) -> audit.Usage:
    """Return the uses that match, the most frequent first."""
    wanted = asked.filter if asked.project is None else asked.filter.model_copy(update={"project": asked.project})
    place = ledger.position(session)
    end = min(asked.end if asked.end is not None else 2**63 - 1, 0 if place is None else place.last)
    chosen = [col(EntryRow.seq) <= end, *_chosen(session, wanted)]
    if asked.kinds:
        chosen.append(col(EntryRow.kind).in_(asked.kinds))
    events = _events(session, chosen, (*TEXTS, "args") if asked.args else TEXTS)
    rows = _grouped(session, events, asked)
    fitting = rows[: asked.limit]
    if wanted.tool is not None:
        fitting = [row for row in fitting if fnmatchcase(f"{row['server']}/{row['name']}", wanted.tool)]
    args = _args(session, events, asked.args) if asked.args else {}
    items = tuple(audit.Use.model_validate(row | {"args": args.get(_key(row), ())}) for row in fitting)
    return audit.Usage(items=items, end=end, more=len(rows) > asked.limit)


def _chosen(session: Session, wanted: audit.Filter) -> list[ColumnElement[bool]]:
    """Return what a filter demands: of an mcptoken, that it or one below it did it."""
    if wanted.token is None and wanted.token_sha is None:
        return conditions(wanted)
    own = conditions(audit.Filter(project=wanted.project, token=wanted.token, token_sha=wanted.token_sha))
    others = conditions(wanted.model_copy(update={"token": None, "token_sha": None}))
    below = list(_below(session, own))
    return [*others, or_(and_(*own), col(EntryRow.token_sha).in_(below))]


def _below(session: Session, own: list[ColumnElement[bool]]) -> Iterator[str]:
    """Yield the SHA-256 of each mcptoken that those chosen have issued, and these in turn, as the ledger tells it."""
    sha = col(EntryRow.token_sha)
    known = {found for found in session.exec(select(sha).distinct().where(sha.is_not(None), *own)) if found}
    newest = set(known)
    for _ in range(FAMILY):
        newest = {child for issued in _issued(session, newest) for child in _bearers(session, issued)} - known
        if not newest or len(known) > FAMILY:
            return
        known |= newest
        yield from sorted(newest)


def _issued(session: Session, shas: Iterable[str]) -> Iterator[EntryRow]:
    """Yield the events of what these bearers have issued."""
    by_them = (*_issues(), col(EntryRow.token_sha).in_(list(shas)))
    yield from session.exec(select(EntryRow).where(*by_them).order_by(col(EntryRow.seq)))


def _bearers(session: Session, issued: EntryRow) -> set[str]:
    """Return the bearers that an mcptoken had from its issue on, until one of the same name was issued after it."""
    named = (col(EntryRow.project) == issued.project, col(EntryRow.seq) > issued.seq)
    next_one = select(func.min(EntryRow.seq)).where(*_issues(), *named, col(EntryRow.name) == issued.name)
    until = session.exec(next_one).one()
    acts = [*named, col(EntryRow.token_name) == issued.name]
    if until is not None:
        acts.append(col(EntryRow.seq) < until)
    found = session.exec(select(EntryRow.token_sha).distinct().where(*acts))
    return {sha for sha in found if sha is not None}


def _issues() -> tuple[ColumnElement[bool], ...]:
    return col(EntryRow.kind) == token.issue.name, col(EntryRow.outcome) == "allow"


def _events(session: Session, chosen: list[ColumnElement[bool]], texts: Iterable[str]) -> Subquery:
    columns: list[Any] = [getattr(EntryRow, key) for key in (*KEYS, "seq", "at") if key not in ("project", *TEXTS)]
    columns.append(func.nullif(EntryRow.project, NO_PROJECT).label("project"))
    columns += [_member(session, name).label(name) for name in texts]
    events: Subquery = select(*columns).where(*chosen).subquery()
    return events


def _member(session: Session, name: str) -> ColumnElement[str]:
    text = col(EntryRow.event)
    if session.get_bind().dialect.name != "postgresql":
        return type_coerce(text, JSON)[name].as_string()  # type: ignore[no-any-return]
    # A text there holds no NUL, and a JSON text that has one is not read at all.
    return case((func.strpos(text, r"\u0000") == 0, cast(text, JSON)[name].as_string()))


def _grouped(session: Session, events: Subquery, asked: audit.GetUsage) -> list[dict[str, Any]]:
    keys = [events.c[key] for key in KEYS]
    often = func.count().label("count")
    sums = [often, func.min(events.c.at).label("first"), func.max(events.c.at).label("last")]
    if asked.args:
        sums.append(func.count(events.c.args.distinct()).label("digests"))
    query = select(*keys, *sums).group_by(*keys).order_by(often.desc(), func.min(events.c.seq))
    return [dict(row) for row in session.execute(query.limit(asked.limit + 1).offset(asked.offset)).mappings()]


def _args(session: Session, events: Subquery, most: int) -> dict[tuple[Any, ...], list[str]]:
    """Return the digests of arguments of each use, the most frequent first."""
    keys = [events.c[key] for key in (*KEYS, "args")]
    query = select(*keys).where(events.c.args.is_not(None)).group_by(*keys)
    order = (func.count().desc(), func.min(events.c.seq))
    args: dict[tuple[Any, ...], list[str]] = {}
    for row in session.execute(query.order_by(*order).limit(ARGS_ROWS)).mappings():
        told = args.setdefault(_key(row), [])
        if len(told) < most:
            told.append(row["args"])
    return args


def _key(row: Any) -> tuple[Any, ...]:
    return tuple(row[key] for key in KEYS)
