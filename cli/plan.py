"""Applying documents over several owners: validated by all of them first, then done in order, undone on a failure.

Each owner takes its documents in one transaction. What others refer to is done first, what gives rights last, and
what is no longer wanted is removed at the end, when all else is there.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mcpctl.bus.contract import Call, Outcome, Ref
from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.errors import BusError
from mcpctl.cli.manifests import KINDS, Manifest
from mcpctl.cli.session import Session


@dataclass(frozen=True)
class Step:
    """One call to one owner. `members` are the request's documents, by kind."""

    call: Call[Any, Any]
    members: dict[str, str]


STEPS = (
    Step(catalog.apply, {"secret": "secrets", "server": "servers", "project": "projects", "prompt": "prompts"}),
    Step(token.apply_principals, {"group": "groups", "user": "users", "serviceaccount": "service_accounts"}),
    Step(rbac.apply, {"rbac": "definitions"}),
    Step(token.apply_tokens, {"mcptoken": "tokens"}),
)


@dataclass(frozen=True)
class Done:
    """What was done, or would be; and the bearers of new mcptokens."""

    items: tuple[Outcome, ...]
    issued: tuple[token.IssuedToken, ...] = ()


class NotUndone(Exception):
    """A failure while applying could not be undone: `left` is what stays done."""

    def __init__(self, cause: BusError, left: Sequence[Outcome]) -> None:
        super().__init__(str(cause))
        self.left = left


class Plan:
    """Documents to bring about, and resources to remove."""

    def __init__(self, session: Session, manifests: Iterable[Manifest], unwanted: Iterable[Ref] = ()) -> None:
        self._session = session
        self._manifests, self._unwanted = tuple(manifests), tuple(unwanted)

    async def check(self) -> Done:
        """Have every owner do its part and take it back. Raises `BusError` for what one of them refuses."""
        found = [await self._ask(step, self._manifests, self._unwanted, dry_run=True) for step in STEPS]
        return _together(found)

    async def carry_out(self) -> Done:
        """Do it. On a failure what was done is undone, and the failure raised: as `NotUndone` where that fails too."""
        done: list[tuple[Step, Done]] = []
        try:
            for step in STEPS:
                made = await self._ask(step, self._manifests, ())
                done.append((step, made))
        except BusError as error:
            await self._undo(done, error)
            raise
        removed = [await self._ask(step, (), self._unwanted) for step in reversed(STEPS)]
        return _together([*(made for _, made in done), *removed])

    async def _undo(self, done: list[tuple[Step, Done]], cause: BusError) -> None:
        for place in range(len(done) - 1, -1, -1):
            step, made = done[place]
            before = [(item.ref.kind, item.before) for item in made.items if item.action == "configured"]
            created = [item.ref for item in made.items if item.action == "created"]
            members: dict[str, Any] = {member: [] for member in step.members.values()}
            for kind, spec in before:
                members[step.members[kind]].append(KINDS[kind].spec.model_validate(spec))
            try:
                if before or created:
                    await self._session.ask(step.call, **members, remove=tuple(created))
            except BusError as error:
                left = [item for _, each in done[: place + 1] for item in each.items if item.action != "unchanged"]
                raise NotUndone(cause, left) from error

    async def _ask(self, step: Step, manifests: Sequence[Manifest], remove: Sequence[Ref], **more: Any) -> Done:
        members: dict[str, Any] = {
            member: tuple(each.spec for each in manifests if each.kind.name == kind)
            for kind, member in step.members.items()
        }
        gone = tuple(ref for ref in remove if ref.kind in step.members)
        if not gone and not any(members.values()):
            return Done(())
        if step.call is token.apply_tokens:
            specs = (each.spec for each in self._manifests if each.kind.name == "project")
            members["projects"] = {spec.name: spec.max_token_ttl_seconds for spec in specs}
        answer = await self._session.ask(step.call, **members, remove=gone, **more)
        return Done(answer.items, getattr(answer, "issued", ()))


def _together(found: Iterable[Done]) -> Done:
    parts = list(found)
    return Done(
        tuple(item for part in parts for item in part.items),
        tuple(issued for part in parts for issued in part.issued),
    )
