"""The RbacEvaluator: its parts, put together."""

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import ClassVar

from mcpctl.actors.changes import ChangeFeed
from mcpctl.actors.leases import Leases
from mcpctl.actors.rbac_evaluator.applying import Applying
from mcpctl.actors.rbac_evaluator.backup import Backups
from mcpctl.actors.rbac_evaluator.definitions import Definitions
from mcpctl.actors.rbac_evaluator.policy import Policy, demand_effect
from mcpctl.actors.rbac_evaluator.questions import Question
from mcpctl.actors.rbac_evaluator.replaying import Replaying
from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.storage import Store, database_url
from mcpctl.bus.actor import Actor, Caller, handles
from mcpctl.bus.connection import Bus, Publisher
from mcpctl.bus.contract import Changes, Done, GetReceipt, Need, PullChanges, Receipt, Role
from mcpctl.bus.contracts import rbac, token


class RbacEvaluator(Actor):
    """Decides who may do what, with the reason; whatever no definition grants is denied."""

    role: ClassVar[Role] = "rbac"
    audited: ClassVar[frozenset[str]] = frozenset({"define", "redefine", "delete", "bind_token", "backup", "restore"})

    def __init__(self, bus: Bus, settings: ActorSettings) -> None:
        super().__init__(bus)
        self._settings = settings
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        settings = self._settings
        url = settings.database_url.get_secret_value() if settings.database_url else None
        store = Store("rbac", database_url("rbac", url, settings.data_dir))
        self._opened.push_async_callback(store.close)
        await store.open_patiently()
        self.service.checks["database"] = store.health
        self.needs["database"] = store.reachable
        publisher = await Publisher.connect(settings.nats_url, self.identity, self.bus.closed.set)
        self._opened.push_async_callback(publisher.close)
        leases = Leases(self.role, url, settings.data_dir)
        self._opened.push_async_callback(leases.close)
        self._changes = ChangeFeed(store, publisher, rbac.feed, leases)
        await self._changes.open()
        self._policy = Policy(store, self.bus)
        self._definitions = Definitions(self._policy, self._changes)
        applying = Applying(self._policy, self._changes, self.audit)
        self.parts = (
            self._definitions,
            applying,
            Replaying(self._policy, self._changes, applying),
            Backups(store, self._changes),
        )

    async def close(self) -> None:
        await self._opened.aclose()

    async def decide(self, bearer: str, need: Need, name: str | None, project: str | None) -> rbac.Verdict:
        """Decide here: no other actor knows better."""
        return await self._decide(bearer, Question(need.verb, need.resource, name, project, need.operation))

    @handles(rbac.check)
    async def check(self, request: rbac.Check, _caller: Caller) -> rbac.Verdict:
        question = Question(
            request.verb, request.resource, request.name, request.project, request.action, request.arguments
        )
        return await self._decide(request.bearer, question, request.subject)

    @handles(rbac.scope)
    async def scope(self, request: rbac.GetScope, _caller: Caller) -> rbac.ScopeOf:
        return await self._policy.scope(request.bearer, request.project)

    @handles(rbac.check_ceiling)
    async def check_ceiling(self, request: rbac.CheckCeiling, _caller: Caller) -> Done:
        demand_effect(request.bindings)
        await self._policy.demand_ceiling(request.bearer, request.project, request.bindings)
        await self._policy.demand_power_over(request.bearer, request.groups, request.subjects)
        return Done()

    @handles(rbac.feed.pull)
    async def pull(self, request: PullChanges, caller: Caller) -> Changes:
        return await self._changes.pull(request, caller.name)

    @handles(rbac.feed.receipt)
    async def receipt(self, request: GetReceipt, _caller: Caller) -> Receipt:
        await self.bus.call(token.resolve, token.ResolveBearer(bearer=request.bearer))
        return await self._changes.receipt(request)

    async def _decide(self, bearer: str, question: Question, subject: str | None = None) -> rbac.Verdict:
        where = question.project
        if question.resource == "rbac" and where is None and question.name and question.verb != "create":
            where = await self._definitions.project_of(question.name)
        verdict = await self._decide_in(bearer, replace(question, project=where), subject)
        if verdict.allowed or where == question.project:
            return verdict
        return await self._decide_in(bearer, question, subject)  # it is not told in which project there is one

    async def _decide_in(self, bearer: str, question: Question, subject: str | None) -> rbac.Verdict:
        if subject is not None:
            return await self._policy.decide_for(bearer, subject, question)
        return await self._policy.decide(bearer, question)
