"""Backups of the registry, what migration makes of old tables, and the way back in for a lost admin."""

import asyncio
import base64
import json
import sqlite3
import zlib
from contextlib import closing

import pytest
from sqlmodel import select

from mcpctl.actors.storage import Store, database_url
from mcpctl.actors.token_registry.rows import GroupRow
from mcpctl.bus.contract import PullChanges
from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, Unauthenticated
from mcpctl.bus.identity import AdmittedIdentity

PASSWORD = "correct horse battery staple"
NEW_PASSWORD = "a password made up on the host"


async def backup(operator):
    return await operator.ask(token.backup)


async def restore(operator, dump):
    await operator.ask(token.restore, dump=dump)


# Backups


async def test_what_is_restored_works_as_before_and_what_came_since_is_gone(plane, root):
    await root.create_group("devs", labels={"a": "b"})
    await root.add_user("ann", "devs")
    issued = await root.issue("web", "ci", "role:view,resource:servers")
    await root.ask(token.create_service_account, name="build", groups=("devs",))
    built = await root.ask(token.issue_service_account_token, name="build")
    dump = await backup(root)
    await root.ask(token.delete_group, name="devs")
    await root.add_user("later")
    later = await root.issue("web", "later")

    await restore(root, dump)

    assert (await plane.resolve(issued.bearer)).name == "ci"
    assert (await plane.resolve(built.bearer)).owner.groups == ("devs",)
    assert (await root.ask(token.get_group, name="devs")).members == ("ServiceAccount:build", "User:ann")
    assert (await root.ask(token.get_group, name="devs")).labels == {"a": "b"}
    assert [user.name for user in (await root.ask(token.list_users)).items] == ["ann", "root"]
    assert (await (await plane.login("ann")).ask(token.whoami)).name == "ann"
    with pytest.raises(Unauthenticated, match="unknown"):
        await plane.resolve(later.bearer)


async def test_the_one_who_restores_stays_logged_in_and_nobody_else_does(plane, root):
    await root.add_user("ann")
    dump = await backup(root)
    ann = await plane.login("ann")

    await restore(root, dump)

    assert (await root.ask(token.whoami)).name == "root"
    with pytest.raises(Unauthenticated):
        await plane.resolve(ann.bearer)


async def test_no_session_and_no_bearer_is_in_a_backup(plane, root):
    issued = await root.issue("web", "ci")
    dump = await backup(root)

    await root.ask(token.logout)

    with pytest.raises(Unauthenticated):
        await plane.resolve(root.bearer)
    again = await plane.login("root")
    await restore(again, dump)
    with pytest.raises(Unauthenticated):
        await plane.resolve(root.bearer)
    assert issued.bearer not in dump.model_dump_json()


@pytest.mark.parametrize("call", [token.revoke, token.delete])
async def test_what_was_revoked_or_deleted_since_stays_so(plane, root, call):
    top = await root.issue("web", "top", "role:create,resource:mcptokens")
    child = await root.holding(top.bearer).issue("web", "child")
    dump = await backup(root)
    await root.ask(call, project="web", name="top")

    await restore(root, dump)
    await restore(root, dump)

    for gone in (top, child):
        with pytest.raises(Unauthenticated, match="revoked"):
            await plane.resolve(gone.bearer)
    assert (await root.issue("web", "top")).token.status == "active"


async def test_a_bearer_that_was_rotated_away_ends_no_later_after_a_restore(plane, root):
    first = await root.issue("web", "ci", ttl_seconds=86_400)
    dump = await backup(root)
    await root.ask(token.rotate, project="web", name="ci", overlap_seconds=60)
    left = (await plane.resolve(first.bearer)).expires_in_ms

    await restore(root, dump)

    assert (await plane.resolve(first.bearer)).expires_in_ms <= left <= 60_000


async def test_who_was_disabled_since_stays_disabled_and_so_do_the_tokens(plane, root):
    await root.add_user("ann", "admins")
    issued = await (await plane.login("ann")).issue("web", "of-ann")
    dump = await backup(root)
    await root.ask(token.edit_user, name="ann", disabled=True)

    await restore(root, dump)

    assert (await root.ask(token.get_user, name="ann")).disabled
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)


async def test_what_was_revoked_between_two_restores_stays_so(plane, root):
    before = await backup(root)
    issued = await root.issue("web", "ci")
    after = await backup(root)
    await root.ask(token.revoke, project="web", name="ci")

    await restore(root, before)
    await restore(root, after)

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)


async def test_what_was_rotated_away_between_two_restores_is_over(plane, root):
    before = await backup(root)
    issued = await root.issue("web", "ci")
    after = await backup(root)
    await root.ask(token.rotate, project="web", name="ci", overlap_seconds=60)

    await restore(root, before)
    await restore(root, after)

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)


async def test_what_nobody_ended_comes_back_by_the_second_of_two_restores(plane, root):
    before = await backup(root)
    issued = await root.issue("web", "ci")
    after = await backup(root)

    await restore(root, before)
    await restore(root, after)

    assert (await plane.resolve(issued.bearer)).name == "ci"


async def test_a_backup_with_a_password_that_costs_too_much_to_check_changes_nothing(plane, root):
    dump = await backup(root)
    rows = json.loads(_unpacked(dump))
    rows["users"][0]["password_hash"] = "$argon2id$v=19$m=262144,t=64,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"

    with pytest.raises(BadRequest, match="costs too much"):
        await restore(root, dump.model_copy(update={"rows": _packed(json.dumps(rows))}))

    assert (await plane.login("root")).bearer


async def test_a_restore_begins_a_new_epoch(plane, root):
    router = await plane.actor("router")
    dump = await backup(root)
    before = await router.call(token.feed.pull, PullChanges(epoch="", seq=0, instance="test"))
    heard = await plane.listen()

    await restore(root, dump)

    told = await asyncio.wait_for(heard.get(), 5)
    asked = PullChanges(epoch=before.epoch, seq=before.seq, instance="test")
    assert told.epoch != before.epoch
    assert (await router.call(token.feed.pull, asked)).reset


async def test_a_backup_without_a_usable_admin_is_refused_and_changes_nothing(plane, root):
    await root.add_user("ann", "admins")
    ann = await plane.login("ann")
    await ann.ask(token.edit_user, name="root", groups=())
    dump = await backup(ann)
    broken = json.loads(_unpacked(dump))
    broken["users"] = [user | {"disabled": True} for user in broken["users"]]

    with pytest.raises(Conflict, match="nobody could log in"):
        await restore(ann, dump.model_copy(update={"rows": _packed(json.dumps(broken))}))

    assert (await ann.ask(token.whoami)).owner.groups == ("admins",)
    assert len((await ann.ask(token.list_users)).items) == 2


async def test_a_damaged_backup_changes_nothing(root):
    dump = await backup(root)

    with pytest.raises(BadRequest, match="damaged"):
        await restore(root, dump.model_copy(update={"rows": dump.rows[:-8]}))

    assert (await root.ask(token.whoami)).name == "root"


async def test_the_group_admins_is_there_after_any_restore(plane, root):
    dump = await backup(root)
    rows = json.loads(_unpacked(dump))
    rows["groups"] = []

    await restore(root, dump.model_copy(update={"rows": _packed(json.dumps(rows))}))

    assert (await root.ask(token.get_group, name="admins")).members == ("User:root",)


async def test_backup_and_restore_take_their_operations(plane, root):
    await root.add_user("ann")
    ann = await plane.login("ann")
    dump = await backup(root)

    with pytest.raises(Forbidden, match="backup"):
        await backup(ann)
    with pytest.raises(Forbidden, match="restore"):
        await restore(ann, dump)


@pytest.mark.parametrize("contract", [token, rbac, catalog])
async def test_a_restore_takes_escalate_as_well(plane, root, contract):
    """Whoever may restore what a file says can be anybody."""
    await root.add_user("ann")
    await root.grant("restorers", "User:ann", "action:restore", "action:backup")
    ann = await plane.login("ann")
    dump = await ann.ask(contract.backup)

    with pytest.raises(Forbidden, match="escalate"):
        await ann.ask(contract.restore, dump=dump)

    await root.grant("escalators", "User:ann", "action:escalate")
    await ann.ask(contract.restore, dump=dump)


def _unpacked(dump):
    return zlib.decompress(base64.b64decode(dump.rows))


def _packed(text):
    return base64.b64encode(zlib.compress(text.encode())).decode()


# Old tables


async def test_groups_that_were_only_named_become_rows(tmp_path):
    url = database_url("token", None, tmp_path)
    await (await _opened(url)).close()
    with closing(sqlite3.connect(tmp_path / "sql" / "token.sqlite")) as database:
        _back_to_the_first_tables(database)
        database.execute("INSERT INTO users VALUES ('ann', 'x', '[\"devs\", \"admins\"]', 0, 1)")
        database.execute("INSERT INTO service_accounts VALUES ('ci', '[\"ops\"]', '', 1)")
        row = "('a', 'pat', 'User', 'ann', 1, NULL, NULL, 5, 'ci', 'web', 'web/ci', 'p', '', '[]')"
        database.execute(f"INSERT INTO bearers VALUES {row}")
        database.commit()

    store = await _opened(url)

    def read(session):
        groups = [(row.name, row.groups, row.labels) for row in session.exec(select(GroupRow).order_by(GroupRow.name))]
        labels = session.connection().exec_driver_sql("SELECT labels FROM users").scalar_one()
        bearer = session.connection().exec_driver_sql("SELECT labels, last_used_at, last_tool FROM bearers").one()
        return groups, labels, tuple(bearer)

    groups, labels, bearer = await store.read(read)
    await store.close()
    assert groups == [(name, [], {}) for name in ("admins", "devs", "ops")]
    assert labels == "{}"
    assert bearer == ("{}", 5, None)


async def _opened(url):
    store = Store("token", url)
    await store.open()
    return store


def _back_to_the_first_tables(database):
    database.execute("DROP TABLE groups")
    for table in ("users", "service_accounts", "bearers"):
        database.execute(f"ALTER TABLE {table} DROP COLUMN labels")
    database.execute("ALTER TABLE service_accounts DROP COLUMN router_site")
    for column in ("last_gateway", "last_tool", "replaces", "quota", "first"):
        database.execute(f"ALTER TABLE bearers DROP COLUMN {column}")
    database.execute("UPDATE alembic_version SET version_num = 'token_0001'")


async def test_a_new_installation_has_the_group_admins(root):
    assert [group.name for group in (await root.ask(token.list_groups)).items] == ["admins"]


# A lost admin


async def reset(plane, secret, user="root"):
    door = await plane.connect(AdmittedIdentity("login"))
    await door.call(token.bootstrap, token.Bootstrap(secret=secret, user=user, password=NEW_PASSWORD))


async def test_the_secret_on_the_host_gives_an_admin_a_new_password_and_ends_its_sessions(plane, root):
    issued = await root.issue("web", "ci")
    await root.add_user("ann", "admins")
    ann = await plane.login("ann")
    await ann.ask(token.edit_user, name="root", groups=(), disabled=True)
    session = root.bearer
    plane.settings.bootstrap_file.write_text("made just now\n")

    await reset(plane, "made just now")

    back = await plane.login("root", NEW_PASSWORD)
    assert (await back.ask(token.whoami)).owner.groups == ("admins",)
    assert not (await back.ask(token.get_user, name="root")).disabled
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(session)
    assert (await plane.resolve(issued.bearer)).name == "ci"
    assert (await plane.resolve(ann.bearer)).name == "ann"


async def test_a_user_who_is_missing_is_created(plane, root):
    plane.settings.bootstrap_file.write_text("made just now")

    await reset(plane, "made just now", "rescue")

    rescue = await plane.login("rescue", NEW_PASSWORD)
    assert (await rescue.ask(token.whoami)).owner.groups == ("admins",)


async def test_the_secret_works_once(plane, root):
    plane.settings.bootstrap_file.write_text("made just now")
    outcomes = await asyncio.gather(*(reset(plane, "made just now") for _ in range(4)), return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 3 + ["NoneType"]
    assert not plane.settings.bootstrap_file.exists()


@pytest.mark.parametrize(
    ("content", "secret", "error"), [("right", "wrong", Forbidden), ("", "", Conflict), (None, "", Conflict)]
)
async def test_without_the_secret_nothing_happens(plane, root, content, secret, error):
    if content is not None:
        plane.settings.bootstrap_file.write_text(content)

    with pytest.raises(error):
        await reset(plane, secret)

    assert (await root.ask(token.whoami)).name == "root"
    await plane.login("root", PASSWORD)
    assert plane.settings.bootstrap_file.exists() == (content is not None)


async def test_a_reset_lets_in_one_who_was_guessed_at(plane, root):
    for _ in range(6):
        with pytest.raises((Unauthenticated, Forbidden)):
            await plane.login("root", "wrong password")
    plane.settings.bootstrap_file.write_text("made just now")

    await reset(plane, "made just now")

    await plane.login("root", NEW_PASSWORD)


async def test_a_reset_leaves_an_event_without_its_secrets(plane, root, events):
    plane.settings.bootstrap_file.write_text("made just now")

    await reset(plane, "made just now")

    (event,) = events
    assert (event["kind"], event["outcome"], event["principal"]) == ("token.bootstrap", "allow", "user-root")
    assert "made just now" not in str(event)
    assert NEW_PASSWORD not in str(event)
