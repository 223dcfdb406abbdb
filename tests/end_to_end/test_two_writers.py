"""Two processes of every actor on one PostgreSQL: they write at once, one is killed, the database dies."""

import asyncio
from collections import Counter

import pytest
import pytest_asyncio
from sqlalchemy import create_engine, text

from mcpctl.actors.storage import database_url
from mcpctl.bus.contracts import audit, catalog, rbac, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.errors import BusError, Conflict
from tests.postgres import away, new_database
from tests.system import CONTROL_PLANE, System

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = 12
"""Names that are wanted by several at once, of each kind."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory):
    """A system whose actors run twice. Its database keeps what it acknowledged, whatever happens to it."""
    system = System(tmp_path_factory.mktemp("twice"))
    system.database = new_database(lasting=True)
    await system.start()
    await system.run("twin", "mcpctl.actors", *CONTROL_PLANE)
    for project in ("web", "shop"):
        await system.project(project)
    yield system
    await system.stop()


def read(system, statement):
    """Read the tables beside the actors."""
    engine = create_engine(database_url("", system.database))
    with engine.connect() as connection:
        rows = connection.execute(text(statement)).all()
    engine.dispose()
    return rows


async def wanted_by_all(system, number):
    """Ask for one name of each kind, as several do at once; return what came of it, by kind."""
    name, bearer = f"n{number}", system.bearer
    held = (Binding.parse("role:view,resource:tools"),)
    asked = {
        "token": (token.issue, token.IssueToken(bearer=bearer, project="web", name=name, bindings=held)),
        "project": (catalog.create_project, catalog.CreateProject(bearer=bearer, spec=catalog.ProjectSpec(name=name))),
        "rbac": (
            rbac.define,
            rbac.Define(
                bearer=bearer, definition=rbac.Definition(name=name, subjects=(f"User:{name}",), bindings=held)
            ),
        ),
    }

    async def ask(kind):
        try:
            await system.operator.call(*asked[kind])
        except BusError as error:
            return kind, type(error)
        return kind, None

    return await asyncio.gather(*(ask(kind) for kind in asked for _ in range(3)))


async def patiently(call, request, seconds=60):
    """Ask until it is answered: each refusal but the last is one of a part that is away."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await call(request)
            except (BusError, TimeoutError) as error:
                assert not isinstance(error, BusError) or error.http_status in (503, 504), error
                await asyncio.sleep(0.1)


async def ledger_of(system, kind, names):
    """Return how often each of some names is in the ledger, as soon as all are."""
    async with asyncio.timeout(60):
        while True:
            rows = await asyncio.to_thread(read, system, f"SELECT name FROM audit.ledger WHERE kind = '{kind}'")
            counted = Counter(name for (name,) in rows if name in names)
            if len(counted) == len(names):
                return counted
            await asyncio.sleep(0.1)


async def test_a_name_is_given_once_and_the_numbers_of_the_feeds_have_no_gap(system):
    outcomes = Counter()
    for batch in range(0, NAMES, 4):
        for found in await asyncio.gather(*(wanted_by_all(system, batch + n) for n in range(4))):
            outcomes.update(found)

    assert outcomes == {
        (kind, result): count
        for kind in ("token", "project", "rbac")
        for result, count in ((None, NAMES), (Conflict, 2 * NAMES))
    }
    for actor in ("token", "catalog", "rbac"):
        numbers = [number for (number,) in read(system, f"SELECT seq FROM {actor}.change ORDER BY seq")]
        assert len(numbers) >= NAMES
        assert numbers == list(range(1, len(numbers) + 1))
        assert read(system, f"SELECT seq FROM {actor}.change_counter") == [(len(numbers),)]


async def test_the_sink_that_writes_is_killed_and_every_event_is_in_the_ledger_once(system):
    names = [f"late-{number}" for number in range(20)]

    async def create(name):
        spec = catalog.ProjectSpec(name=name)
        request = catalog.CreateProject(bearer=system.bearer, spec=spec)
        try:
            await patiently(lambda asked: system.operator.call(catalog.create_project, asked), request)
        except Conflict:  # made by the one that was killed before it could say so
            return

    creating = [asyncio.create_task(create(name)) for name in names]
    await asyncio.wait(creating, return_when=asyncio.FIRST_COMPLETED)
    await system.parts["twin"].kill()  # it may be the one or the other whose turn it is: both are killed in the end
    await asyncio.gather(*creating)
    await system.run("twin", "mcpctl.actors", *CONTROL_PLANE)
    await system.parts["actors"].kill()
    await system.run("actors", "mcpctl.actors", *CONTROL_PLANE)

    rows = {name for (name,) in read(system, "SELECT name FROM catalog.projects")}
    assert rows >= set(names)
    counted = await ledger_of(system, "catalog.create_project", set(names))
    verified = await patiently(
        lambda asked: system.operator.call(audit.verify, asked), audit.Verify(bearer=system.bearer)
    )
    assert verified.faults == ()
    ids = [event for (event,) in read(system, "SELECT event_id FROM audit.ledger")]
    assert len(ids) == len(set(ids))
    assert set(counted) == set(names)


async def test_a_database_that_dies_ends_no_actor_and_loses_no_acknowledged_change(system):
    pids = {name: part.process.pid for name, part in system.parts.items()}
    acknowledged, stop = [], asyncio.Event()

    async def work(worker):
        number = 0
        while not stop.is_set():
            name = f"w{worker}-{number}"
            number += 1
            try:
                await system.token("shop", name, "role:view,resource:tools")
            except (BusError, TimeoutError) as error:
                assert not isinstance(error, BusError) or error.http_status in (503, 504), error
            else:
                acknowledged.append(name)

    workers = [asyncio.create_task(work(worker)) for worker in range(4)]
    async with asyncio.timeout(30):
        while len(acknowledged) < 8:
            await asyncio.sleep(0.02)

    def die():
        with away():
            pass

    await asyncio.to_thread(die)
    before = len(acknowledged)
    async with asyncio.timeout(60):
        while len(acknowledged) < before + 8:
            await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*workers)

    assert {name: part.process.pid for name, part in system.parts.items() if part.process.returncode is None} == pids
    there = {name for (name,) in read(system, "SELECT name FROM token.bearers WHERE project = 'shop'")}
    assert there >= set(acknowledged)
    counted = await ledger_of(system, "token.issue", set(acknowledged))
    assert max(counted.values()) <= 1
