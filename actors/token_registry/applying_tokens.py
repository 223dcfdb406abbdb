"""Mcptokens brought to their documents: those that are missing are issued, all or none; no token is ever changed."""

from dataclasses import dataclass
from typing import Literal

from sqlmodel import Session, col, select

from mcpctl.actors.changes import Changing
from mcpctl.actors.token_registry.demands import Demands, Guarded, Right
from mcpctl.actors.token_registry.issuing import Binder, Issuer, NewToken, Replaced, insert
from mcpctl.actors.token_registry.lifetimes import DEFAULT_MS, Terms, expiry_of
from mcpctl.actors.token_registry.mcptokens import forget_tokens
from mcpctl.actors.token_registry.notes import Notes
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.resolving import Resolving
from mcpctl.actors.token_registry.rows import BearerRow, Records, owner_of, status_of
from mcpctl.actors.token_registry.trees import find_named, revoke_trees
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.bearer import mint
from mcpctl.bus.contract import Outcome, Ref
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.contracts.rbac import Verdict
from mcpctl.bus.errors import BadRequest, BusError, Conflict

Action = Literal["created", "unchanged", "removed"]
Verb = Literal["create", "view", "delete"]

VERBS = {"created": "issue", "removed": "revoke"}


class ApplyingTokens:
    """Applies the documents of mcptokens, each as `issue` and `revoke` would have done it."""

    def __init__(
        self,
        records: Records,
        guarded: Guarded,
        resolving: Resolving,
        ask: RbacCalls,
        binder: Binder,
        terms: Terms,
        notes: Notes,
    ) -> None:
        self._records, self._guarded, self._resolving = records, guarded, resolving
        self._ask, self._binder, self._terms, self._notes = ask, binder, terms, notes

    @handles(token.apply_tokens)
    async def apply(self, request: token.ApplyTokens, _caller: Caller) -> token.AppliedTokens:
        asker: token.Principal | None = None
        try:
            asker = (await self._resolving.find(request.bearer))[0].principal
            return await self._apply(request, asker)
        except BusError as error:
            await self._notes.failed(token.apply_tokens.name, asker, error)
            raise

    async def _apply(self, request: token.ApplyTokens, asker: token.Principal) -> token.AppliedTokens:
        _demand_once(request)
        named = [
            *((spec.name, spec.project) for spec in request.tokens),
            *((r.name, r.project) for r in request.remove),
        ]
        seen = {Right("view", "mcptokens", name, project) for name, project in named}
        await self._guarded.check(request.bearer, Demands(rights=seen))  # else it would be told what there is
        now = self._records.clock()
        missing = await self._records.read(
            lambda session: [spec for spec in request.tokens if _active(session, spec, now) is None]
        )
        wanted = {Right("create", "mcptokens", spec.name, spec.project) for spec in missing} | {
            Right("delete", "mcptokens", ref.name, ref.project) for ref in request.remove
        }
        await self._guarded.check(request.bearer, Demands(rights=wanted))  # before others wait for a rehearsal
        longest = await self._longest(request, {spec.project for spec in missing})
        bearers = {(spec.project, spec.name): mint("pat") for spec in request.tokens}

        def work(changing: Changing, demands: Demands) -> "_Run":
            run = _Run(changing, demands, Issuer.of_principal(asker), now, longest, bearers)
            run.apply(request)
            return run

        plan, demands = await self._guarded.rehearse(work)
        verdicts = await self._guarded.check(request.bearer, demands)
        binds = _binds(request, plan)
        if request.dry_run:
            for bind in binds:
                await self._ask.check_ceiling(bind.bearer, project=bind.project, bindings=bind.bindings)
            return token.AppliedTokens(items=tuple(plan.items))

        def place(changing: Changing, _replaced: Replaced) -> "_Run":
            found = Demands()
            again = work(changing, found)
            if not found.within(demands):
                raise Conflict("mcptokens were changed meanwhile: try again")
            return again

        done = await self._binder.put(place, [new.sha for new, _, _ in plan.made], binds)
        await forget_tokens(self._ask, done.gone)
        await self._note(done, verdicts)
        issued = tuple(token.IssuedToken(bearer=new.bearer, token=shown) for new, shown, _ in done.made)
        return token.AppliedTokens(items=tuple(done.items), issued=issued)

    async def _longest(self, request: token.ApplyTokens, projects: set[str]) -> dict[str, int | None]:
        """Return the longest life of mcptokens in each project; a dry run takes those to come at their word."""
        to_come = request.projects if request.dry_run else {}
        here = projects - to_come.keys()
        terms = {project: await self._terms.longest_ms(request.bearer, project) for project in here}
        return terms | {project: None if cap is None else cap * 1000 for project, cap in to_come.items()}

    async def _note(self, done: "_Run", verdicts: dict[Right, Verdict]) -> None:
        rights = {(right.name, right.project): verdict for right, verdict in verdicts.items()}
        for item in done.items:
            if item.action in VERBS:
                verdict = rights[item.ref.name, item.ref.project]
                await self._notes.done(f"token.{VERBS[item.action]}", verdict, item.ref.name, item.ref.project)


@dataclass
class _Run:
    """One run over the documents, in a transaction."""

    changing: Changing
    demands: Demands
    issuer: Issuer
    now: int
    longest_ms: dict[str, int | None]
    bearers: dict[tuple[str, str], str]

    def __post_init__(self) -> None:
        self.items: list[Outcome] = []
        self.made: list[tuple[NewToken, token.Token, token.TokenSpec]] = []
        self.gone: list[str] = []

    def apply(self, request: token.ApplyTokens) -> None:
        for ref in request.remove:
            self._revoke(ref)
        removed, self.items = self.items, []
        for spec in request.tokens:
            if _active(self.changing.session, spec, self.now) is None:
                self._issue(spec)
            else:
                self._note("unchanged", "view", spec.name, spec.project)
        self.items += removed

    def _issue(self, spec: token.TokenSpec) -> None:
        if spec.project not in self.longest_ms:
            raise Conflict(f"mcptoken {spec.name} of project {spec.project} was revoked meanwhile: try again")
        try:
            expires_at = expiry_of(spec, self.now, default_ms=DEFAULT_MS, longest_ms=self.longest_ms[spec.project])
        except BusError as error:
            raise type(error)(f"mcptoken {spec.name} of project {spec.project}: {error}") from error
        new = NewToken(
            issuer=self.issuer,
            project=spec.project,
            name=spec.name,
            labels=spec.labels,
            description=spec.description,
            expires_at=expires_at,
            created_at=self.now,
            quota=spec.quota,
            bearer=self.bearers[spec.project, spec.name],
        )
        self.made.append((new, insert(self.changing, new), spec))
        self._note("created", "create", spec.name, spec.project)

    def _revoke(self, ref: Ref) -> None:
        if ref.project is None:
            raise BadRequest(f"mcptoken {ref.name} belongs to a project: say to which")
        rows = find_named(self.changing.session, ref.project, ref.name)
        self.gone += revoke_trees(self.changing, rows, self.now)
        self._note("removed", "delete", ref.name, ref.project)

    def _note(self, action: Action, verb: Verb, name: str, project: str) -> None:
        self.demands.rights.add(Right(verb, "mcptokens", name, project))
        self.items.append(Outcome(ref=Ref(kind="mcptoken", name=name, project=project), action=action))


def _active(session: Session, spec: token.TokenSpec, now: int) -> BearerRow | None:
    """Return the active mcptoken that a document describes."""
    named = col(BearerRow.active_name) == f"{spec.project}/{spec.name}"
    row = session.exec(select(BearerRow).where(named)).first()
    return row if row is not None and status_of(row, owner_of(session, row), now) == "active" else None


def _binds(request: token.ApplyTokens, run: _Run) -> list[rbac.BindToken]:
    return [
        rbac.BindToken(bearer=request.bearer, project=new.project, name=new.name, sha=new.sha, bindings=spec.bindings)
        for new, _, spec in run.made
        if spec.bindings
    ]


def _demand_once(request: token.ApplyTokens) -> None:
    """Raise `BadRequest` for an mcptoken that is named twice, or a thing that is none."""
    seen: set[tuple[str | None, str]] = set()
    for ref in request.remove:
        if ref.kind != "mcptoken":
            raise BadRequest(f"a {ref.kind} cannot be removed here: only an mcptoken")
    for name in [*((s.project, s.name) for s in request.tokens), *((r.project, r.name) for r in request.remove)]:
        if name in seen:
            raise BadRequest(f"mcptoken {name[1]} of project {name[0]} is named twice: leave one of the two out")
        seen.add(name)
