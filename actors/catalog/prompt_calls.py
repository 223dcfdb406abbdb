"""The calls about prompts. Most have no project in them: a prompt is looked up, and rights on it are asked there.

That is in its project, or for one that counts in all of them outside all projects.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from sqlmodel import Session

from mcpctl.actors.catalog import prompts, runtime
from mcpctl.actors.catalog.rows import ProjectRow
from mcpctl.actors.changes import ChangeFeed, Changing
from mcpctl.actors.storage import Store
from mcpctl.bus.actor import Caller, event_of, handles
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus
from mcpctl.bus.context import traceparent
from mcpctl.bus.contract import Done, Need
from mcpctl.bus.contracts import catalog, rbac
from mcpctl.bus.errors import BusError, Forbidden, NotFound

VIEW = Need("view", "prompts")
EDIT = Need("edit", "prompts")
DELETE = Need("delete", "prompts")
SEE_PROJECT = Need("view", "projects")
SEE_SERVER = Need("view", "servers")


class Asker(Protocol):
    """What the handlers have of the actor: its questions about rights, and its audit."""

    bus: Bus
    audit: AuditWriter

    async def decide(self, bearer: str, need: Need, name: str | None, project: str | None) -> rbac.Verdict: ...
    async def authorize(self, bearer: str, need: Need, name: str | None, project: str | None) -> rbac.Verdict: ...
    async def demand_access(self, bearer: str, project: str) -> None: ...


@dataclass
class _Attempt:
    """A change that is tried, as the audit tells it: in which project is known once the prompt was looked up."""

    name: str
    project: str | None = None
    verdict: rbac.Verdict | None = None


class PromptCalls:
    """Keeps prompts, and says what of them a bearer may see."""

    def __init__(self, asker: Asker, store: Store, feed: ChangeFeed) -> None:
        self._asker, self._store, self._feed = asker, store, feed

    @handles(catalog.create_prompt)
    async def create_prompt(self, request: catalog.CreatePrompt, _caller: Caller) -> catalog.Prompt:
        await self._check_server(request.bearer, request.spec, None)
        return await self._feed.write(lambda changing: prompts.create(changing, request.spec))

    @handles(catalog.list_prompts)
    async def list_prompts(self, request: catalog.ListPrompts, _caller: Caller) -> catalog.Prompts:
        if request.project is None:
            items = await self._store.read(prompts.list_all)
            return catalog.Prompts(items=await self._seen(request.bearer, items))
        project = request.project
        there = await self._store.read(lambda session: session.get(ProjectRow, project) is not None)
        if not there and (await self._asker.decide(request.bearer, SEE_PROJECT, project, project)).allowed:
            raise NotFound(f"no project {project}")
        scope = await self._scope(request.bearer, project)
        items = await self._store.read(lambda session: prompts.counting(session, project))
        return catalog.Prompts(items=tuple(item for item in items if _shows(scope, item.spec.name)))

    @handles(catalog.get_prompt)
    async def get_prompt(self, request: catalog.GetPrompt, _caller: Caller) -> catalog.Prompt:
        return await self._find(request.bearer, VIEW, _Attempt(request.name))

    @handles(catalog.edit_prompt)
    async def edit_prompt(self, request: catalog.EditPrompt, _caller: Caller) -> catalog.Prompt:
        spec, attempt = request.spec, _Attempt(request.spec.name)
        async with self._audited(catalog.edit_prompt.name, attempt):
            before = (await self._find(request.bearer, EDIT, attempt)).spec
            if spec.project != before.project:
                await self._asker.authorize(request.bearer, EDIT, spec.name, spec.project)
            await self._check_server(request.bearer, spec, before)

            def edit(changing: Changing) -> catalog.Prompt:
                prompts.demand_home(changing.session, spec.name, before.project)
                return prompts.edit(changing, spec, request.revision)

            return await self._feed.write(edit)

    @handles(catalog.delete_prompt)
    async def delete_prompt(self, request: catalog.DeletePrompt, _caller: Caller) -> Done:
        attempt = _Attempt(request.name)
        async with self._audited(catalog.delete_prompt.name, attempt):
            home = (await self._find(request.bearer, DELETE, attempt)).spec.project

            def remove(changing: Changing) -> None:
                prompts.demand_home(changing.session, request.name, home)
                prompts.remove(changing, request.name)

            await self._feed.write(remove)
        return Done()

    @handles(catalog.prompt_index)
    async def prompt_index(self, request: catalog.GetPromptIndex, _caller: Caller) -> catalog.PromptIndex:
        await self._asker.demand_access(request.bearer, request.project)
        scope = await self._scope(request.bearer, request.project)

        def read(session: Session) -> tuple[catalog.IndexedPrompt, ...]:
            _demand_there(session, request.project)
            return prompts.index(session, request.project)

        items = await self._store.read(read)
        return catalog.PromptIndex(items=tuple(item for item in items if _shows(scope, item.name)))

    @handles(catalog.read_prompts)
    async def read_prompts(self, request: catalog.ReadPrompts, _caller: Caller) -> catalog.PromptTexts:
        await self._asker.demand_access(request.bearer, request.project)
        scope = await self._scope(request.bearer, request.project)
        names = [name for name in request.names if _shows(scope, name)]

        def read(session: Session) -> tuple[catalog.PromptText, ...]:
            _demand_there(session, request.project)
            return prompts.texts(session, request.project, names)

        return catalog.PromptTexts(items=await self._store.read(read))

    async def _find(self, bearer: str, need: Need, attempt: _Attempt) -> catalog.Prompt:
        """Return a prompt on which the bearer has the right.

        Raises `Forbidden`, in the same words for one that may not be seen and one that is not there; `NotFound` where
        it could be seen.
        """
        found = await self._store.read(lambda session: prompts.get_or_none(session, attempt.name))
        attempt.project = None if found is None else found.spec.project
        attempt.verdict = await self._asker.decide(bearer, need, attempt.name, attempt.project)
        if not attempt.verdict.allowed:
            await self._demand_seen(bearer, attempt.name, attempt.project)
        if found is None:
            raise NotFound(f"no prompt {attempt.name}")
        if not attempt.verdict.allowed:
            raise Forbidden(attempt.verdict.reason)
        return found

    async def authorize(self, bearer: str, need: Need, name: str, project: str | None) -> rbac.Verdict:
        """Return the verdict that grants a right on a prompt of a project. Raises `Forbidden`, as `_find` does."""
        verdict = await self._asker.decide(bearer, need, name, project)
        if not verdict.allowed and need.verb != "create":
            await self._demand_seen(bearer, name, project)
        if not verdict.allowed:
            raise Forbidden(verdict.reason)
        return verdict

    async def _demand_seen(self, bearer: str, name: str, project: str | None) -> None:
        if not (await self._asker.decide(bearer, VIEW, name, project)).allowed:
            raise Forbidden(f"there is no prompt {name}, or none that you may see")

    async def _seen(self, bearer: str, items: tuple[catalog.Prompt, ...]) -> tuple[catalog.Prompt, ...]:
        """Return those of the prompts that the bearer may see, each by the rights in its own project."""
        if (await self._asker.decide(bearer, VIEW, None, None)).allowed:  # held everywhere
            return items
        projects = sorted({item.spec.project for item in items if item.spec.project is not None})
        scopes = dict(
            zip(projects, await asyncio.gather(*(self._scope(bearer, project) for project in projects)), strict=True)
        )
        shared = [item.spec.name for item in items if item.spec.project is None]
        verdicts = await asyncio.gather(*(self._asker.decide(bearer, VIEW, name, None) for name in shared))
        seen = {name for name, verdict in zip(shared, verdicts, strict=True) if verdict.allowed}

        def shows(spec: catalog.PromptSpec) -> bool:
            return spec.name in seen if spec.project is None else _shows(scopes[spec.project], spec.name)

        return tuple(item for item in items if shows(item.spec))

    async def _scope(self, bearer: str, project: str) -> rbac.Scope:
        return (await self._asker.bus.call(rbac.scope, rbac.GetScope(bearer=bearer, project=project))).scope

    async def _check_server(self, bearer: str, spec: catalog.PromptSpec, before: catalog.PromptSpec | None) -> None:
        """Demand the view of a server whose resource a prompt is to give to all who may read the prompt."""
        if spec.resource is None or (before is not None and prompts.source(before) == prompts.source(spec)):
            return
        await self._asker.authorize(bearer, SEE_SERVER, spec.resource.server, spec.project)

    @asynccontextmanager
    async def _audited(self, kind: str, attempt: _Attempt) -> AsyncIterator[None]:
        """Leave the event of a change, acknowledged before it is answered; one that is refused leaves one too."""
        event: dict[str, object] = {"kind": kind, "name": attempt.name, "trace": traceparent()}
        try:
            yield
        except BusError as error:
            outcome = "deny" if error.http_status in (401, 403) else "error"
            with suppress(BusError):
                await self._asker.audit.append(event | _fields(attempt) | {"outcome": outcome, "detail": str(error)})
            raise
        await self._asker.audit.append(event | _fields(attempt) | {"outcome": "allow"})


def _demand_there(session: Session, project: str) -> None:
    """Raise `Forbidden` for a project that is not there, as for one that may not be entered."""
    if session.get(ProjectRow, project) is None:
        raise runtime.no_access(project)


def _fields(attempt: _Attempt) -> dict[str, object]:
    rule = attempt.verdict.reason if attempt.verdict is not None else None
    return event_of(attempt.verdict) | {"project": attempt.project, "rule": rule}


def _shows(scope: rbac.Scope, name: str) -> bool:
    return scope.allows("view", ("prompts", name))
