"""Documents applied to the Catalog, token terms, backup and restore: asked over the bus."""

import base64
import json
import shutil
import zlib

import pytest
from pydantic import SecretStr

from mcpctl.actors.catalog import Catalog
from mcpctl.actors.catalog.sealing import Keyring
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.contract import Ref
from mcpctl.bus.contracts import catalog, token
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated
from tests.actors import test_catalog
from tests.actors.test_catalog import http, project, pulled, recorded, start_of_feed
from tests.postgres import database_url

root, actor, router, user = test_catalog.root, test_catalog.actor, test_catalog.router, test_catalog.user

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
    assert (await root.ask(catalog.get_project, name="web")).spec == PROJECT.model_copy(update={"naming": "plain"})
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


async def test_prefixes_may_be_swapped_and_handed_on(actor, root):
    await apply(root, http("a", prefix="x"), http("b", prefix="y"), project("web", "a", "b"), project("shop", "b", "a"))

    await apply(root, http("a", prefix="y"), http("b", prefix="x"))
    await apply(root, http("c", prefix="y"), project("web", "b", "c"))

    assert (await root.ask(catalog.get_project, name="web")).spec.servers == ("b", "c")
    with pytest.raises(Conflict, match="would both name their tools x__"):
        await apply(root, http("c", prefix="x"), http("other"))
    assert [item.spec.name for item in (await root.ask(catalog.list_servers)).items] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("documents", "remove", "said"),
    [
        ([project("web"), project("web", description="other")], [], "project web is named twice"),
        ([project("web")], [("project", "web")], "project web is named twice"),
        ([], [("project", "web"), ("project", "web")], "project web is named twice"),
        ([], [("user", "ann")], "a user cannot be removed here"),
        ([], [("server", "nowhere")], "no server nowhere"),
    ],
)
async def test_documents_that_contradict_each_other_are_refused(actor, root, documents, remove, said):
    await apply(root, project("web"))

    with pytest.raises((BadRequest, NotFound), match=said):
        await apply(root, *documents, remove=remove)


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


@pytest.mark.parametrize("sealed", ["", ".", "{key}", "{key}.", "{key}.AAAA", "{key}.no Base64", "other.AAAA"])
async def test_what_is_no_sealed_value_is_refused(actor, root, plane, sealed):
    key = Keyring.open(plane.settings.data_dir / "keys" / "sealing.json", create=False).current

    with pytest.raises(BadRequest, match="the sealed value of secret key cannot be opened here"):
        await apply(root, catalog.SecretSpec(name="key", sealed=sealed.format(key=key)))


async def test_a_secret_comes_from_one_of_value_and_sealed(actor, root):
    with pytest.raises(BadRequest, match="both a value and a sealed one"):
        await apply(root, catalog.SecretSpec(name="key", value="x", sealed="y"))


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


async def test_tokens_of_a_project_outlive_a_call_that_fails(actor, root):
    await apply(root, project("web"), SERVER, SECRET)
    issued = await root.issue("web", "ci")

    with pytest.raises(Conflict, match="secret key is used by git"):
        await apply(root, remove=[("project", "web"), ("secret", "key")])

    assert (await root.ask(token.introspect, bearer=issued.bearer)).active


async def test_who_is_nobody_learns_nothing(actor, root):
    await apply(root, PROJECT, SERVER, SECRET)
    nobody = root.holding("mcpctl_ses_" + "x" * 49)

    for remove in ([("server", "git")], [("server", "nowhere")]):
        with pytest.raises(Unauthenticated, match="unknown"):
            await apply(nobody, remove=remove)


@pytest.mark.parametrize("kind", ["server", "project", "secret"])
async def test_who_may_see_nothing_is_not_told_what_there_is(actor, root, user, kind):
    await apply(root, PROJECT, SERVER, SECRET)
    there = {"server": SERVER, "project": PROJECT, "secret": SECRET}[kind].name
    sven = await user("sven", "role:view,resource:prompts")
    told = []

    for name in (there, "nowhere"):
        with pytest.raises(Forbidden) as refused:
            await apply(sven, remove=[(kind, name)])
        told.append(str(refused.value).replace(name, "it"))

    assert told[0] == told[1]


async def test_who_may_not_see_a_prompt_is_not_told_by_its_removal_that_it_is_there(actor, root, user):
    await apply(root, PROJECT, SERVER, SECRET)
    await root.ask(catalog.create_project, spec=project("shop"))
    for name, home in (("of-shop", "shop"), ("of-all", None)):
        await root.ask(catalog.create_prompt, spec=catalog.PromptSpec(name=name, project=home, content="x"))
    pia = await user("pia", "role:edit,resource:prompts", project="web")

    for name in ("of-shop", "of-all", "nowhere"):
        with pytest.raises(Forbidden, match=f"^there is no prompt {name}, or none that you may see$"):
            await apply(pia, remove=[("prompt", name)])
    with pytest.raises(NotFound):
        await apply(root, remove=[("prompt", "nowhere")])


async def test_who_may_only_view_prompts_is_not_told_which_names_other_projects_have(actor, root, user):
    await apply(root, PROJECT, SERVER, SECRET)
    await root.ask(catalog.create_project, spec=project("shop"))
    await root.ask(catalog.create_prompt, spec=catalog.PromptSpec(name="of-shop", project="shop", content="x"))
    vic = await user("vic", "role:view,resource:prompts", project="web")
    told = []

    for name in ("of-shop", "nowhere"):
        with pytest.raises(Forbidden, match="may not create prompts") as refused:
            await apply(vic, prompts=[catalog.PromptSpec(name=name, project="web", content="x")])
        told.append(str(refused.value).replace(name, "it"))

    assert told[0] == told[1]


async def test_who_may_only_see_a_secret_gets_no_ciphertext_and_cannot_guess_the_value(actor, root, user):
    await apply(root, SECRET)
    sven = await user("sven", "role:view,resource:secrets")

    (item,) = await apply(sven, catalog.SecretSpec(name="key"))
    refusals = []
    for guess in ("hunter2", "wrong"):
        with pytest.raises(Forbidden) as refused:
            await apply(sven, catalog.SecretSpec(name="key", value=guess), dry_run=True)
        refusals.append(str(refused.value))

    assert (item.action, item.before) == ("unchanged", {"name": "key", "labels": {}})
    assert refusals[0] == refusals[1]


async def test_a_server_that_stays_as_it_is_needs_no_view_of_its_secrets(actor, root, user):
    await apply(root, PROJECT, SERVER, SECRET)
    sven = await user("sven", "role:view,resource:servers")

    assert actions(await apply(sven, SERVER)) == {"server/git": "unchanged"}


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


async def test_a_refused_call_leaves_an_audit_event_too(actor, root, user, collected):
    sven = await user("sven")

    with pytest.raises(Forbidden):
        await apply(sven, PROJECT, SERVER, SECRET)

    assert ("catalog.apply", None) in await collected(10)
    assert not [kind for kind, _ in await collected(10) if kind.startswith("catalog.create")]


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


async def test_a_token_is_told_the_terms_of_its_own_project_only(plane, actor, root):
    await apply(root, project("web", max_token_ttl="7d"), project("shop"))
    bearer = (await root.issue("web", "ci")).bearer
    registry = await plane.actor("token")

    own = await registry.call(catalog.token_terms, catalog.GetTokenTerms(bearer=bearer, project="web"))
    with pytest.raises(NotFound, match="no project shop"):
        await registry.call(catalog.token_terms, catalog.GetTokenTerms(bearer=bearer, project="shop"))
    with pytest.raises(Unauthenticated):
        await registry.call(catalog.token_terms, catalog.GetTokenTerms(bearer="nonsense", project="web"))

    assert own.max_ttl_seconds == 7 * 86400


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


async def test_a_project_frozen_since_the_backup_stays_so_after_the_restore(actor, root):
    await apply(root, PROJECT, SERVER, SECRET)
    dump = await root.ask(catalog.backup)
    frozen_at = (await root.ask(catalog.freeze_project, name="web")).frozen_at

    await root.ask(catalog.restore, dump=dump)

    assert frozen_at is not None
    assert (await root.ask(catalog.get_project, name="web")).frozen_at == frozen_at


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
        (lambda dump: damaged(dump, lambda rows: rows["servers"][0].update(spec="{}")), "its server git is none"),
        (lambda dump: damaged(dump, lambda rows: rows["projects"][0].update(labels=["a"])), "its project web is none"),
        (
            lambda dump: damaged(dump, lambda rows: rows["projects"][0].update(created_ms=2**62)),
            "its project web is none",
        ),
        (lambda dump: damaged(dump, lambda rows: rows["secrets"][0].update(sealed="AAAA")), "cannot be unsealed"),
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


@pytest.fixture
async def moved(plane, actor):
    """Start a Catalog with a database of its own, in the place of the first; with its keyring, or with another."""
    started = []

    async def move(*, keyring):
        folder = plane.settings.data_dir / "second"
        (folder / "keys").mkdir(parents=True)
        if keyring:
            shutil.copy(plane.settings.data_dir / "keys" / "sealing.json", folder / "keys")
        await actor.stop()
        url = database_url()
        elsewhere = {"data_dir": folder, "database_url": url and SecretStr(url)}
        fresh = Catalog(await plane.actor("catalog"), plane.settings.model_copy(update=elsewhere))
        await fresh.start()
        started.append(fresh)

    yield move
    for fresh in started:
        await fresh.stop()


async def test_a_fresh_installation_takes_everything_with_the_keyring(root, router, moved):
    await apply(root, PROJECT, SERVER, SECRET)
    issued = await root.issue("web", "ci")
    dump = await root.ask(catalog.backup)
    await moved(keyring=True)
    assert (await root.ask(catalog.list_projects)).items == ()

    await root.ask(catalog.restore, dump=dump)

    asked = catalog.Unseal(bearer=issued.bearer, project="web", server="git")
    assert (await router.call(catalog.unseal, asked)).headers == {"authorization": "hunter2"}


async def test_a_fresh_installation_with_another_keyring_says_which_key_it_lacks(root, moved):
    await apply(root, PROJECT, SERVER, SECRET)
    sealed, bare = await root.ask(catalog.backup), await root.ask(catalog.backup, secrets=False)
    await moved(keyring=False)

    with pytest.raises(Conflict, match="bring that keyring back, or restore a backup without secrets"):
        await root.ask(catalog.restore, dump=sealed)
    await root.ask(catalog.restore, dump=bare)

    assert (await root.ask(catalog.get_server, name="git")).spec == SERVER
    assert (await root.ask(catalog.list_secrets)).items == ()


async def test_backup_and_restore_take_operations_of_their_own(actor, root, user):
    dump = await root.ask(catalog.backup)
    sven = await user("sven", "role:edit,resource:*")

    with pytest.raises(Forbidden, match="operate backup"):
        await sven.ask(catalog.backup)
    with pytest.raises(Forbidden, match="operate restore"):
        await sven.ask(catalog.restore, dump=dump)
