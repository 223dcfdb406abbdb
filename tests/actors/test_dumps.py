"""Rows of an actor as one text, and back: on the Catalog's real tables."""

import base64
import json
import os
import zlib

import pytest
from sqlmodel import select

from mcpctl.actors import changes, dumps
from mcpctl.actors.catalog.rows import TABLES, MemberRow, ProjectRow, SecretRow, ServerRow, UseRow
from mcpctl.actors.changes import ChangeCounter, ChangeRow, Changing
from mcpctl.actors.storage import Store, database_url
from mcpctl.bus.errors import BadRequest, Conflict, TooLarge

SEALED = bytes(range(256))


def fill(session):
    session.add(ProjectRow(name="web", description="café ☕", labels={"team": "a"}, max_token_ttl=None, created_ms=1))
    session.add(ServerRow(name="git", spec="{}", revision=3, stamp="s1", created_ms=2**40))
    session.add(SecretRow(name="key", key_id="k", sealed=SEALED, stamp="s2", created_ms=1, updated_ms=2))
    session.flush()
    session.add(MemberRow(project="web", server="git", position=0))
    session.add(UseRow(server="git", secret="key"))


async def opened(folder):
    store = Store("catalog", database_url("catalog", None, folder))
    await store.open()
    await store.write(lambda session: session.add(ChangeCounter(id=1, epoch="e1", seq=0)))
    return store


@pytest.fixture
async def store(tmp_path):
    store = await opened(tmp_path / "first")
    await store.write(fill)
    yield store
    await store.close()


@pytest.fixture
async def fresh(tmp_path):
    store = await opened(tmp_path / "second")
    yield store
    await store.close()


async def put_back(store, dump):
    rows = dumps.read(store, dump, TABLES)
    await store.write(lambda session: dumps.restore(Changing(session), TABLES, rows))


async def position(store):
    return await store.read(changes.position)


def rows_of(dump):
    return json.loads(zlib.decompress(base64.b64decode(dump.rows)))


def packed(dump, rows):
    return dump.model_copy(update={"rows": base64.b64encode(zlib.compress(json.dumps(rows).encode())).decode()})


async def test_a_fresh_database_takes_every_row_as_it_was(store, fresh):
    dump = await dumps.dump(store, TABLES)

    await put_back(fresh, dump)

    assert rows_of(await dumps.dump(fresh, TABLES)) == rows_of(dump)
    secret = await fresh.read(lambda session: session.get(SecretRow, "key"))
    project = await fresh.read(lambda session: session.get(ProjectRow, "web"))
    assert (secret.sealed, secret.created_ms) == (SEALED, 1)
    assert (project.description, project.labels, project.max_token_ttl) == ("café ☕", {"team": "a"}, None)


async def test_rows_that_came_since_are_gone_after_a_restore(store):
    dump = await dumps.dump(store, TABLES)
    await store.write(lambda session: session.add(ProjectRow(name="later", description="", created_ms=1)))

    await put_back(store, dump)

    assert await store.read(lambda session: session.exec(select(ProjectRow.name)).all()) == ["web"]


async def test_what_is_not_to_be_kept_is_left_out(store):
    dump = await dumps.dump(store, TABLES, keep=lambda table, row: table != "secrets" and row.get("secret") != "key")

    rows = rows_of(dump)

    assert (rows["secrets"], rows["server_secrets"]) == ([], [])
    assert len(rows["servers"]) == 1


async def test_a_restore_goes_on_numbering_under_a_new_epoch_and_forgets_no_change(store):
    await store.write(lambda session: Changing(session).record("project", "web", "removed"))
    dump = await dumps.dump(store, TABLES)

    await put_back(store, dump)

    epoch, seq = await position(store)
    assert epoch != "e1"
    assert seq == 2
    kept = await store.read(lambda session: [(row.seq, row.action) for row in session.exec(select(ChangeRow))])
    assert kept == [(1, "removed"), (2, "changed")]


async def test_a_dump_that_fits_into_no_message_says_what_to_do_instead(store):
    sealed = os.urandom(dumps.LARGEST)
    big = SecretRow(name="big", key_id="k", sealed=sealed, stamp="s", created_ms=1, updated_ms=1)
    await store.write(lambda session: session.add(big))

    with pytest.raises(TooLarge, match=r"the rows of the catalog actor take .* back the database itself up"):
        await dumps.dump(store, TABLES)


def _twice(rows):
    rows["projects"] *= 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows.update(users=[]), "has rows of 'users', which is none of its tables"),
        (lambda rows: rows.pop("projects"), "has no rows of projects"),
        (lambda rows: rows.update(projects=["web"]), "has no rows of projects"),
        (lambda rows: rows["projects"][0].update(owner="ann"), "a row of projects with the unknown 'owner'"),
        (lambda rows: rows["projects"][0].pop("labels"), "a row of projects without labels"),
        (lambda rows: rows["projects"][0].update(description=7), "a row of projects without description"),
        (lambda rows: rows["servers"][0].update(revision=True), "a row of servers without revision"),
        (lambda rows: rows["servers"][0].update(revision=2**63), "a row of servers without revision"),
        (lambda rows: rows["secrets"][0].update(sealed="no Base64"), "a row of secrets without sealed"),
        (_twice, "one is there twice, or refers to one that is missing"),
        (lambda rows: rows.update(servers=[]), "one is there twice, or refers to one that is missing"),
    ],
)
async def test_rows_that_do_not_fit_are_refused_and_change_nothing(store, change, said):
    dump = await dumps.dump(store, TABLES)
    before = await position(store)
    rows = rows_of(dump)
    change(rows)

    with pytest.raises(BadRequest, match=said):
        await put_back(store, packed(dump, rows))

    assert rows_of(await dumps.dump(store, TABLES)) == rows_of(dump)
    assert await position(store) == before


async def test_what_is_cut_short_or_changed_on_the_way_is_refused(store):
    dump = await dumps.dump(store, TABLES)

    for text in (
        "",
        "!",
        dump.rows[:-8],
        base64.b64encode(b"{}").decode(),
        base64.b64encode(zlib.compress(b"[")).decode(),
    ):
        with pytest.raises(BadRequest, match="damaged"):
            dumps.read(store, dump.model_copy(update={"rows": text}), TABLES)


@pytest.mark.parametrize("revision", ["catalog_0001", "catalog_9999", ""])
async def test_tables_of_another_revision_are_refused_whether_older_or_newer(store, revision):
    dump = (await dumps.dump(store, TABLES)).model_copy(update={"revision": revision})

    with pytest.raises(Conflict, match="restore it with the version of mcpctl that wrote it, then update"):
        dumps.read(store, dump, TABLES)


async def test_rows_of_another_actor_are_refused(store):
    dump = (await dumps.dump(store, TABLES)).model_copy(update={"actor": "rbac"})

    with pytest.raises(BadRequest, match="rows of the rbac actor, not of catalog"):
        dumps.read(store, dump, TABLES)


async def test_an_empty_dump_empties_the_tables(store, fresh):
    empty = await dumps.dump(fresh, TABLES)

    await put_back(store, empty)

    assert rows_of(await dumps.dump(store, TABLES)) == {model.__tablename__: [] for model in TABLES}
