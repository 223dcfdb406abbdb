"""The definitions as a backup, and back."""

import base64
import json
import zlib

import pytest

from mcpctl.bus.contract import PullChanges
from mcpctl.bus.contracts import rbac
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden


async def backup(who):
    return await who.ask(rbac.backup)


def altered(dump, change):
    rows = json.loads(zlib.decompress(base64.b64decode(dump.rows)))
    change(rows)
    return dump.model_copy(update={"rows": base64.b64encode(zlib.compress(json.dumps(rows).encode())).decode()})


async def test_what_is_restored_is_what_was_backed_up(plane, root):
    when = 'role:run,resource:tools,when:{"repo":{"glob":"acme/*"}}'
    await root.grant("devs", "User:ann", "role:view,resource:servers", when, project="web")
    issued = await root.issue("web", "ci", "role:view,resource:servers")
    held = await root.ask(rbac.list_definitions, of_tokens=True)
    dump = await backup(root)
    await root.ask(rbac.delete_definition, name="devs")
    await root.grant("later", "User:bob", "role:edit,resource:*")

    await root.ask(rbac.restore, dump=dump)

    assert await root.ask(rbac.list_definitions, of_tokens=True) == held
    ci = root.holding(issued.bearer)
    assert (await ci.ask(rbac.check, verb="view", resource="servers", project="web")).allowed


async def test_a_restore_begins_a_new_epoch(plane, root):
    router = await plane.actor("router")
    before = await router.call(rbac.feed.pull, PullChanges(epoch="", seq=-1, instance="test"))

    await root.ask(rbac.restore, dump=await backup(root))

    after = await router.call(rbac.feed.pull, PullChanges(epoch=before.epoch, seq=before.seq, instance="test"))
    assert after.reset
    assert after.epoch != before.epoch


async def test_it_takes_the_operations(plane, root):
    await root.add_user("ann")
    await root.grant("nearly", "User:ann", "role:edit,resource:*", "action:logs")
    ann = await plane.login("ann")
    dump = await backup(root)

    with pytest.raises(Forbidden, match="may not operate backup"):
        await backup(ann)
    with pytest.raises(Forbidden, match="may not operate restore"):
        await ann.ask(rbac.restore, dump=dump)


def _without_admins(rows):
    rows["definition_subjects"] = [row for row in rows["definition_subjects"] if row["definition"] != "admins"]
    rows["definitions"] = [row for row in rows["definitions"] if row["name"] != "admins"]


def _with_weak_admins(rows):
    rows["definitions"][0]["bindings"] = ["role:view,resource:*"]


def _with_others_as_admins(rows):
    rows["definition_subjects"].append({"definition": "admins", "subject": "User:eve"})


@pytest.mark.parametrize("change", [_without_admins, _with_weak_admins, _with_others_as_admins])
async def test_a_backup_without_the_built_in_definition_is_refused(plane, root, change):
    with pytest.raises(Conflict, match="built-in definition admins"):
        await root.ask(rbac.restore, dump=altered(await backup(root), change))


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("definitions", {"name": "bad", "labels": {}, "project": None, "bindings": ["role:owner,resource:x"]}),
        ("definitions", {"name": "bad", "labels": {}, "project": None, "bindings": [7]}),
        ("definition_subjects", {"definition": "nowhere", "subject": "User:ann"}),
        ("definition_subjects", {"definition": "admins", "subject": "Robot:x"}),
    ],
)
async def test_rows_by_which_nothing_could_be_decided_are_refused(plane, root, table, row):
    dump = await backup(root)

    with pytest.raises(BadRequest, match="the backup has a"):
        await root.ask(rbac.restore, dump=altered(dump, lambda rows: rows[table].append(row)))

    assert await backup(root) == dump
