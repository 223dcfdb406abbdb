"""Groups: what their members are granted together."""

from dataclasses import dataclass

from sqlmodel import Session, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.demands import Demands, Guarded
from mcpctl.actors.token_registry.membership import (
    add_member,
    demand_groups,
    demand_no_cycle,
    find_member,
    in_order,
    members_of,
    record_members,
    remove_member,
)
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import GroupRow, Records, above, as_time
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Done
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import ADMINS
from mcpctl.bus.errors import BadRequest, Conflict, NotFound


class Groups:
    """Creates, shows, changes and deletes groups; nobody lets anybody in who lacks what the group gives."""

    def __init__(self, records: Records, guarded: Guarded, ask: RbacCalls) -> None:
        self._records, self._guarded, self._ask = records, guarded, ask

    @handles(token.create_group)
    async def create(self, request: token.CreateGroup, _caller: Caller) -> token.Group:
        now = self._records.clock()

        def work(changing: Changing, demands: Demands) -> token.Group:
            row = create_group(changing, request.name, request.labels, request.description, now)
            edit_group(changing, demands, row, GroupChange(groups=request.groups, add_members=request.members))
            return _shown(row, members_of(changing.session, row.name))

        return await self._guarded.change(request.bearer, work)

    @handles(token.list_groups)
    async def list_all(self, _request: token.ListGroups, _caller: Caller) -> token.Groups:
        def find(session: Session) -> token.Groups:
            rows = session.exec(select(GroupRow)).all()
            items = (_shown(row, members_of(session, row.name)) for row in sorted(rows, key=lambda row: row.name))
            return token.Groups(items=tuple(items))

        return await self._records.read(find)

    @handles(token.get_group)
    async def get(self, request: token.GetGroup, _caller: Caller) -> token.Group:
        return await self._records.read(
            lambda session: _shown(find_group(session, request.name), members_of(session, request.name))
        )

    @handles(token.edit_group)
    async def edit(self, request: token.EditGroup, _caller: Caller) -> token.Group:
        wanted = GroupChange(
            request.labels, request.description, request.groups, request.add_members, request.remove_members
        )

        def work(changing: Changing, demands: Demands) -> token.Group:
            row = find_group(changing.session, request.name)
            edit_group(changing, demands, row, wanted)
            return _shown(row, members_of(changing.session, row.name))

        return await self._guarded.change(request.bearer, work)

    @handles(token.delete_group)
    async def delete(self, request: token.DeleteGroup, _caller: Caller) -> Done:
        def work(changing: Changing, demands: Demands) -> None:
            delete_group(changing, demands, find_group(changing.session, request.name))

        await self._guarded.change(request.bearer, work)
        await self._ask.forget(f"Group:{request.name}")
        return Done()


@dataclass(frozen=True)
class GroupChange:
    """What is to be different of a group; None leaves it as it is."""

    labels: dict[str, str] | None = None
    description: str | None = None
    groups: tuple[str, ...] | None = None
    add_members: tuple[str, ...] = ()
    remove_members: tuple[str, ...] = ()


def create_group(changing: Changing, name: str, labels: dict[str, str], description: str, now: int) -> GroupRow:
    """Create a group in no other, and without members. Raises `Conflict` where there is one."""
    if changing.session.get(GroupRow, name) is not None:
        raise Conflict(f"there is a group {name} already: edit it, or choose another name")
    row = GroupRow(name=name, labels=labels, description=description, groups=[], created_at=now)
    changing.session.add(row)
    changing.record("group", name, "created")
    return row


def edit_group(changing: Changing, demands: Demands, row: GroupRow, wanted: GroupChange) -> None:
    """Change a group, then its members."""
    session = changing.session
    for both in set(wanted.add_members) & set(wanted.remove_members):
        raise BadRequest(f"{both} cannot be both added and removed")
    if wanted.labels is not None:
        row.labels = wanted.labels
    if wanted.description is not None:
        row.description = wanted.description
    if wanted.labels is not None or wanted.description is not None:
        session.add(row)
        changing.record("group", row.name, "changed")
    if wanted.groups is not None and in_order(wanted.groups) != row.groups:
        demand_groups(session, set(wanted.groups) - set(row.groups))
        demand_no_cycle(session, row.name, wanted.groups)
        demands.membership(session, was=row.groups, now=wanted.groups)
        row.groups = in_order(wanted.groups)
        session.add(row)
        record_members(changing, row.name)
    for subject in wanted.add_members:
        add_member(changing, demands, row.name, subject)
    for subject in wanted.remove_members:
        remove_member(changing, demands, row.name, subject)


def delete_group(changing: Changing, demands: Demands, row: GroupRow) -> None:
    """Take everybody out of a group, and delete it."""
    if row.name == ADMINS:
        raise Conflict(f"the group {ADMINS} is built in: it cannot be deleted")
    session = changing.session
    if ADMINS in above(session, [row.name]):
        demands.groups.add(ADMINS)
    record_members(changing, row.name)
    for subject in members_of(session, row.name):
        member = find_member(session, subject)
        member.groups = [name for name in member.groups if name != row.name]
        session.add(member)
    session.delete(row)
    changing.record("group", row.name, "removed")


def find_group(session: Session, name: str) -> GroupRow:
    row = session.get(GroupRow, name)
    if row is None:
        raise NotFound(f"there is no group {name}")
    return row


def _shown(row: GroupRow, within: tuple[str, ...]) -> token.Group:
    return token.Group(
        name=row.name,
        labels=row.labels,
        description=row.description,
        groups=tuple(row.groups),
        members=within,
        created_at=as_time(row.created_at),
    )
