"""Who is in which group: kept in the members' own rows, one group being a member of another among them."""

from collections.abc import Callable, Iterable

from sqlmodel import Session

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.demands import Demands
from mcpctl.actors.token_registry.memberships import memberships
from mcpctl.actors.token_registry.rows import GroupRow, ServiceAccountRow, UserRow, above
from mcpctl.bus.errors import BadRequest, Conflict, NotFound

MemberRow = UserRow | ServiceAccountRow | GroupRow

FIND: dict[str, Callable[[Session, str], MemberRow | None]] = {
    "Group": lambda session, name: session.get(GroupRow, name),
    "ServiceAccount": lambda session, name: session.get(ServiceAccountRow, name),
    "User": lambda session, name: session.get(UserRow, name),
}
TABLES: dict[str, type[MemberRow]] = {"Group": GroupRow, "ServiceAccount": ServiceAccountRow, "User": UserRow}
WORDS = {"Group": "group", "ServiceAccount": "service account", "User": "user"}


def in_order(groups: Iterable[str]) -> list[str]:
    """Return groups as rows keep them: each once, sorted."""
    return sorted(set(groups))


def demand_groups(session: Session, names: Iterable[str]) -> None:
    """Raise `NotFound` for a group that is to be joined and is not there."""
    for name in sorted(names):
        if session.get(GroupRow, name) is None:
            raise NotFound(f"there is no group {name}: create it first, with `mcpctl create group {name}`")


def demand_no_cycle(session: Session, name: str, joins: Iterable[str]) -> None:
    """Raise `Conflict` where the group would become a member of one that is a member of it."""
    for other in joins:
        if name in above(session, [other]):
            raise Conflict(f"group {name} cannot be a member of group {other}, which is a member of {name} itself")


def members_of(session: Session, name: str) -> tuple[str, ...]:
    """Return the direct members of a group as subjects, sorted."""
    return tuple(
        f"{kind}:{member}"
        for kind, table in TABLES.items()
        for member in sorted(memberships(session, table).members.get(name, ()))
    )


def find_member(session: Session, subject: str) -> MemberRow:
    """Return the row of `User:ann`, `ServiceAccount:ci` or `Group:devs`. Raises `BadRequest`, `NotFound`."""
    kind, _, name = subject.partition(":")
    find = FIND.get(kind)
    if find is None or not name:
        raise BadRequest(f"{subject!r} is no member: write User:NAME, ServiceAccount:NAME or Group:NAME")
    row = find(session, name)
    if row is None:
        raise NotFound(f"there is no {WORDS[kind]} {name}")
    return row


def add_member(changing: Changing, demands: Demands, group: str, subject: str) -> None:
    """Put a subject in a group; one that is in it stays."""
    session = changing.session
    row = find_member(session, subject)
    if isinstance(row, GroupRow):
        demand_no_cycle(session, row.name, [group])
    _put(changing, demands, row, [*row.groups, group])


def remove_member(changing: Changing, demands: Demands, group: str, subject: str) -> None:
    """Take a subject out of a group; one that is not in it stays out."""
    row = find_member(changing.session, subject)
    _put(changing, demands, row, [name for name in row.groups if name != group])


def _put(changing: Changing, demands: Demands, row: MemberRow, groups: list[str]) -> None:
    wanted = in_order(groups)
    if wanted == row.groups:
        return
    demands.membership(changing.session, was=row.groups, now=wanted)
    row.groups = wanted
    changing.session.add(row)
    if isinstance(row, GroupRow):
        record_members(changing, row.name)
    else:
        changing.record("user" if isinstance(row, UserRow) else "serviceaccount", row.name, "changed")


def record_members(changing: Changing, name: str) -> None:
    """Record that a group changed, and with it everybody who is in it, also by way of another group."""
    changing.record("group", name, "changed")
    seen: set[str] = set()
    waiting = list(members_of(changing.session, name))
    while waiting:
        subject = waiting.pop()
        if subject in seen:
            continue
        seen.add(subject)
        kind, _, member = subject.partition(":")
        if kind == "Group":
            waiting += members_of(changing.session, member)
        else:
            changing.record("user" if kind == "User" else "serviceaccount", member, "changed")
