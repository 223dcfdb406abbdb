"""Documents applied to the Catalog, token terms, backup and restore: asked over the bus."""

import base64
import json
import zlib

import pytest

from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.contract import Ref
from mcpctl.bus.contracts import catalog, token
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound
from tests.actors import test_catalog
from tests.actors.test_catalog import http, project, pulled, recorded, start_of_feed

actor, router, user = test_catalog.actor, test_catalog.router, test_catalog.user

SECRET = catalog.SecretSpec(name="key", value="hunter2")
SERVER = http("git", headers={"authorization": "secret:key"})
PROJECT = project("web", "git", labels={"team": "a"}, max_token_ttl="7d")


async def apply(who, *documents, remove=(), **members):
    of = {catalog.SecretSpec: "secrets", catalog.ServerSpec: "servers", catalog.ProjectSpec: "projects"}
    for document in documents:
        members.setdefault(of[type(document)], []).append(document)
    removed = tuple(Ref(kind=kind, name=name) for kind, name in remove)
    return (await who.ask(catalog.apply, remove=removed, **members)).items


def actions(items):
    return {f"{item.ref.kind}/{item.ref.name}": item.action for item in items}


ALL_CREATED = {"secret/key": "created", "server/git": "created", "project/web": "created"}


async def test_documents_may_refer_to_each_other(actor, root):
    done = await apply(root, PROJECT, SERVER, SECRET)

    assert actions(done) == ALL_CREATED
    assert (await root.ask(catalog.get_project, name="web")).spec == PROJECT
    assert (await root.ask(catalog.get_server, name="git")).spec == SERVER
    assert (await root.ask(catalog.get_secret, name="key")).used_by == ("git",)


async def test_the_same_again_changes_nothing_and_tells_nobody(actor, root, router):
    await apply(root, PROJECT, SERVER, SECRET)
    before = await start_of_feed(router)

    done = await apply(root, PROJECT, SERVER, SECRET)

    assert set(actions(done).values()) == {"unchanged"}
    assert recorded(await pulled(router, before)) == []


async def test_what_was_there_before_comes_with_the_answer_and_can_be_applied_again(actor, root):
    await apply(root, PROJECT, SERVER, SECRET)
    changed = [PROJECT.model_copy(update={"servers": ()}), http("git"), catalog.SecretSpec(name="key", value="new")]

    done = await apply(root, *changed)

    assert set(actions(done).values()) == {"configured"}
    models = {"secret": catalog.SecretSpec, "server": catalog.ServerSpec, "project": catalog.ProjectSpec}
    again = await apply(root, *(models[item.ref.kind].model_validate(item.before) for item in done))
    assert set(actions(again).values()) == {"configured"}
    assert set(actions(await apply(root, PROJECT, SERVER, SECRET)).values()) == {"unchanged"}


async def test_a_dry_run_says_the_same_and_does_nothing(actor, root, router):
    before = await start_of_feed(router)

    assert actions(await apply(root, PROJECT, SERVER, SECRET, dry_run=True)) == ALL_CREATED

    assert (await root.ask(catalog.list_projects)).items == ()
    assert (await root.ask(catalog.list_secrets)).items == ()
    assert recorded(await pulled(router, before)) == []


@pytest.mark.parametrize("dry_run", [True, False])
async def test_an_error_in_the_last_document_changes_nothing(actor, root, dry_run):
    with pytest.raises(Conflict, match="project shop lists servers that do not exist: nowhere"):
        await apply(root, PROJECT, SERVER, SECRET, project("shop", "nowhere"), dry_run=dry_run)

    assert (await root.ask(catalog.list_servers)).items == ()
    assert (await root.ask(catalog.list_secrets)).items == ()


async def test_a_secret_that_is_not_there_needs_a_value(actor, root):
    with pytest.raises(BadRequest, match="secret key does not exist yet: give it a value"):
        await apply(root, catalog.SecretSpec(name="key"))


async def test_a_secret_without_a_value_keeps_its_own_and_takes_the_labels(actor, root):
    await apply(root, SECRET)

    done = await apply(root, catalog.SecretSpec(name="key", labels={"team": "a"}))

    assert actions(done) == {"secret/key": "configured"}
    assert (await root.ask(catalog.get_secret, name="key")).labels == {"team": "a"}
    assert actions(await apply(root, catalog.SecretSpec(name="key", value="hunter2", labels={"team": "a"}))) == {
        "secret/key": "unchanged"
    }


async def test_a_sealed_value_opens_only_under_its_own_name(actor, root):
    await apply(root, SECRET)
    (item,) = await apply(root, catalog.SecretSpec(name="key", value="other"))

    with pytest.raises(BadRequest, match="the sealed value of secret thief cannot be opened here"):
        await apply(root, catalog.SecretSpec(name="thief", sealed=item.before["sealed"]))


async def test_what_is_removed_goes_last_and_in_order(actor, root):
    await apply(root, PROJECT, SERVER, SECRET)

    done = await apply(root, remove=[("secret", "key"), ("server", "git"), ("project", "web")])

    assert [item.ref.kind for item in done] == ["project", "server", "secret"]
    assert (await root.ask(catalog.list_servers)).items == ()


async def test_what_another_resource_uses_is_not_removed(actor, root):
    await apply(root, PROJECT, SERVER, SECRET)

    with pytest.raises(Conflict, match="server git is still used by web"):
        await apply(root, remove=[("server", "git")])
    with pytest.raises(Conflict, match="secret key is used by git"):
        await apply(root, remove=[("secret", "key")])

    assert len((await root.ask(catalog.list_servers)).items) == 1


async def test_a_removed_project_takes_its_tokens_with_it_but_not_in_a_dry_run(actor, root):
    await apply(root, project("web"))
    issued = await root.issue("web", "ci")

    await apply(root, remove=[("project", "web")], dry_run=True)
    assert (await root.ask(token.introspect, bearer=issued.bearer)).active
    await apply(root, remove=[("project", "web")])
    assert not (await root.ask(token.introspect, bearer=issued.bearer)).active


@pytest.mark.parametrize(
    ("binding", "documents", "refused"),
    [
        ("role:view,resource:projects", [project("shop")], "create projects"),
        ("role:create,resource:projects", [PROJECT.model_copy(update={"description": "mine"})], "edit projects"),
        ("role:edit,resource:projects", [project("shop", "git")], "view servers git"),
        ("role:edit,resource:servers", [http("thief", headers={"a": "secret:key"})], "view secrets key"),
        ("role:create,resource:secrets", [catalog.SecretSpec(name="key", value="x")], "edit secrets"),
    ],
)
async def test_each_document_needs_the_right_of_the_single_verb(actor, root, user, binding, documents, refused):
    await apply(root, PROJECT, SERVER, SECRET)
    sven = await user("sven", binding)

    with pytest.raises(Forbidden, match=refused):
        await apply(sven, *documents)


async def test_each_change_leaves_an_audit_event(actor, root, plane, collected):
    await apply(root, PROJECT, SERVER, SECRET)
    await apply(root, PROJECT, SERVER, SECRET)

    assert await collected(3) == [
        ("catalog.create_secret", "key"),
        ("catalog.create_server", "git"),
        ("catalog.create_project", "web"),
    ]


@pytest.fixture
async def collected(plane, monkeypatch):
    """What the Catalog appends, behind the real stream."""
    seen = []
    append = AuditWriter.append

    def noting(self, event):
        seen.append((event["kind"], event.get("name")))
        return append(self, event)

    monkeypatch.setattr(AuditWriter, "append", noting)

    async def look(count):
        return [each for each in seen if each[0].startswith("catalog.")][:count]

    return look


# Terms of tokens


async def test_the_cap_of_a_project_is_told_in_seconds(plane, actor, root):
    await apply(root, project("web", max_token_ttl="7d"), project("shop"))
    registry = await plane.actor("token")

    async def terms(name):
        asked = catalog.GetTokenTerms(bearer=root.bearer, project=name)
        return (await registry.call(catalog.token_terms, asked)).max_ttl_seconds

    assert await terms("web") == 7 * 86400
    assert await terms("shop") is None
    with pytest.raises(NotFound, match="no project nowhere"):
        await terms("nowhere")


# Backup and restore


async def test_a_restore_brings_everything_back_and_starts_a_new_epoch(actor, root, router):
    await apply(root, PROJECT, SERVER, SECRET)
    dump = await root.ask(catalog.backup)
    before = await start_of_feed(router)
    await apply(root, project("later"), remove=[("project", "web"), ("server", "git"), ("secret", "key")])

    await root.ask(catalog.restore, dump=dump)

    assert set(actions(await apply(root, PROJECT, SERVER, SECRET)).values()) == {"unchanged"}
    assert [item.spec.name for item in (await root.ask(catalog.list_projects)).items] == ["web"]
    after = await pulled(router, before)
    assert after.reset
    assert after.epoch != before.epoch


async def test_secrets_can_be_left_out_and_servers_that_need_them_say_so(plane, actor, root, router):
    await apply(root, PROJECT, SERVER, SECRET)
    dump = await root.ask(catalog.backup, secrets=False)
    await root.ask(catalog.restore, dump=dump)
    issued = await root.issue("web", "ci")
    asked = catalog.Unseal(bearer=issued.bearer, project="web", server="git")

    with pytest.raises(Exception, match="server git refers to secret key, which does not exist"):
        await router.call(catalog.unseal, asked)
    await root.ask(catalog.create_secret, name="key", value="again")

    assert (await router.call(catalog.unseal, asked)).headers == {"authorization": "again"}
    assert (await root.ask(catalog.get_secret, name="key")).used_by == ("git",)


def damaged(dump, change):
    rows = json.loads(zlib.decompress(base64.b64decode(dump.rows)))
    change(rows)
    return dump.model_copy(update={"rows": base64.b64encode(zlib.compress(json.dumps(rows).encode())).decode()})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda dump: dump.model_copy(update={"rows": dump.rows[: len(dump.rows) // 2]}), "damaged"),
        (lambda dump: dump.model_copy(update={"rows": "!"}), "damaged"),
        (lambda dump: dump.model_copy(update={"actor": "token"}), "not of catalog"),
        (lambda dump: dump.model_copy(update={"revision": "catalog_9999"}), "of revision catalog_9999"),
        (lambda dump: damaged(dump, lambda rows: rows.pop("servers")), "has no rows of servers"),
        (lambda dump: damaged(dump, lambda rows: rows["servers"][0].pop("spec")), "a row of servers without spec"),
        (
            lambda dump: damaged(dump, lambda rows: rows["secrets"][0].update(key_id="other")),
            "sealed with key other, which the keyring here does not hold",
        ),
    ],
)
async def test_a_backup_that_does_not_fit_is_refused_and_changes_nothing(actor, root, change, said):
    await apply(root, PROJECT, SERVER, SECRET)
    dump = await root.ask(catalog.backup)

    with pytest.raises((BadRequest, Conflict), match=said):
        await root.ask(catalog.restore, dump=change(dump))

    assert set(actions(await apply(root, PROJECT, SERVER, SECRET)).values()) == {"unchanged"}


async def test_backup_and_restore_take_operations_of_their_own(actor, root, user):
    dump = await root.ask(catalog.backup)
    sven = await user("sven", "role:edit,resource:*")

    with pytest.raises(Forbidden, match="operate backup"):
        await sven.ask(catalog.backup)
    with pytest.raises(Forbidden, match="operate restore"):
        await sven.ask(catalog.restore, dump=dump)
