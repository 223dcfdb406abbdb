"""Each step of the tables only adds: what an older program does goes on working while a newer one has migrated."""

import threading
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from mcpctl.actors.database.stores import actors
from mcpctl.actors.storage import Store, _scripts, database_url
from tests.postgres import new_database


def steps():
    """Return (actor, revision before, revision after) of every migration there is."""
    for actor in actors():
        with _scripts(actor) as scripts:
            for script in scripts.walk_revisions():
                if script.down_revision is not None:
                    yield actor, script.down_revision, script.revision


STEPS = sorted(steps())


@pytest.fixture(scope="module")
def postgres():
    return new_database()


@pytest.fixture(params=["sqlite", "postgres"])
def store_of(request, tmp_path):
    """Make an actor's store, empty; on PostgreSQL the database is one, and a schema is dropped after its test."""
    made = []

    def make(actor):
        url = request.getfixturevalue("postgres") if request.param == "postgres" else None
        (tmp_path / "sql").mkdir()
        made.append(Store(actor, database_url(actor, url, tmp_path)))
        return made[0]

    yield make
    for store in made:
        if request.param == "postgres":
            with store.engine.begin() as connection:
                connection.execute(sa.text(f"DROP SCHEMA IF EXISTS {store.actor} CASCADE"))
        for pool in (store._writers, store._readers):
            pool.shutdown()
        store.engine.dispose()


def tables_of(store):
    """Read the tables as they are now, in the order of their foreign keys."""
    found = sa.MetaData()
    found.reflect(bind=store.engine, schema=store._schema)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def value(column, number):
    """Return a value that fits into a column, and is another for each number."""
    if column.foreign_keys:
        return value(next(iter(column.foreign_keys)).column, number)
    kinds = {
        sa.JSON: [],
        sa.Boolean: False,
        sa.DateTime: datetime.now(UTC),
        sa.Integer: number,
        sa.LargeBinary: b"sealed",
        sa.Text: f"[{number}]",
        sa.String: f"row-{number}",
    }
    return next(found for kind, found in kinds.items() if isinstance(column.type, kind))


def write_rows(connection, tables, number):
    """Write as a program does that knows these tables: a row in each, then every column of it again."""
    for table in tables:
        row = {column.name: value(column, number) for column in table.columns}
        connection.execute(sa.insert(table).values(row))
        key = [column == row[column.name] for column in table.primary_key]
        changed = connection.execute(sa.update(table).where(*key).values(row))
        assert changed.rowcount == 1
        assert connection.execute(sa.select(table).where(*key)).one()


def keys(connection, table):
    return {tuple(row) for row in connection.execute(sa.select(*table.primary_key))}


@contextmanager
def writing(store, tables, first):
    """Write one row after the other in a thread, as a replica of the older program does; yields their number."""
    stop, written, faults = threading.Event(), [], []

    def work():
        number = first
        try:
            while not stop.is_set():
                store._in_session(lambda session, number=number: write_rows(session, tables, number), commit=True)
                written.append(number)
                number += 1
        except Exception as fault:  # noqa: BLE001 - any
            faults.append(fault)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield written
    finally:
        stop.set()
        thread.join()
    assert not faults, faults[0]


def another_after(written, seconds=10):
    """Return when one more row has been written than there are now."""
    had, tick = len(written), threading.Event()
    for _ in range(seconds * 100):
        if len(written) > had or tick.wait(0.01):
            return
    raise AssertionError("the older program does not get on")


@pytest.mark.parametrize(("actor", "before", "after"), STEPS, ids=[after for _, _, after in STEPS])
def test_an_older_program_writes_on_while_the_tables_are_migrated_and_nothing_is_lost(store_of, actor, before, after):
    store = store_of(actor)
    assert not store._is_current()
    store._migrate(before)
    assert not store._is_current()
    old = tables_of(store)
    with closing(store.engine.connect()) as connection:
        write_rows(connection, old, 1)
        connection.commit()

    if store._schema is None:  # SQLite has one program alone
        store._migrate(after)
        expected = 1
    else:
        with writing(store, old, 2) as written:
            another_after(written)
            store._again(lambda: store._migrate(after))
            another_after(written)
        expected = 1 + len(written)

    assert store.standing()[0] == after
    with closing(store.engine.connect()) as connection:
        for table in old:
            # The program's own rows may be there as well.
            assert len(keys(connection, table)) >= expected, table.name
        write_rows(connection, old, 100_000)
    store._migrate()
    assert (store.standing()[2], store._is_current()) == ("current", True)
