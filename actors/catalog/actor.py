"""The Catalog's handlers; those of prompts are a part of their own."""

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress

from sqlmodel import Session

from mcpctl.actors.catalog import applying, projects, prompts, runtime, sealed_secrets, servers
from mcpctl.actors.catalog.backup import Backups
from mcpctl.actors.catalog.pin_calls import PinCalls
from mcpctl.actors.catalog.prompt_calls import PromptCalls
from mcpctl.actors.catalog.sealing import Keyring
from mcpctl.actors.changes import ChangeFeed
from mcpctl.actors.leases import Leases
from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.storage import Store, database_url
from mcpctl.bus.actor import Actor, Caller, handles
from mcpctl.bus.connection import Bus, Publisher
from mcpctl.bus.context import traceparent
from mcpctl.bus.contract import Applied, Changes, Done, GetReceipt, Need, PullChanges, Receipt
from mcpctl.bus.contracts import catalog, rbac, sealing, token
from mcpctl.bus.errors import BusError, Forbidden, NotFound
from mcpctl.bus.identity import site_of

SEE_SERVER = Need("view", "servers")
SEE_SECRET = Need("view", "secrets")
SEE_PROMPT = Need("view", "prompts")
EDIT_PROJECT = Need("edit", "projects")


class Catalog(Actor):
    """Keeps projects, upstream servers, prompts and sealed secrets; alone it can unseal."""

    role = "catalog"
    audited = frozenset(
        f"{verb}_{noun}" for verb in ("create", "edit", "delete") for noun in ("server", "project", "secret")
    ) | {"create_prompt", "approve_tools", "reseal", "freeze_project", "unfreeze_project", "backup", "restore"}
    urgent = frozenset({"freeze_project"})

    def __init__(self, bus: Bus, settings: ActorSettings) -> None:
        super().__init__(bus)
        self._settings = settings
        url = settings.database_url.get_secret_value() if settings.database_url else None
        self._store = Store(self.role, database_url(self.role, url, settings.data_dir))
        self._leases = Leases(self.role, url, settings.data_dir)
        self._model = runtime.default_model(settings)
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        """Open the database, the feed and the keyring. Raises `NewerDatabase`, `KeyringRefused`, `Unavailable`."""
        self._opened.push_async_callback(self._store.close)
        await self._store.open_patiently()
        self.service.checks["database"] = self._store.health
        self.needs["database"] = self._store.reachable
        sealed = await self._store.read(sealed_secrets.any_sealed)
        path = self._settings.data_dir / "keys" / "sealing.json"
        self._keyring = Keyring.open(path, create=not sealed)
        publisher = await Publisher.connect(self._settings.nats_url, self.identity, self.bus.closed.set)
        self._opened.push_async_callback(publisher.close)
        self._opened.push_async_callback(self._leases.close)
        self._feed = ChangeFeed(self._store, publisher, catalog.feed, self._leases)
        await self._feed.open()
        self._prompts = PromptCalls(self, self._store, self._feed)
        pin_calls = PinCalls(self, self._store, self._feed)
        self.parts = (self._prompts, pin_calls, Backups(self._store, self._feed, self._keyring))

    async def close(self) -> None:
        await self._opened.aclose()

    @handles(catalog.create_server)
    async def create_server(self, request: catalog.CreateServer, _caller: Caller) -> catalog.Server:
        spec = request.spec
        await self._check_secrets(request.bearer, spec)
        for project in request.projects:
            await self.authorize(request.bearer, EDIT_PROJECT, project, project)
        if request.projects:
            await self.authorize(request.bearer, SEE_SERVER, spec.name, None)
        return await self._feed.write(lambda changing: servers.create(changing, spec, request.projects))

    @handles(catalog.list_servers)
    async def list_servers(self, _request: catalog.ListServers, _caller: Caller) -> catalog.Servers:
        return catalog.Servers(items=await self._store.read(servers.list_all))

    @handles(catalog.get_server)
    async def get_server(self, request: catalog.GetServer, _caller: Caller) -> catalog.Server:
        return await self._store.read(lambda session: servers.get(session, request.name))

    @handles(catalog.edit_server)
    async def edit_server(self, request: catalog.EditServer, _caller: Caller) -> catalog.Server:
        await self._check_secrets(request.bearer, request.spec)
        return await self._feed.write(lambda changing: servers.edit(changing, request.spec, request.revision))

    @handles(catalog.delete_server)
    async def delete_server(self, request: catalog.DeleteServer, _caller: Caller) -> Done:
        await self._feed.write(lambda changing: servers.remove(changing, request.name))
        return Done()

    @handles(catalog.create_project)
    async def create_project(self, request: catalog.CreateProject, _caller: Caller) -> catalog.Project:
        await self._check_servers(request.bearer, request.spec.servers)
        await self._check_model(request.bearer, request.spec, None)
        return await self._feed.write(lambda changing: projects.create(changing, request.spec))

    @handles(catalog.list_projects)
    async def list_projects(self, _request: catalog.ListProjects, _caller: Caller) -> catalog.Projects:
        return catalog.Projects(items=await self._store.read(projects.list_all))

    @handles(catalog.get_project)
    async def get_project(self, request: catalog.GetProject, _caller: Caller) -> catalog.Project:
        return await self._store.read(lambda session: projects.get(session, request.name))

    @handles(catalog.edit_project)
    async def edit_project(self, request: catalog.EditProject, _caller: Caller) -> catalog.Project:
        spec = request.spec
        held = await self._store.read(lambda session: projects.get(session, spec.name).spec)
        added = frozenset(spec.servers).difference(held.servers)
        await self._check_servers(request.bearer, sorted(added))
        await self._check_model(request.bearer, spec, held)
        return await self._feed.write(lambda changing: projects.edit(changing, spec, request.revision, added))

    @handles(catalog.delete_project)
    async def delete_project(self, request: catalog.DeleteProject, _caller: Caller) -> Done:
        await self._store.read(lambda session: projects.find(session, request.name))
        await self._revoke_tokens(request.bearer, request.name)
        await self._feed.write(lambda changing: projects.remove(changing, request.name))
        return Done()

    @handles(catalog.freeze_project)
    async def freeze_project(self, request: catalog.FreezeProject, _caller: Caller) -> catalog.Project:
        return await self._feed.write(lambda changing: projects.freeze(changing, request.name, frozen=True))

    @handles(catalog.unfreeze_project)
    async def unfreeze_project(self, request: catalog.UnfreezeProject, _caller: Caller) -> catalog.Project:
        return await self._feed.write(lambda changing: projects.freeze(changing, request.name, frozen=False))

    @handles(catalog.create_secret)
    async def create_secret(self, request: catalog.CreateSecret, _caller: Caller) -> catalog.Secret:
        if request.replace:
            await self.authorize(request.bearer, Need("edit", "secrets"), request.name, None)
        sealed = self._keyring.seal(request.name, request.value)
        labels = request.labels or None
        return await self._feed.write(
            lambda changing: sealed_secrets.put(changing, request.name, sealed, replace=request.replace, labels=labels)
        )

    @handles(catalog.get_secret)
    async def get_secret(self, request: catalog.GetSecret, _caller: Caller) -> catalog.Secret:
        return await self._store.read(lambda session: sealed_secrets.get(session, request.name))

    @handles(catalog.list_secrets)
    async def list_secrets(self, _request: catalog.ListSecrets, _caller: Caller) -> catalog.Secrets:
        return catalog.Secrets(items=await self._store.read(sealed_secrets.list_all))

    @handles(catalog.delete_secret)
    async def delete_secret(self, request: catalog.DeleteSecret, _caller: Caller) -> Done:
        await self._feed.write(lambda changing: sealed_secrets.remove(changing, request.name))
        return Done()

    @handles(sealing.reseal)
    async def reseal(self, _request: sealing.Reseal, _caller: Caller) -> sealing.Resealed:
        return await self._feed.write(lambda changing: sealed_secrets.reseal(changing, self._keyring))

    @handles(catalog.apply)
    async def apply(self, request: catalog.Apply, _caller: Caller) -> Applied:
        # First of all, since what is wrong with a document depends on what there is.
        asker = (await self.bus.call(token.resolve, token.ResolveBearer(bearer=request.bearer))).principal
        try:
            return await self._apply(request)
        except BusError as error:
            outcome = "deny" if error.http_status in (401, 403) else "error"
            event = {"kind": catalog.apply.name, "outcome": outcome, "detail": str(error), "trace": traceparent()}
            with suppress(BusError):
                await self.audit.append(asker.audit_fields | event)
            raise

    async def _apply(self, request: catalog.Apply) -> Applied:
        await self._demand_sight(request)
        plan = await self._store.read(lambda session: applying.plan(session, request, self._keyring))
        verdicts = [await self._authorize(request.bearer, *need) for need in plan.needs()]
        if request.dry_run or plan.removed_projects:
            with suppress(applying.TakenBack):
                await self._feed.write(lambda changing: applying.rehearse(changing, request, plan, self._keyring))
        if request.dry_run:
            return Applied(items=plan.outcomes)
        for project in plan.removed_projects:
            await self._revoke_tokens(request.bearer, project)
        await self._feed.write(lambda changing: applying.carry_out(changing, request, plan, self._keyring))
        for outcome, verdict in zip(plan.outcomes, verdicts, strict=False):
            if outcome.action != "unchanged":
                kind = f"catalog.{applying.RIGHT[outcome.action]}_{outcome.ref.kind}"
                await self.note(kind, verdict, name=outcome.ref.name, project=plan.project_of(outcome.ref))
        return Applied(items=plan.outcomes)

    @handles(catalog.token_terms)
    async def token_terms(self, request: catalog.GetTokenTerms, _caller: Caller) -> catalog.TokenTerms:
        resolved = await self.bus.call(token.resolve, token.ResolveBearer(bearer=request.bearer))
        if resolved.principal.project not in (None, request.project):
            raise NotFound(f"no project {request.project}")
        found = await self._store.read(lambda session: projects.get(session, request.project))
        return catalog.TokenTerms(max_ttl_seconds=found.spec.max_token_ttl_seconds)

    @handles(catalog.view)
    async def view(self, request: catalog.GetView, _caller: Caller) -> catalog.View:
        await self.demand_access(request.bearer, request.project)
        return await self._store.read(lambda session: runtime.view(session, request.project, self._model))

    @handles(catalog.unseal)
    async def unseal(self, request: catalog.Unseal, caller: Caller) -> catalog.Connection:
        await self.demand_access(request.bearer, request.project)
        site = site_of(caller.name)

        def connection(session: Session) -> catalog.Connection:
            return runtime.connection(session, request.project, request.server, self._keyring, site)

        return await self._store.read(connection)

    @handles(catalog.unseal_model)
    async def unseal_model(self, request: catalog.UnsealModel, _caller: Caller) -> catalog.ModelConnection:
        await self.demand_access(request.bearer, request.project)

        def connection(session: Session) -> catalog.ModelConnection:
            return runtime.model_connection(session, request.project, self._model, self._keyring)

        return await self._store.read(connection)

    @handles(catalog.feed.pull)
    async def changes(self, request: PullChanges, caller: Caller) -> Changes:
        return await self._feed.pull(request, caller.name)

    @handles(catalog.feed.receipt)
    async def receipt(self, request: GetReceipt, _caller: Caller) -> Receipt:
        await self.bus.call(token.resolve, token.ResolveBearer(bearer=request.bearer))
        return await self._feed.receipt(request)

    async def _demand_sight(self, request: catalog.Apply) -> None:
        """Raise `Forbidden` for what the bearer may not even see: in the same words whether it is there or not."""
        for resource, named in applying.named(request).items():
            need = Need("view", resource)
            if not (await self.decide(request.bearer, need, None, None)).allowed:  # most may see all of them
                for name, project in named:
                    await self.authorize(request.bearer, need, name, project)
        await self._demand_sight_of_prompts(request)

    async def _demand_sight_of_prompts(self, request: catalog.Apply) -> None:
        """Raise `Forbidden` as `_demand_sight` does, for prompts where they are now."""
        removed = [ref.name for ref in request.remove if ref.kind == "prompt"]
        if not (removed or request.prompts) or (await self.decide(request.bearer, SEE_PROMPT, None, None)).allowed:
            return
        homes = await self._store.read(prompts.homes)
        for name in removed:
            await self._authorize(request.bearer, SEE_PROMPT, name, homes.get(name))
        for spec in request.prompts:
            home = homes.get(spec.name, spec.project)
            if home != spec.project and not (await self.decide(request.bearer, SEE_PROMPT, spec.name, home)).allowed:
                # Who could not take the name anyhow is not told that it is taken.
                await self._authorize(request.bearer, Need("create", "prompts"), spec.name, spec.project)

    async def _authorize(self, bearer: str, need: Need, name: str, project: str | None) -> rbac.Verdict:
        """Return the verdict that grants what a document takes. Raises `Forbidden`."""
        asked = self._prompts if need.resource == "prompts" else self
        return await asked.authorize(bearer, need, name, project)

    async def _revoke_tokens(self, bearer: str, project: str) -> None:
        """Revoke the tokens of a project that is about to go: one of the same name must not bring them back."""
        await self.bus.call(token.revoke_project, token.RevokeProjectTokens(bearer=bearer, project=project))

    async def _check_secrets(self, bearer: str, spec: catalog.ServerSpec) -> None:
        """Demand the view of each secret referred to: a server sends it wherever its url or command says."""
        for name in servers.references(spec):
            await self.authorize(bearer, SEE_SECRET, name, None)

    async def _check_model(self, bearer: str, spec: catalog.ProjectSpec, before: catalog.ProjectSpec | None) -> None:
        """Demand the view of the secret that a new or changed model is to be sent."""
        model = projects.model_of(spec)
        if model is None or model.secret_ref is None or (before is not None and projects.model_of(before) == model):
            return
        await self.authorize(bearer, SEE_SECRET, model.secret_ref, None)

    async def _check_servers(self, bearer: str, names: Iterable[str]) -> None:
        """Demand the view of each server to be added, by rights that hold outside the project too.

        Otherwise whoever rules one project could take any server, with its credentials, into it.
        """
        wanted = sorted(set(names))
        if wanted and not (await self.decide(bearer, SEE_SERVER, None, None)).allowed:  # most may see all of them
            await asyncio.gather(*(self.authorize(bearer, SEE_SERVER, name, None) for name in wanted))

    async def demand_access(self, bearer: str, project: str) -> None:
        """Raise `Forbidden` where the bearer may not enter the project, `Unauthenticated` for a bad bearer."""
        resolved = await self.bus.call(token.resolve, token.ResolveBearer(bearer=bearer))
        if resolved.principal.kind == "McpToken":
            if resolved.principal.project != project:
                raise runtime.no_access(project)
            return
        try:
            answer = await self.bus.call(rbac.scope, rbac.GetScope(bearer=bearer, project=project))
        except Forbidden:
            raise runtime.no_access(project) from None
        if not answer.scope.allows("view", ("projects", project)):
            raise runtime.no_access(project)
