"""How agents see the tools of a project, which never changes by surprise; and prefixes that are taken once."""

import sqlite3
from contextlib import closing

import pytest

from mcpctl.actors.catalog import projects
from mcpctl.actors.storage import Store, database_url
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import BadRequest, Conflict
from tests.actors import test_catalog
from tests.actors.test_catalog import http, project, pulled, recorded, start_of_feed
from tests.actors.test_catalog_apply import actions, apply, damaged

root, actor, router, user = test_catalog.root, test_catalog.actor, test_catalog.router, test_catalog.user


async def of(root, name):
    found = (await root.ask(catalog.get_project, name=name)).spec
    return found.naming, found.servers


@pytest.fixture
async def servers(actor, root):
    """Three servers, and the project `plain` with one of them."""
    for name in ("time", "git", "notes"):
        await root.ask(catalog.create_server, spec=http(name))
    await root.ask(catalog.create_project, spec=project("plain", "time"))


@pytest.mark.parametrize(("held", "naming"), [((), "plain"), (("time",), "plain"), (("time", "git"), "prefix")])
async def test_where_it_is_not_given_a_new_project_has_the_naming_that_fits(servers, root, router, held, naming):
    await root.ask(catalog.create_project, spec=project("web", *held))

    bearer = (await root.issue("web", "ci")).bearer
    view = await router.call(catalog.view, catalog.GetView(bearer=bearer, project="web"))
    assert await of(root, "web") == (naming, held)
    assert (view.naming, view.prefixed) == (naming, naming == "prefix")


async def test_a_project_of_one_server_may_begin_with_prefixes_and_grow(servers, root):
    await root.ask(catalog.create_project, spec=project("web", "time", naming="prefix"))
    await root.ask(catalog.edit_project, spec=project("web", "time", "git"))

    assert await of(root, "web") == ("prefix", ("time", "git"))


GROWN = project("plain", "time", "git")


@pytest.mark.parametrize(
    "grow",
    [
        lambda root: root.ask(catalog.create_server, spec=http("new"), projects=("plain",)),
        lambda root: root.ask(catalog.edit_project, spec=GROWN),
        lambda root: root.ask(catalog.edit_project, spec=GROWN.model_copy(update={"naming": "plain"})),
        lambda root: root.ask(catalog.edit_project, spec=project("plain", "git", "notes")),
        lambda root: apply(root, GROWN),
        lambda root: apply(root, GROWN, dry_run=True),
        lambda root: apply(root, http("fresh"), project("plain", "time", "fresh")),
    ],
)
async def test_a_second_server_in_a_plain_project_is_refused_and_how_to_ask_for_it_is_told(servers, root, router, grow):
    before = await start_of_feed(router)

    with pytest.raises(Conflict) as refusal:
        await grow(root)

    said = str(refusal.value)
    assert "renamed to PREFIX__TOOL" in said
    assert "mcpctl edit project plain --naming prefix" in said
    assert sum(name in said for name in ("time", "git", "notes", "new", "fresh")) == 2
    assert await of(root, "plain") == ("plain", ("time",))
    assert recorded(await pulled(router, before)) == []


@pytest.mark.parametrize(
    "grow",
    [
        lambda root, spec: root.ask(catalog.edit_project, spec=spec),
        apply,
    ],
)
async def test_a_second_server_joins_where_the_change_of_names_is_asked_for(servers, root, grow):
    await grow(root, project("plain", "time", "git", naming="prefix"))

    assert await of(root, "plain") == ("prefix", ("time", "git"))


async def test_a_server_takes_the_place_of_another_without_a_change_of_naming(servers, root):
    await root.ask(catalog.edit_project, spec=project("plain", "git"))

    assert await of(root, "plain") == ("plain", ("git",))


@pytest.mark.parametrize(
    "attempt",
    [
        lambda root: root.ask(catalog.create_project, spec=project("web", "time", "git", naming="plain")),
        lambda root: root.ask(catalog.edit_project, spec=project("many", "time", "git", naming="plain")),
        lambda root: root.ask(catalog.edit_project, spec=project("many", "git", "notes", naming="plain")),
        lambda root: apply(root, project("many", "time", "git", naming="plain")),
    ],
)
async def test_several_servers_cannot_have_plain_names(servers, root, attempt):
    await root.ask(catalog.create_project, spec=project("many", "time", "git"))

    with pytest.raises(Conflict, match="cannot have naming plain with several servers, "):
        await attempt(root)

    assert await of(root, "many") == ("prefix", ("time", "git"))


async def test_prefixes_stay_when_only_one_server_is_left_until_their_end_is_asked_for(servers, root):
    await root.ask(catalog.create_project, spec=project("many", "time", "git"))
    await root.ask(catalog.delete_server, name="git")
    left = await of(root, "many")
    await root.ask(catalog.edit_project, spec=project("many", "time", description="new"))
    edited = await of(root, "many")
    await root.ask(catalog.edit_project, spec=project("many", "time", naming="plain"))

    assert left == edited == ("prefix", ("time",))
    assert await of(root, "many") == ("plain", ("time",))


async def test_a_document_without_a_naming_changes_none(servers, root, router):
    await root.ask(catalog.create_project, spec=project("many", "time", naming="prefix"))
    before = await start_of_feed(router)

    done = await apply(root, project("many", "time"), project("plain", "time"))

    assert set(actions(done).values()) == {"unchanged"}
    assert recorded(await pulled(router, before)) == []


async def test_a_change_of_naming_is_undone_by_what_was_there_before(servers, root):
    (done,) = await apply(root, project("plain", "time", naming="prefix"))
    await apply(root, catalog.ProjectSpec.model_validate(done.before))

    assert done.action == "configured"
    assert await of(root, "plain") == ("plain", ("time",))


async def test_a_backup_keeps_the_naming(servers, root):
    await root.ask(catalog.create_project, spec=project("many", "time", naming="prefix"))
    dump = await root.ask(catalog.backup)
    await root.ask(catalog.edit_project, spec=project("many", "time", naming="plain"))

    await root.ask(catalog.restore, dump=dump)

    assert await of(root, "many") == ("prefix", ("time",))


@pytest.mark.parametrize(
    ("naming", "said"),
    [
        ("plain", "project many cannot have naming plain with several servers, time and git"),
        ("other", "project many is none"),
    ],
)
async def test_a_backup_with_a_naming_that_cannot_be_is_refused(servers, root, naming, said):
    await root.ask(catalog.create_project, spec=project("many", "time", "git"))
    dump = await root.ask(catalog.backup)

    def rename(rows):
        next(row for row in rows["projects"] if row["name"] == "many")["naming"] = naming

    with pytest.raises((BadRequest, Conflict), match=said):
        await root.ask(catalog.restore, dump=damaged(dump, rename))

    assert await of(root, "many") == ("prefix", ("time", "git"))


async def test_tables_of_an_older_version_get_the_naming_that_they_had(tmp_path):
    url = database_url("catalog", None, tmp_path)
    store = Store("catalog", url)
    await store.open()
    await store.close()
    with closing(sqlite3.connect(tmp_path / "sql" / "catalog.sqlite")) as database, database:
        for table in ("prompts", "pins"):
            database.execute(f"DROP TABLE {table}")
        for column in ("naming", "gate", "frozen_ms", "pin_tools", "quota"):
            database.execute(f"ALTER TABLE projects DROP COLUMN {column}")
        for name, held in (("none", ()), ("one", ("a",)), ("two", ("a", "b"))):
            database.execute(
                "INSERT INTO projects (name, description, revision, created_ms) VALUES (?, '', 1, 0)", [name]
            )
            for place, server in enumerate(held):
                database.execute("INSERT OR IGNORE INTO servers VALUES (?, '{}', 1, 'x', 0)", [server])
                database.execute("INSERT INTO project_servers VALUES (?, ?, ?)", [name, server, place])
        database.execute("UPDATE alembic_version SET version_num = 'catalog_0002'")

    store = Store("catalog", url)
    await store.open()
    found = {each.spec.name: each.spec.naming for each in await store.read(projects.list_all)}
    await store.close()

    assert found == {"none": "plain", "one": "plain", "two": "prefix"}


# Prefixes

TAKEN = http("forge", prefix="git")


@pytest.mark.parametrize(
    "attempt",
    [
        lambda root: root.ask(catalog.create_server, spec=TAKEN, projects=("many",)),
        lambda root: root.ask(catalog.edit_server, spec=http("time", prefix="git")),
        lambda root: apply(root, http("time", prefix="git")),
        lambda root: apply(root, TAKEN, project("many", "time", "git", "forge")),
        lambda root: apply(root, TAKEN, project("other", "forge", "git")),
    ],
)
async def test_a_prefix_is_taken_once_in_a_project_however_it_is_asked_for(servers, root, attempt):
    await root.ask(catalog.create_project, spec=project("many", "time", "git"))

    with pytest.raises(Conflict, match="would both name their tools git__"):
        await attempt(root)

    assert await of(root, "many") == ("prefix", ("time", "git"))
    assert (await root.ask(catalog.get_server, name="time")).spec.slug == "time"


async def test_a_prefix_is_of_twenty_characters_at_the_most_and_a_longer_name_needs_one(servers, root):
    with pytest.raises(ValueError, match="longer than 20 characters: give the server a prefix"):
        http("a-name-of-more-than-20")
    with pytest.raises(ValueError, match="prefix"):
        http("short", prefix="a-prefix-of-more-than-20")

    assert http("a-name-of-more-than-20", prefix="a" * 20).slug == "a" * 20
