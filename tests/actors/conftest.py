"""TokenRegistry, RbacEvaluator and Catalog on the real bus, and operators who are admitted as in production."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from sqlmodel import SQLModel, select

from mcpctl.actors.catalog import Catalog
from mcpctl.actors.rbac_evaluator import RbacEvaluator
from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.storage import Store
from mcpctl.actors.storage import database_url as sql_url
from mcpctl.actors.token_registry import TokenRegistry
from mcpctl.actors.token_registry.rows import epoch_ms
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Call, Changed
from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.errors import Unavailable
from mcpctl.bus.identity import ActorIdentity, AdmittedIdentity
from mcpctl.cli.nats_server import NatsServer
from tests.postgres import database_url

SECRET = "the-secret-of-the-first-start"
PASSWORD = "correct horse battery staple"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""Parameters that take no time: what is tested is not argon2."""


@dataclass
class Clock:
    """The time, as the test says."""

    ahead_ms: int = 0

    def __call__(self) -> int:
        return epoch_ms() + self.ahead_ms


@dataclass
class Operator:
    """Somebody at the CLI: a connection, and the bearer that goes into each request."""

    bus: Bus
    bearer: str

    async def ask(self, call: Call[Any, Any], **fields: Any) -> Any:
        return await self.bus.call(call, call.request(**({"bearer": self.bearer} | fields)))

    async def issue(self, project: str, name: str, *bindings: str, **fields: Any) -> token.IssuedToken:
        parsed = tuple(Binding.parse(text) for text in bindings)
        return await self.ask(token.issue, project=project, name=name, bindings=parsed, **fields)

    async def create_project(self, name: str, **fields: Any) -> None:
        await self.ask(catalog.create_project, spec=catalog.ProjectSpec(name=name, **fields))

    async def add_user(self, name: str, *groups: str) -> None:
        await self.ask(token.create_user, name=name, password=PASSWORD, groups=groups)

    async def grant(self, name: str, subject: str, *bindings: str, project: str | None = None) -> None:
        """Define what a subject holds."""
        held = tuple(Binding.parse(text) for text in bindings)
        wanted = rbac.Definition(name=name, project=project, subjects=(subject,), bindings=held)
        await self.ask(rbac.define, definition=wanted)

    async def create_group(self, name: str, **fields: Any) -> token.Group:
        return await self.ask(token.create_group, name=name, **fields)

    def holding(self, bearer: str) -> "Operator":
        """Ask on the same connection, on the authority of another bearer."""
        return Operator(self.bus, bearer)


@dataclass
class ControlPlane:
    """The three actors, and ways to connect."""

    nats: NatsServer
    settings: ActorSettings
    clock: Clock
    registry: TokenRegistry
    evaluator: RbacEvaluator
    catalog: Catalog
    opened: list[Bus] = field(default_factory=list)

    async def connect(self, identity: AdmittedIdentity | ActorIdentity) -> Bus:
        try:
            bus = await Bus.connect(self.nats.url, identity)
        except Unavailable as error:
            if "no answer to the authorization request" not in str(error):
                raise
            bus = await Bus.connect(self.nats.url, identity)  # it was asked of this very process, which was busy
        self.opened.append(bus)
        return bus

    async def actor(self, role: Any) -> Bus:
        return await self.connect(ActorIdentity(role, self.nats.keys))

    async def login(self, user: str, password: str = PASSWORD) -> Operator:
        door = await self.connect(AdmittedIdentity("login"))
        session = await door.call(token.login, token.Login(user=user, password=password))
        return await self.operator(session.bearer)

    async def operator(self, bearer: str) -> Operator:
        return Operator(await self.connect(AdmittedIdentity("operator", bearer)), bearer)

    async def bootstrap(self, user: str = "root") -> Operator:
        """Create the first user, and log him in."""
        door = await self.connect(AdmittedIdentity("login"))
        await door.call(token.bootstrap, token.Bootstrap(secret=SECRET, user=user, password=PASSWORD))
        return await self.login(user)

    async def listen(self) -> asyncio.Queue[Changed]:
        """Return the queue of the registry's changes that are broadcast from now on."""
        bus = await self.actor("router")
        heard: asyncio.Queue[Changed] = asyncio.Queue()
        await bus.listen(token.feed.changed, heard.put)
        await bus.ready()
        return heard

    async def settled(self) -> None:
        """Return when the registry has done what it does beside its answers."""
        await self.registry.bus.tasks.finish(5)

    async def restart_registry(self, hasher: PasswordHasher = CHEAP) -> None:
        await self.registry.stop()
        bus = await Bus.connect(self.nats.url, ActorIdentity("token", self.nats.keys))
        self.registry = TokenRegistry(bus, self.settings, clock=self.clock, hasher=hasher)
        await self.registry.start()

    async def rows(self, *tables: type[SQLModel]) -> list[Any]:
        """Read the registry's tables behind its back."""
        store = self.registry.parts[0]._records.store
        return await store.read(lambda session: [row for table in tables for row in session.exec(select(table))])

    async def resolve(self, bearer: str) -> token.Principal:
        """Ask as the RbacEvaluator does."""
        return (await self.evaluator.bus.call(token.resolve, token.ResolveBearer(bearer=bearer))).principal


@pytest.fixture(scope="session")
def migrated(tmp_path_factory) -> Path:
    """Databases with empty tables. How they come to be is tested where that is the subject."""
    folder = tmp_path_factory.mktemp("migrated")

    async def make(store: Store) -> None:
        await store.open()
        await store.close()

    for actor in ("token", "rbac", "catalog"):
        asyncio.run(make(Store(actor, sql_url(actor, None, folder))))
    return folder


@pytest.fixture
async def plane(nats: NatsServer, tmp_path, migrated) -> AsyncIterator[ControlPlane]:
    shutil.copytree(migrated, tmp_path, dirs_exist_ok=True)
    (tmp_path / "bootstrap").write_text(SECRET + "\n")
    settings = ActorSettings(
        nats_url=nats.url,
        nats_keys=nats.keys,
        data_dir=tmp_path,
        database_url=database_url(),
        bootstrap_file=tmp_path / "bootstrap",
        bus_anonymous_edge=False,
    )
    clock = Clock()
    bus = await Bus.connect(nats.url, ActorIdentity("token", nats.keys))
    registry = TokenRegistry(bus, settings, clock=clock, hasher=CHEAP)
    evaluator = RbacEvaluator(await Bus.connect(nats.url, ActorIdentity("rbac", nats.keys)), settings)
    projects = Catalog(await Bus.connect(nats.url, ActorIdentity("catalog", nats.keys)), settings)
    await registry.start()
    await evaluator.start()
    await projects.start()
    control = ControlPlane(nats, settings, clock, registry, evaluator, projects)
    yield control
    for bus in control.opened:
        await bus.close()
    await projects.stop()
    await evaluator.stop()
    await control.registry.stop()


@pytest.fixture
def events(plane: ControlPlane) -> list[dict[str, object]]:
    """The audit events that the registry appends from now on, still on their way to the stream as ever."""
    written: list[dict[str, object]] = []
    append = plane.registry.audit.append

    def note(event: dict[str, object]) -> "asyncio.Future[None]":
        written.append(event)
        return append(event)

    plane.registry.audit.append = note  # type: ignore[method-assign]
    return written


@pytest.fixture
async def root(plane: ControlPlane) -> Operator:
    """The first user, logged in; there are the projects `web` and `shop`."""
    first = await plane.bootstrap()
    for project in ("web", "shop"):
        await first.create_project(project)
    return first
