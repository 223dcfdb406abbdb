"""What the definitions say about a bearer: read for each question, kept for none."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sqlmodel import Session

from mcpctl.actors.changes import position
from mcpctl.actors.rbac_evaluator.decisions import (
    Layer,
    describe,
    judge,
    layers_of,
    scope_of,
    subjects_of,
    verdict,
)
from mcpctl.actors.rbac_evaluator.nearest import Grant
from mcpctl.actors.rbac_evaluator.questions import Question
from mcpctl.actors.rbac_evaluator.rows import bindings_of, naming
from mcpctl.actors.storage import Store
from mcpctl.bus.bindings import why_useless
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.rbac import ADMINS, Binding, Definition, ScopeOf, Verdict
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BadRequest, Forbidden


@dataclass(frozen=True)
class Policy:
    """Decides for a bearer, which it resolves itself."""

    store: Store
    bus: Bus

    async def resolve(self, bearer: str) -> token.Resolved:
        """Return whom a bearer stands for. Raises `Unauthenticated`."""
        return await self.bus.call(token.resolve, token.ResolveBearer(bearer=bearer))

    async def principal(self, bearer: str) -> Principal:
        """Return the principal that a bearer stands for. Raises `Unauthenticated`."""
        return (await self.resolve(bearer)).principal

    async def decide(self, bearer: str, question: Question) -> Verdict:
        """Return the verdict on the bearer's own right. Raises `Unauthenticated`."""
        principal = await self.principal(bearer)
        return await self.store.read(lambda session: self.judge(session, principal, question))

    async def decide_for(self, bearer: str, subject: str, question: Question) -> Verdict:
        """Return the verdict on the right of another, with all that led to it, for one who may impersonate.

        Raises `Forbidden`, and what `token.find_principal` raises for a subject that stands for nobody.
        """
        asker = await self.principal(bearer)
        asked = token.FindPrincipal(bearer=bearer, subject=subject, project=question.project)
        principal = (await self.bus.call(token.find_principal, asked)).principal
        # What its owner holds is not for an mcptoken to know, whoever's rights it may take.
        all_shown = asker.kind != "McpToken"
        return await self.store.read(lambda session: self.judge(session, principal, question, all_shown=all_shown))

    def judge(self, session: Session, principal: Principal, question: Question, *, all_shown: bool = False) -> Verdict:
        """Return the verdict on a principal's right, as of this session."""
        if _is_elsewhere(principal, question.project):
            reason = f"{describe(principal)} may not {question}: it acts only inside project {principal.project}"
            return verdict(principal, allowed=False, reason=reason)
        allowed, reason = judge(layers_in(session, principal, question.project, all_shown=all_shown), question)
        return verdict(principal, allowed=allowed, reason=reason)

    async def scope(self, bearer: str, project: str) -> ScopeOf:
        """Return all that a bearer may do in a project."""
        resolved = await self.resolve(bearer)

        def read(session: Session) -> ScopeOf:
            epoch, seq = position(session)
            scope = scope_of(layers_in(session, resolved.principal, project))
            return ScopeOf(epoch=epoch, seq=seq, scope=scope, token_epoch=resolved.epoch, token_seq=resolved.seq)

        return await self.store.read(read)

    def snapshot(self, session: Session, principal: Principal, project: str) -> tuple[Binding, ...]:
        """Return what a principal may do in a project now, as bindings that it holds in every layer."""
        scope = scope_of(layers_in(session, principal, project))
        kept: list[Binding] = []
        for layer in scope.layers:
            for binding in layer:
                if (
                    binding not in kept
                    and scope.covers(binding)
                    and not (layer is not scope.layers[0] and any(own.covers(binding) for own in kept))
                ):
                    kept.append(binding)
        return tuple(kept)

    def demand_held(
        self, session: Session, principal: Principal, project: str | None, bindings: Iterable[Binding]
    ) -> None:
        """Raise `Forbidden`, naming the binding, where a principal does not hold all that it gives in a project."""
        _demand(principal, layers_in(session, principal, project), project, bindings)

    def demand_may_change(self, session: Session, principal: Principal, was: Definition, wanted: Definition) -> None:
        """Raise `Forbidden`, naming the binding, where a change gives anybody what a principal does not hold.

        A new subject is given all bindings, those that are there are given the new ones; to take away gives nothing.
        """
        given: Iterable[Binding] = wanted.bindings
        if set(wanted.subjects) <= set(was.subjects):
            given = [new for new in wanted.bindings if not any(old.covers(new) for old in was.bindings)]
        self.demand_held(session, principal, wanted.project, given)

    async def demand_ceiling(self, bearer: str, project: str | None, bindings: tuple[Binding, ...]) -> None:
        """Raise `Forbidden`, naming the binding, where the bearer's holder does not hold all that it gives."""
        principal = await self.principal(bearer)
        await self.store.read(lambda session: self.demand_held(session, principal, project, bindings))

    async def demand_power_over(self, bearer: str, groups: tuple[str, ...], subjects: tuple[str, ...]) -> None:
        """Raise `Forbidden` where a group or a subject has what the bearer's holder does not hold.

        Membership in `admins` is given by its members alone.
        """
        principal = (await self.resolve(bearer)).principal
        wanted = [*(f"Group:{group}" for group in groups), *subjects]
        is_admin = principal.kind != "McpToken" and ADMINS in principal.owner.groups
        if f"Group:{ADMINS}" in wanted and not is_admin:
            raise Forbidden(f"only a member of the group {ADMINS} may do this to the group or one of its members")

        def check(session: Session) -> None:
            for _, row in naming(session, wanted):
                self.demand_held(session, principal, row.project, bindings_of(row))

        await self.store.read(check)


def demand_effect(given: Iterable[Binding], before: Collection[Binding] = ()) -> None:
    """Raise `BadRequest` for a binding that can grant nothing; one that was there before may stay."""
    for binding in given:
        fault = why_useless(binding) if binding not in before else None
        if fault is not None:
            raise BadRequest(fault)


def _is_elsewhere(principal: Principal, project: str | None) -> bool:
    return principal.kind == "McpToken" and principal.project != project


def layers_in(
    session: Session, principal: Principal, project: str | None, *, all_shown: bool = False
) -> tuple[Layer, ...]:
    if _is_elsewhere(principal, project):
        return (Layer(describe(principal), shown=True),)
    subjects = subjects_of(principal)
    if principal.kind == "McpToken":
        subjects += [f"McpToken:{sha}" for sha in (principal.sha, *principal.parents)]
    grants = [
        (subject, Grant(row.name, binding))
        for subject, row in naming(session, subjects)
        if row.project in (None, project)
        for binding in bindings_of(row)
    ]
    return layers_of(principal, grants, all_shown=all_shown)


def _demand(principal: Principal, layers: tuple[Layer, ...], project: str | None, bindings: Iterable[Binding]) -> None:
    if scope_of(layers).may_operate("escalate"):
        return
    name, own = describe(principal), layers[0]
    where = f"in project {project}" if project else "outside all projects"
    for binding in bindings:
        for layer in layers:
            if not any(grant.binding.covers(binding) for grant in layer.grants):
                lacks = name if layer is own else f"{layer.holder} (which bounds {name})"
                raise Forbidden(f"{lacks} does not hold {binding} {where}, and so {name} cannot give it")
