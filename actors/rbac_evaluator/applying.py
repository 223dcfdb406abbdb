"""Definitions brought to their documents: all or none, each as the single verb would have done it."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session

from mcpctl.actors.changes import ChangeFeed, Changing
from mcpctl.actors.rbac_evaluator.definitions import (
    create,
    demand_free_name,
    demand_not_built_in,
    demand_same_project,
    find,
    remove,
    replace,
)
from mcpctl.actors.rbac_evaluator.policy import Policy, demand_effect
from mcpctl.actors.rbac_evaluator.questions import Question
from mcpctl.actors.rbac_evaluator.rows import DefinitionRow, definition_of
from mcpctl.bus.actor import Caller, event_of, handles
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.context import traceparent
from mcpctl.bus.contract import Applied, Outcome, Ref
from mcpctl.bus.contracts import rbac
from mcpctl.bus.contracts.rbac import Definition, Verdict
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BadRequest, BusError, Conflict, Forbidden

KIND = "rbac"

Action = Literal["created", "configured", "unchanged", "removed"]

RIGHT: dict[Action, str] = {"created": "create", "configured": "edit", "unchanged": "view", "removed": "delete"}

SINGLE: dict[Action, str] = {
    "created": rbac.define.name,
    "configured": rbac.redefine.name,
    "removed": rbac.delete_definition.name,
}
"""The verb that would have made each change by itself: audit events name it."""


@dataclass(frozen=True)
class Step:
    """What becomes of one definition; `wanted` None removes it."""

    name: str
    action: Action
    project: str | None
    was: Definition | None
    wanted: Definition | None

    @property
    def outcome(self) -> Outcome:
        before = None if self.was is None else self.was.model_dump(mode="json")
        return Outcome(ref=Ref(kind=KIND, name=self.name), action=self.action, before=before)


class Applying:
    """Applies documents in one transaction, after every right and every ceiling has been checked in it."""

    def __init__(self, policy: Policy, changes: ChangeFeed, audit: AuditWriter) -> None:
        self._policy, self._changes, self._audit = policy, changes, audit

    @handles(rbac.apply)
    async def apply(self, request: rbac.Apply, _caller: Caller) -> Applied:
        asker = await self._policy.principal(request.bearer)
        try:
            if request.dry_run:
                steps = (await self._policy.store.read(lambda session: self._agreed(session, request, asker)))[0]
                return Applied(items=tuple(step.outcome for step in steps))
            steps, verdicts = await self._changes.write(lambda changing: self.carry_out(changing, request, asker))
        except BusError as error:
            await self._note_failure(asker, error)
            raise
        for step, verdict in zip(steps, verdicts, strict=True):
            if step.action != "unchanged":
                await self._note(step, verdict)
        return Applied(items=tuple(step.outcome for step in steps))

    def carry_out(self, changing: Changing, request: rbac.Apply, asker: Principal) -> tuple[list[Step], list[Verdict]]:
        """Do it in a transaction, and return why it may be done. Raises what `apply` would."""
        steps, verdicts = self._agreed(changing.session, request, asker)
        for step in steps:
            if step.action == "created" and step.wanted is not None:
                create(changing, step.wanted)
            elif step.action == "configured" and step.wanted is not None:
                replace(changing, find(changing.session, step.name), step.wanted)
            elif step.action == "removed":
                remove(changing, find(changing.session, step.name))
        return steps, verdicts

    def _agreed(self, session: Session, request: rbac.Apply, asker: Principal) -> tuple[list[Step], list[Verdict]]:
        """Return what to do and why it may be done, by the rights of now.

        Raises `BadRequest`, `Conflict`, `NotFound`, and `Forbidden` for what the asker may not do or give.
        """
        _demand_once(request)
        self._demand_sight(session, request, asker)
        steps = list(_steps(session, request))
        verdicts = [self._policy.judge(session, asker, _question(step)) for step in steps]
        for step, verdict in zip(steps, verdicts, strict=True):
            if not verdict.allowed:
                raise Forbidden(verdict.reason)
            if step.wanted is not None and step.action != "unchanged":
                demand_effect(step.wanted.bindings, step.was.bindings if step.was is not None else ())
            if step.wanted is not None and step.action == "created":
                self._policy.demand_held(session, asker, step.project, step.wanted.bindings)
            elif step.wanted is not None and step.was is not None:
                self._policy.demand_may_change(session, asker, step.was, step.wanted)
        return steps, verdicts

    def _demand_sight(self, session: Session, request: rbac.Apply, asker: Principal) -> None:
        """Raise `Forbidden` for what the asker may not even see: in the same words whether it is there or not."""
        for wanted in request.definitions:
            verdict = self._policy.judge(session, asker, Question("view", KIND, wanted.name, wanted.project))
            if not verdict.allowed:
                raise Forbidden(verdict.reason)
            row = session.get(DefinitionRow, wanted.name)
            if row is not None and not self._sees(session, asker, row):
                demand_free_name(wanted.name)
                verdict = self._policy.judge(session, asker, Question("create", KIND, wanted.name, wanted.project))
                if not verdict.allowed:  # who could not take the name anyhow is not told that it is taken
                    raise Forbidden(verdict.reason)
                raise Conflict(f"definition {wanted.name} is another one, which you may not see: choose another name")
        for ref in request.remove:
            row = session.get(DefinitionRow, ref.name)
            everywhere = self._policy.judge(session, asker, Question("view", KIND, ref.name, None)).allowed
            if not everywhere and (row is None or not self._sees(session, asker, row)):
                raise Forbidden(f"there is no definition {ref.name}, or none that you may see")

    def _sees(self, session: Session, asker: Principal, row: DefinitionRow) -> bool:
        return self._policy.judge(session, asker, Question("view", KIND, row.name, row.project)).allowed

    async def _note(self, step: Step, verdict: Verdict) -> None:
        event = {"kind": SINGLE[step.action], "outcome": "allow", "project": step.project, "name": step.name}
        await self._audit.append(event_of(verdict) | event | {"rule": verdict.reason, "trace": traceparent()})

    async def _note_failure(self, asker: Principal, error: BusError) -> None:
        outcome = "deny" if error.http_status in (401, 403) else "error"
        event = {"kind": rbac.apply.name, "outcome": outcome, "detail": str(error), "trace": traceparent()}
        with suppress(BusError):
            await self._audit.append(asker.audit_fields | event)


def _demand_once(request: rbac.Apply) -> None:
    """Raise `BadRequest` for a definition that is named twice, or a thing that is none."""
    for ref in request.remove:
        if ref.kind != KIND:
            raise BadRequest(f"a {ref.kind} cannot be removed here: only a definition, of kind {KIND}")
    seen: set[str] = set()
    for name in (*(each.name for each in request.definitions), *(ref.name for ref in request.remove)):
        if name in seen:
            raise BadRequest(f"definition {name} is named twice: leave one of the two out")
        seen.add(name)


def _steps(session: Session, request: rbac.Apply) -> Iterator[Step]:
    for wanted in request.definitions:
        row = session.get(DefinitionRow, wanted.name)
        if row is None:
            demand_free_name(wanted.name)
            yield Step(wanted.name, "created", wanted.project, None, wanted)
            continue
        was = definition_of(session, row)
        if _same(was, wanted):
            yield Step(wanted.name, "unchanged", row.project, was, wanted)
            continue
        demand_not_built_in(wanted.name)
        demand_same_project(row, wanted)
        yield Step(wanted.name, "configured", row.project, was, wanted)
    for ref in request.remove:
        demand_not_built_in(ref.name)
        row = find(session, ref.name)
        yield Step(ref.name, "removed", row.project, definition_of(session, row), None)


def _same(was: Definition, wanted: Definition) -> bool:
    return (was.project, was.labels, set(was.subjects), set(was.bindings)) == (
        wanted.project,
        wanted.labels,
        set(wanted.subjects),
        set(wanted.bindings),
    )


def _question(step: Step) -> Question:
    return Question(RIGHT[step.action], KIND, step.name, step.project)
