"""Pinned definitions of tools in SQL: the first one seen counts, until somebody approves another."""

from collections.abc import Iterable

from sqlmodel import Session, col, select

from mcpctl.actors import changes
from mcpctl.actors.catalog import servers
from mcpctl.actors.catalog.definitions import differences
from mcpctl.actors.catalog.rows import MemberRow, PinRow, as_datetime, now_ms
from mcpctl.actors.changes import Changing
from mcpctl.bus.contracts import pins
from mcpctl.bus.errors import BadRequest, Conflict, NotFound

MOST = 5000
"""Tools of one server that are pinned at the most: one that invents names is not followed for ever."""


def rows_of(session: Session, server: str) -> list[PinRow]:
    """Return a server's pins, by tool."""
    return list(session.exec(select(PinRow).where(col(PinRow.server) == server).order_by(col(PinRow.tool))))


def demand_member(session: Session, project: str, server: str) -> None:
    """Raise `NotFound` where a project does not hold a server."""
    if session.get(MemberRow, (project, server)) is None:
        raise NotFound(f"no server {server} in project {project}")


def found(session: Session, server: str) -> pins.Pins:
    """Return a server's pins for a router."""
    epoch, seq = changes.position(session)
    items = (pins.Pin(tool=row.tool, digest=row.digest, pending=row.pending_digest) for row in rows_of(session, server))
    return pins.Pins(epoch=epoch, seq=seq, items=tuple(items))


def take(changing: Changing, server: str, definitions: Iterable[pins.Definition]) -> dict[str, tuple[str, ...]]:
    """Pin what is new and note what differs; return the tools whose quarantine begins with that, and what changed.

    What its server says now of a tool in quarantine replaces what it said before; it does not end the quarantine, even
    where it is the pinned definition again: a server that goes back and forth is not to be trusted either.
    """
    session, begun = changing.session, {}
    held = {row.tool: row for row in rows_of(session, server)}
    for each in definitions:
        row = held.get(each.tool)
        if row is None:
            if len(held) < MOST:
                row = PinRow(server=server, tool=each.tool, digest=each.digest, definition=each.text)
                row.first_seen_ms = now_ms()
                held[each.tool] = row
                session.add(row)
        elif each.digest not in (row.digest, row.pending_digest):
            if row.pending_digest is None:
                begun[each.tool] = differences(row.definition, each.text)
            row.pending_digest, row.pending_definition, row.pending_ms = each.digest, each.text, now_ms()
            session.add(row)
    session.flush()
    if begun:
        changing.record(pins.KIND, server, "changed")
    return begun


def approve(changing: Changing, server: str, approvals: Iterable[pins.Approval], by: str) -> tuple[pins.Tool, ...]:
    """Pin the definitions that were looked at. Raises `NotFound`, and `Conflict` where one has changed since."""
    session = changing.session
    servers.find(session, server)
    rows = []
    for each in approvals:
        row = session.get(PinRow, (server, each.tool))
        if row is None:
            raise NotFound(f"no tool {each.tool} of server {server} has been seen")
        if each.digest == row.pending_digest:
            row.digest, row.definition = each.digest, row.pending_definition or ""
        elif each.digest != row.digest:
            raise Conflict(
                f"tool {server}/{each.tool} is not as you have seen it: its server has changed it again, or somebody "
                "approved it meanwhile; look at it again"
            )
        row.pending_digest = row.pending_definition = row.pending_ms = None
        row.approved_ms, row.approved_by = now_ms(), by
        session.add(row)
        rows.append(row)
    session.flush()
    changing.record(pins.KIND, server, "changed")
    return tuple(map(_shown, rows))


def list_of(session: Session, server: str) -> tuple[pins.Tool, ...]:
    """Return all tools of a server that were seen. Raises `NotFound`."""
    servers.find(session, server)
    return tuple(map(_shown, rows_of(session, server)))


def demand_sound(row: PinRow) -> None:
    """Raise `ValueError` or `BadRequest` for a restored pin that says nothing, or is not what its digest says."""
    texts = ((row.digest, row.definition), (row.pending_digest, row.pending_definition))
    for digest, text in texts:
        if (digest is None) != (text is None):
            raise BadRequest(f"the backup has half a pin of tool {row.server}/{row.tool}")
        if text is not None and pins.Definition(tool=row.tool, text=text).digest != digest:
            raise BadRequest(f"the backup has tool {row.server}/{row.tool} with another definition than the pinned one")
    _shown(row)


def _shown(row: PinRow) -> pins.Tool:
    pending = row.pending_definition
    return pins.Tool(
        server=row.server,
        tool=row.tool,
        state="quarantined" if pending is not None else "pinned" if row.approved_ms is None else "approved",
        digest=row.digest,
        first_seen=as_datetime(row.first_seen_ms),
        approved_at=None if row.approved_ms is None else as_datetime(row.approved_ms),
        approved_by=row.approved_by,
        pending=row.pending_digest,
        pending_since=None if row.pending_ms is None else as_datetime(row.pending_ms),
        changes=() if pending is None else differences(row.definition, pending),
    )
