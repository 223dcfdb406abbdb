"""Recorded calls, decided once more as if documents were applied: by the rules that decide every call."""

from sqlmodel import Session, col, select

from mcpctl.actors.changes import ChangeFeed, Changing
from mcpctl.actors.rbac_evaluator.applying import Applying
from mcpctl.actors.rbac_evaluator.decisions import Layer, judge
from mcpctl.actors.rbac_evaluator.policy import Policy, layers_in
from mcpctl.actors.rbac_evaluator.questions import Question, SomeArguments
from mcpctl.actors.rbac_evaluator.rows import SubjectRow
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.contracts.rbac import RecordedCall, Replayed
from mcpctl.bus.contracts.token import FoundPrincipal, Principal


class Replaying:
    """Applies documents in a transaction that is taken back, and decides in it."""

    def __init__(self, policy: Policy, changes: ChangeFeed, applying: Applying) -> None:
        self._policy, self._changes, self._applying = policy, changes, applying

    @handles(rbac.replay)
    async def replay(self, request: rbac.Replay, _caller: Caller) -> rbac.ReplayedCalls:
        asker = await self._policy.principal(request.bearer)
        subjects = tuple(dict.fromkeys(call.subject for call in request.calls))
        asked = token.FindPrincipals(bearer=request.bearer, subjects=subjects)
        found = (await self._policy.bus.call(token.find_principals, asked)).items

        def rehearse(changing: Changing) -> tuple[Replayed, ...]:
            self._applying.carry_out(changing, request, asker)
            deciding = _Deciding(changing.session)
            return tuple(deciding.decide(call, found[call.subject]) for call in request.calls)

        return rbac.ReplayedCalls(items=await self._changes.rehearse(rehearse))


class _Deciding:
    """Decides between bounds: of what is not known, the worst and the best for the caller; else it is unknown."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._layers: dict[tuple[Principal, str], tuple[Layer, ...]] = {}
        named = session.exec(select(SubjectRow.subject).where(col(SubjectRow.subject).startswith("Group:")).distinct())
        self._groups = tuple(subject.removeprefix("Group:") for subject in named)

    def decide(self, call: RecordedCall, found: FoundPrincipal) -> Replayed:
        principal = found.principal
        if principal is None:
            return Replayed(outcome="unknown", reason=f"{call.subject}: {found.fault}")
        asked = Question(call.verb, call.resource, call.name, call.project)
        if principal.kind != "McpToken":
            access = Question("view", "projects", call.project, call.project)
            decided = [self._judge(principal, each, call) for each in dict.fromkeys((access, asked))]
        elif call.resource == "projects" and principal.project == call.project:
            return Replayed(outcome="allow", reason="an mcptoken has access to its project")
        else:
            decided = [self._judge(principal, asked, call)]
        worst = [each for outcome in ("deny", "unknown") for each in decided if each.outcome == outcome]
        return (worst or decided[-1:])[0]

    def _judge(self, principal: Principal, asked: Question, call: RecordedCall) -> Replayed:
        least = _in_groups(principal, ()) if call.regrouped else principal
        granted, reason = judge(self._layers_of(least, call), asked)
        if granted:
            return Replayed(outcome="allow", reason=reason)
        possible = _with_some_arguments(asked)
        most = _in_groups(principal, self._groups) if call.regrouped else principal
        if not judge(self._layers_of(most, call), possible)[0]:
            return Replayed(outcome="deny", reason=judge(self._layers_of(principal, call), asked)[1])
        if not judge(self._layers_of(principal, call), asked)[0]:
            perhaps, grants = judge(self._layers_of(principal, call), possible)
            if perhaps:
                return Replayed(outcome="unknown", reason=f"its arguments decide: {grants}")
        return Replayed(outcome="unknown", reason=f"the groups of {principal.owner.name} may have been others then")

    def _layers_of(self, principal: Principal, call: RecordedCall) -> tuple[Layer, ...]:
        key = principal, call.project
        if key not in self._layers:
            self._layers[key] = layers_in(self._session, principal, call.project, all_shown=True)
        return self._layers[key]


def _in_groups(principal: Principal, groups: tuple[str, ...]) -> Principal:
    return principal.model_copy(update={"owner": principal.owner.model_copy(update={"groups": groups})})


def _with_some_arguments(asked: Question) -> Question:
    if (asked.verb, asked.resource) != ("run", "tools"):
        return asked
    return SomeArguments(asked.verb, asked.resource, asked.name, asked.project)
