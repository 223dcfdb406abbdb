"""An actor's store on PostgreSQL: what it waits for, what it refuses, and that others do not get in its way."""

import asyncio
import os
import sys
import threading

import pytest
import sqlalchemy as sa

from mcpctl.actors.database.stores import actors
from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.storage import DatabaseRefused, NewerDatabase, Store, database_url
from mcpctl.bus.errors import Unavailable
from tests.postgres import away, new_database, new_user


@pytest.fixture(scope="module")
def url():
    return new_database()


@pytest.fixture
async def open_store():
    """Open stores; `open_store(None, url)` only makes one."""
    opened = []

    async def opening(url, actor="token", *, open_it=True):
        store = Store(actor, database_url(actor, url))
        opened.append(store)
        if open_it:
            await store.open()
        return store

    yield opening
    for store in opened:
        await store.close()


def counter(session):
    return session.execute(sa.text("SELECT count(*) FROM token.change")).scalar_one()


async def test_transactions_that_wait_for_each_other_are_done_again_until_both_are_done(open_store, url):
    first, second = await open_store(url), await open_store(url)
    insert = (
        "INSERT INTO token.groups (name, labels, description, groups, created_at) VALUES ('{}', '{{}}', '', '[]', 0)"
    )
    for name in ("left", "right"):
        await first.write(lambda session, name=name: session.execute(sa.text(insert.format(name))))
    both = threading.Barrier(2)
    tries = []

    def note(*names):
        def work(session):
            tries.append(names)
            for name in names:
                session.execute(
                    sa.text("UPDATE token.groups SET created_at = created_at + 1 WHERE name = :n"), {"n": name}
                )
                if len(tries) <= 2 and name == names[0]:
                    both.wait(10)  # each has its first row now, and wants the other's

        return work

    await asyncio.gather(first.write(note("left", "right")), second.write(note("right", "left")))

    counted = await first.read(
        lambda session: session.execute(sa.text("SELECT created_at FROM token.groups WHERE name <> 'admins'")).all()
    )
    assert len(tries) == 3
    assert counted == [(2,), (2,)]


async def test_a_read_sees_one_state_and_changes_nothing(open_store, url):
    store = await open_store(url)
    change = "INSERT INTO token.change (seq, kind, key, action, at) VALUES ({}, 'token', '-', 'created', now())"
    await store.write(lambda session: session.execute(sa.text(change.format(1000))))
    began, written = threading.Event(), threading.Event()

    def read(session):
        before = counter(session)
        began.set()
        assert written.wait(10)
        return before, counter(session)

    reading = asyncio.create_task(store.read(read))
    await asyncio.to_thread(began.wait, 10)
    await store.write(lambda session: session.execute(sa.text(change.format(1001))))
    written.set()

    before, after = await reading
    assert before == after
    assert await store.read(counter) == before + 1


async def test_a_server_that_is_a_standby_now_is_left(open_store, url):
    store = await open_store(url)
    before = store.engine.pool

    with pytest.raises(Unavailable):
        await store.write(
            lambda session: session.execute(sa.text("SET TRANSACTION READ ONLY; DELETE FROM token.change"))
        )

    assert store.engine.pool is not before
    assert await store.read(counter) >= 0


async def test_a_replica_that_is_frozen_in_a_transaction_does_not_hold_up_the_others(open_store, url):
    frozen = await open_store(url + "&options=-c idle_in_transaction_session_timeout=300")
    other = await open_store(url)
    held, done = threading.Event(), threading.Event()

    def freeze(session):
        session.execute(sa.text("LOCK TABLE token.change_counter"))
        held.set()
        done.wait(20)
        session.execute(sa.text("SELECT 1"))

    freezing = asyncio.create_task(frozen.write(freeze))
    await asyncio.to_thread(held.wait, 10)

    async with asyncio.timeout(9):  # it would be refused after 10 s
        await other.write(lambda session: session.execute(sa.text("UPDATE token.change_counter SET seq = seq")))
    done.set()

    with pytest.raises(Unavailable):
        await freezing
    assert await frozen.read(counter) >= 0


@pytest.mark.parametrize("actor", actors())
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_tables_of_a_newer_version_are_refused_by_every_actor(open_store, url, tmp_path, actor, database):
    place = None if database == "sqlite" else new_database() if actor == "token" else url
    store = Store(actor, database_url(actor, place, tmp_path))
    try:
        await store.open()
        newer = sa.text("UPDATE alembic_version SET version_num = 'later_9999'")
        with store.engine.begin() as connection:
            if place:
                connection.execute(sa.text(f"SET LOCAL search_path TO {actor}"))
            connection.execute(newer)

        assert store.standing()[2] == "newer"
        with pytest.raises(NewerDatabase, match=f"{actor} actor is at revision later_9999, which this version"):
            await store.open_patiently()
    finally:
        await store.close()


async def test_a_database_that_dies_is_unavailable_and_then_works_again_with_what_it_had(open_store):
    lasting = new_database(lasting=True)
    store = await open_store(lasting)
    insert = sa.text("INSERT INTO token.change (seq, kind, key, action, at) VALUES (1, 't', '-', 'created', now())")
    await store.write(lambda session: session.execute(insert))
    assert await store.health() == "postgresql"

    with away():
        with pytest.raises(Unavailable, match=r"^the database of the token actor does not answer$"):
            await store.read(counter)
        with pytest.raises(Unavailable, match="log says why"):
            await store.health()
        late = await open_store(lasting, "rbac", open_it=False)
        waiting = asyncio.create_task(late.open_patiently())
        await asyncio.sleep(0)

    async with asyncio.timeout(20):
        await waiting
    assert late.standing()[2] == "current"
    assert await store.read(counter) == 1
    assert await store.health() == "postgresql"


@pytest.mark.parametrize(
    "wrong",
    ["mysql://u:hunter2@db/x", "hunter2", "postgresql://u:hunter2@db:hunter2/x", "postgresql://u:p@h1:1,h2:2/x"],
)
def test_a_url_that_is_none_of_postgresql_is_refused_without_a_word_of_it(wrong):
    with pytest.raises(DatabaseRefused) as refused:
        database_url("token", wrong)
    assert "postgresql://USER@HOST" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(DatabaseRefused, match=r"pip install 'mcpctl-bus\[postgres\]'"):
        Store("token", database_url("token", "postgresql://db/x"))


async def test_no_secret_needs_to_stand_in_the_environment(open_store, monkeypatch, tmp_path):
    place = new_user("guarded", "hunter2")
    (tmp_path / "url").write_text(place.replace("guarded@", "guarded:hunter2@") + "\n")
    (tmp_path / "pgpass").write_text("*:*:*:guarded:hunter2\n")
    (tmp_path / "pgpass").chmod(0o600)

    settings = ActorSettings(database_url_file=tmp_path / "url", data_dir=tmp_path)
    by_url = await open_store(settings.database_url.get_secret_value())
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    by_libpq = await open_store(place, "rbac")
    monkeypatch.delenv("PGPASSFILE")
    (tmp_path / "wrong").write_text("*:*:*:guarded:xyzzy\n")
    (tmp_path / "wrong").chmod(0o600)

    assert by_url.standing()[2] == by_libpq.standing()[2] == "current"
    assert "hunter2" not in repr(settings)
    with pytest.raises(Unavailable, match="password authentication failed") as refused:
        await open_store(f"{place}&passfile={tmp_path / 'wrong'}")
    assert "\n" not in str(refused.value)
    assert "xyzzy" not in str(refused.value)


async def test_the_tls_of_the_url_is_demanded_of_the_server(open_store):
    # Over TCP to something that speaks no TLS: refused before anything is said of a user or a password.
    async def plain(reader, writer):
        await reader.read(8)
        writer.write(b"N")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unavailable, match="server does not support SSL, but SSL was required"):
        await open_store(f"postgresql://u:hunter2@127.0.0.1:{port}/x?sslmode=verify-full&sslrootcert={os.devnull}")
    server.close()
    await server.wait_closed()


async def test_as_many_connections_as_threads_and_no_more(open_store, url):
    store = await open_store(url)

    await asyncio.gather(
        *(
            work(lambda s: s.execute(sa.text("SELECT pg_sleep(0.02)")).all())
            for work in (store.read, store.write)
            for _ in range(20)
        )
    )

    assert store.engine.pool.checkedin() <= 6
    with pytest.raises(sa.exc.ProgrammingError):  # what is wrong in itself is no outage
        await store.read(lambda session: session.execute(sa.text("SELECT nonsense")))
