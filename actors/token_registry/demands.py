"""What a change demands of the one who asks for it: found out by rehearsing the change itself.

So what is checked is what will be done, with every nested group; and what other changes have added meanwhile is
found before the commit.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from sqlmodel import Session, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import Records, UserRow, above
from mcpctl.bus.contract import Need
from mcpctl.bus.contracts.rbac import ADMINS, Verdict
from mcpctl.bus.errors import Conflict, Forbidden

T = TypeVar("T")

AT_ONCE = 16
"""Questions to the RbacEvaluator side by side."""


class Right(NamedTuple):
    """A verb on one named resource."""

    verb: Literal["view", "create", "edit", "delete"]
    resource: str
    name: str
    project: str | None = None


@dataclass
class Demands:
    """What the asker must hold: all that groups give, all that subjects may do, and rights."""

    groups: set[str] = field(default_factory=set)
    subjects: set[str] = field(default_factory=set)
    rights: set[Right] = field(default_factory=set)

    def membership(self, session: Session, *, was: Iterable[str], now: Iterable[str]) -> None:
        """Demand all that a change of the groups somebody is in gives; and that only an admin touches an admin."""
        before, after = above(session, was), above(session, now)
        self.groups |= after - before
        if ADMINS in before | after:
            self.groups.add(ADMINS)

    def power_over(self, session: Session, subject: str, groups: Iterable[str]) -> None:
        """Demand all that a subject who is in these groups may do."""
        self.subjects |= {subject, *(f"Group:{group}" for group in above(session, groups))}

    def within(self, other: "Demands") -> bool:
        return self.groups <= other.groups and self.subjects <= other.subjects and self.rights <= other.rights


Work = Callable[[Changing, Demands], T]
"""Makes a change, and adds to the demands what it takes."""


class Guarded:
    """Makes changes of those who hold what these demand."""

    def __init__(self, records: Records, ask: RbacCalls) -> None:
        self._records, self._ask = records, ask

    async def change(self, bearer: str, work: Work[T]) -> T:
        """Make a change. Raises `Forbidden` where it would give more than the bearer's holder has."""
        _, demands = await self.rehearse(work)
        await self.check(bearer, demands)
        return await self.commit(work, demands)

    async def rehearse(self, work: Work[T]) -> tuple[T, Demands]:
        """Return what the change would return, and what it demands."""
        demands = Demands()
        result = await self._records.rehearse(lambda changing: _with_an_admin_left(changing, demands, work))
        return result, demands

    async def check(self, bearer: str, demands: Demands) -> dict[Right, Verdict]:
        """Return the verdict on each right. Raises `Forbidden` where the bearer's holder lacks anything demanded."""
        turns = asyncio.Semaphore(AT_ONCE)
        refused: list[Forbidden] = []

        async def authorize(right: Right) -> Verdict:
            async with turns:
                if refused:  # nobody waits for the answer any more
                    raise refused[0]
                verdict = await self._ask.decide(bearer, Need(right.verb, right.resource), right.name, right.project)
                if not verdict.allowed:
                    refused.append(Forbidden(verdict.reason))
                    raise refused[-1]
            return verdict

        rights = sorted(demands.rights, key=str)
        verdicts = await asyncio.gather(*(authorize(right) for right in rights))
        if demands.groups or demands.subjects:
            groups, subjects = tuple(sorted(demands.groups)), tuple(sorted(demands.subjects))
            await self._ask.check_ceiling(bearer, groups=groups, subjects=subjects)
        return dict(zip(rights, verdicts, strict=True))

    async def commit(self, work: Work[T], checked: Demands) -> T:
        """Make the change for good. Raises `Conflict` where it has come to demand more than was checked."""

        def run(changing: Changing) -> T:
            demands = Demands()
            result = _with_an_admin_left(changing, demands, work)
            if not demands.within(checked):
                raise Conflict("users or groups were changed meanwhile: try again")
            return result

        return await self._records.write(run)


def _with_an_admin_left(changing: Changing, demands: Demands, work: Work[T]) -> T:
    before = able_admins(changing.session)
    result = work(changing, demands)
    if before and not able_admins(changing.session):
        raise Conflict(f"user {before[0]} is the last enabled member of {ADMINS}: put another one in that group first")
    return result


def able_admins(session: Session) -> list[str]:
    """Return the admins who can log in."""
    users = session.exec(select(UserRow)).all()
    able = [user for user in users if not user.disabled and user.password_hash]
    return [user.name for user in able if ADMINS in above(session, user.groups)]
