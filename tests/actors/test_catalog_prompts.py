"""Prompts and the gates of projects, asked over the bus; rights are the real ones."""

import asyncio

import pytest
from pydantic import ValidationError

from mcpctl.actors.catalog import Catalog
from mcpctl.actors.settings import ActorSettings
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.contract import Ref
from mcpctl.bus.contracts import audit, catalog
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound, Unavailable
from tests.actors import test_catalog
from tests.actors.test_catalog import http, project, pulled, recorded, start_of_feed
from tests.actors.test_catalog_apply import damaged

root, actor, router, user = test_catalog.root, test_catalog.actor, test_catalog.router, test_catalog.user


def prompt(name, project=None, **fields):
    return catalog.PromptSpec(name=name, project=project, **({"content": f"About {name}."} | fields))


@pytest.fixture
async def web(root, actor):
    """Two projects, of which one has a server."""
    await root.ask(catalog.create_server, spec=http("git"))
    await root.ask(catalog.create_project, spec=project("web", "git"))
    await root.ask(catalog.create_project, spec=project("shop"))


async def create(who, *specs):
    for spec in specs:
        await who.ask(catalog.create_prompt, spec=spec)


def names(prompts):
    return [getattr(each, "spec", each).name for each in prompts.items]


async def test_a_prompt_is_shown_as_it_was_written(web, root):
    spec = prompt("style", "web", tags=("python", "git"), priority=8, summary="How we write", labels={"team": "a"})

    created = await root.ask(catalog.create_prompt, spec=spec)

    assert (created.spec, created.revision) == (spec, 1)
    assert await root.ask(catalog.get_prompt, name="style") == created


async def test_the_index_of_a_project_has_its_own_prompts_and_those_for_all_without_their_contents(web, root, router):
    await create(root, prompt("zeal", "web", content="né"), prompt("all"), prompt("other", "shop"))

    index = await root.ask(catalog.prompt_index, project="web")

    assert names(index) == ["all", "zeal"]
    assert index.items[1] == catalog.IndexedPrompt(name="zeal", tags=(), priority=5, summary="", size=3)
    view = await router.call(catalog.view, catalog.GetView(bearer=root.bearer, project="web"))
    assert view.prompts == index.items


async def test_the_router_reads_contents_in_the_order_in_which_it_asks(web, root, router):
    linked = prompt("linked", "web", resource=catalog.PromptResource(server="git", uri="docs://readme"))
    await create(root, prompt("a", "web"), prompt("b"), prompt("other", "shop"), linked)

    asked = catalog.ReadPrompts(bearer=root.bearer, project="web", names=("linked", "other", "b", "nowhere", "a"))
    texts = (await router.call(catalog.read_prompts, asked)).items

    assert [(text.name, text.content) for text in texts] == [
        ("linked", "About linked."),
        ("b", "About b."),
        ("a", "About a."),
    ]
    assert texts[0].resource == linked.resource
    assert texts[1].resource is None


async def test_an_edit_replaces_all_and_one_that_changes_nothing_leaves_the_revision(web, root, router):
    await create(root, prompt("style", "web", tags=("a",), summary="Old"))
    start = await start_of_feed(router)

    same = await root.ask(catalog.edit_prompt, spec=prompt("style", "web", tags=("a",), summary="Old"), revision=1)
    assert (same.revision, recorded(await pulled(router, start))) == (1, [])
    edited = await root.ask(catalog.edit_prompt, spec=prompt("style", "web", priority=10), revision=1)

    assert (edited.revision, edited.spec.tags, edited.spec.priority) == (2, (), 10)
    assert edited.updated_at > edited.created_at
    with pytest.raises(Conflict, match="prompt style is at revision 2, not at 1"):
        await root.ask(catalog.edit_prompt, spec=prompt("style", "web"), revision=1)


async def test_a_deleted_prompt_is_gone(web, root):
    await create(root, prompt("style", "web"))

    await root.ask(catalog.delete_prompt, name="style")

    with pytest.raises(NotFound, match="no prompt style"):
        await root.ask(catalog.get_prompt, name="style")
    assert names(await root.ask(catalog.list_prompts)) == []


async def test_the_name_of_a_prompt_is_taken_once_in_all_projects(web, root):
    await create(root, prompt("style", "web"))

    with pytest.raises(Conflict, match="prompt style exists already"):
        await root.ask(catalog.create_prompt, spec=prompt("style", "shop"))


async def test_a_prompt_of_a_project_that_is_not_there_is_refused(web, root):
    with pytest.raises(Conflict, match="prompt style is of project nowhere, which does not exist"):
        await root.ask(catalog.create_prompt, spec=prompt("style", "nowhere"))
    await create(root, prompt("style", "web"))
    with pytest.raises(Conflict, match="which does not exist"):
        await root.ask(catalog.edit_prompt, spec=prompt("style", "nowhere"))


async def test_a_deleted_project_takes_its_prompts_with_it(web, root):
    await create(root, prompt("own", "web"), prompt("all"))

    await root.ask(catalog.delete_project, name="web")
    await root.ask(catalog.create_project, spec=project("web"))

    assert names(await root.ask(catalog.prompt_index, project="web")) == ["all"]


# Resources


def linked(name, project, server="git", **fields):
    return prompt(name, project, resource=catalog.PromptResource(server=server, uri="docs://readme"), **fields)


async def test_a_resource_is_of_a_server_that_is_there_and_that_the_project_holds(web, root):
    with pytest.raises(Conflict, match="a resource of server nowhere, which does not exist"):
        await root.ask(catalog.create_prompt, spec=linked("a", None, "nowhere"))
    with pytest.raises(Conflict, match="from server git, which is not one of project shop"):
        await root.ask(catalog.create_prompt, spec=linked("a", "shop"))

    await create(root, linked("everywhere", None), linked("there", "web", content=""))

    with pytest.raises(Conflict, match="from server git, which is not one of project shop"):
        await root.ask(catalog.edit_prompt, spec=linked("there", "shop"))
    assert (await root.ask(catalog.get_prompt, name="there")).spec.project == "web"


async def test_a_server_from_which_a_prompt_has_its_content_stays_where_it_is(web, root):
    await create(root, linked("a", None), linked("b", "web"))

    with pytest.raises(Conflict, match="server git supplies the content of prompts a, b: take the resource out"):
        await root.ask(catalog.delete_server, name="git")
    with pytest.raises(Conflict, match="prompt b has its content from server git"):
        await root.ask(catalog.edit_project, spec=project("web"))
    assert (await root.ask(catalog.get_project, name="web")).spec.servers == ("git",)

    await root.ask(catalog.edit_prompt, spec=prompt("b", "web"))
    await root.ask(catalog.edit_project, spec=project("web"))
    await root.ask(catalog.delete_prompt, name="a")
    await root.ask(catalog.delete_server, name="git")


async def test_who_may_not_see_a_server_cannot_have_agents_read_from_it(web, root, user):
    pia = await user("pia", "role:edit,resource:prompts", project="web")

    with pytest.raises(Forbidden, match="view servers git"):
        await pia.ask(catalog.create_prompt, spec=linked("a", "web"))
    await create(root, linked("b", "web"))
    await pia.ask(catalog.edit_prompt, spec=linked("b", "web", summary="What stays needs no right"))
    elsewhere = catalog.PromptResource(server="git", uri="docs://other")
    with pytest.raises(Forbidden, match="view servers git"):
        await pia.ask(catalog.edit_prompt, spec=prompt("b", "web", resource=elsewhere))


# Changes


@pytest.mark.parametrize(
    ("work", "heard"),
    [
        (lambda root: create(root, prompt("new", "web")), [("project", "web", "changed")]),
        (lambda root: create(root, prompt("new")), [("prompt", "new", "created")]),
        (
            lambda root: root.ask(catalog.edit_prompt, spec=prompt("own", "web", priority=9)),
            [("project", "web", "changed")],
        ),
        (lambda root: root.ask(catalog.edit_prompt, spec=prompt("all", priority=9)), [("prompt", "all", "changed")]),
        (
            lambda root: root.ask(catalog.edit_prompt, spec=prompt("own", "shop")),
            [("project", "web", "changed"), ("project", "shop", "changed")],
        ),
        (
            lambda root: root.ask(catalog.edit_prompt, spec=prompt("all", "shop")),
            [("prompt", "all", "changed"), ("project", "shop", "changed")],
        ),
        (lambda root: root.ask(catalog.delete_prompt, name="own"), [("project", "web", "changed")]),
        (lambda root: root.ask(catalog.delete_prompt, name="all"), [("prompt", "all", "removed")]),
    ],
)
async def test_a_change_of_a_prompt_tells_whoever_keeps_views_of_the_projects_in_which_it_counts(
    web, root, router, work, heard
):
    await create(root, prompt("own", "web"), prompt("all"))
    start = await start_of_feed(router)

    await work(root)

    assert recorded(await pulled(router, start)) == heard
    assert (await root.ask(catalog.get_project, name="web")).revision == 1


# Rights


async def said(asked):
    with pytest.raises(Forbidden) as refused:
        await asked
    return str(refused.value)


@pytest.fixture
async def prompts(web, root):
    await create(root, prompt("own", "web"), prompt("all"), prompt("other", "shop"))


async def test_rights_on_a_prompt_are_those_in_its_project(prompts, root, user):
    pia = await user("pia", "role:edit,resource:prompts", project="web")

    await create(pia, prompt("new", "web"))
    await pia.ask(catalog.edit_prompt, spec=prompt("own", "web", priority=1))
    await pia.ask(catalog.delete_prompt, name="new")

    assert (await pia.ask(catalog.get_prompt, name="own")).spec.priority == 1
    for refused in (prompt("new"), prompt("new", "shop")):
        assert "may not create prompts new" in await said(pia.ask(catalog.create_prompt, spec=refused))


@pytest.mark.parametrize(
    "ask",
    [
        lambda who, name: who.ask(catalog.get_prompt, name=name),
        lambda who, name: who.ask(catalog.edit_prompt, spec=prompt(name, "web")),
        lambda who, name: who.ask(catalog.edit_prompt, spec=prompt(name, "web"), revision=7),
        lambda who, name: who.ask(catalog.delete_prompt, name=name),
    ],
)
async def test_a_prompt_that_may_not_be_seen_is_refused_as_one_that_is_not_there(prompts, user, ask):
    pia = await user("pia", "role:edit,resource:prompts", project="web")

    answers = {(await said(ask(pia, name))).replace(name, "X") for name in ("other", "all", "nowhere")}

    assert answers == {"there is no prompt X, or none that you may see"}


async def test_who_may_only_see_a_prompt_is_told_what_he_lacks(prompts, user):
    pia = await user("pia", "role:view,resource:prompts,name:o*")

    assert (await pia.ask(catalog.get_prompt, name="other")).spec.project == "shop"
    assert "pia may not edit prompts own in project web" in await said(
        pia.ask(catalog.edit_prompt, spec=prompt("own", "web"))
    )
    assert "pia may not delete prompts own in project web" in await said(pia.ask(catalog.delete_prompt, name="own"))
    with pytest.raises(NotFound, match="no prompt old"):
        await pia.ask(catalog.get_prompt, name="old")


async def test_a_prompt_moves_only_where_both_projects_let_it(prompts, user, root):
    pia = await user("pia", "role:edit,resource:prompts", project="web")
    await root.grant("shop-too", "User:pia", "role:view,resource:prompts", project="shop")

    assert "may not edit prompts own in project shop" in await said(
        pia.ask(catalog.edit_prompt, spec=prompt("own", "shop"))
    )
    assert "may not edit prompts other in project shop" in await said(
        pia.ask(catalog.edit_prompt, spec=prompt("other", "web"))
    )
    assert "may not edit prompts own" in await said(pia.ask(catalog.edit_prompt, spec=prompt("own")))
    assert (await root.ask(catalog.get_prompt, name="own")).revision == 1
    await root.grant("shop-edit", "User:pia", "role:edit,resource:prompts", project="shop")
    assert (await pia.ask(catalog.edit_prompt, spec=prompt("own", "shop"))).spec.project == "shop"


async def test_a_list_shows_what_the_bearer_may_see(prompts, root, user):
    inside = await user("inside", "role:view,resource:prompts", project="web")
    by_name = await user("by-name", "role:view,resource:prompts,name:a*")
    nobody = await user("nobody")

    assert names(await root.ask(catalog.list_prompts)) == ["all", "other", "own"]
    assert names(await inside.ask(catalog.list_prompts)) == ["own"]
    assert names(await by_name.ask(catalog.list_prompts)) == ["all"]
    assert names(await nobody.ask(catalog.list_prompts)) == []


async def test_a_list_of_a_project_has_what_counts_there_by_the_rights_there(prompts, root, user):
    inside = await user("inside", "role:view,resource:prompts", project="web")

    assert names(await root.ask(catalog.list_prompts, project="web")) == ["all", "own"]
    assert names(await inside.ask(catalog.list_prompts, project="web")) == ["all", "own"]
    assert names(await inside.ask(catalog.list_prompts, project="shop")) == []
    assert names(await inside.ask(catalog.list_prompts, project="nowhere")) == []
    with pytest.raises(NotFound, match="no project nowhere"):
        await root.ask(catalog.list_prompts, project="nowhere")


async def test_the_index_and_the_contents_are_for_who_may_enter_the_project_and_see_the_prompts(
    prompts, root, router, user
):
    partial = await user("partial", "role:view,resource:projects", "role:view,resource:prompts,name:a*", project="web")
    barred = await user("barred", "role:view,resource:prompts")

    async def read(who, *wanted, there="web"):
        asked = catalog.ReadPrompts(bearer=who.bearer, project=there, names=wanted)
        return [text.name for text in (await router.call(catalog.read_prompts, asked)).items]

    assert names(await partial.ask(catalog.prompt_index, project="web")) == ["all"]
    assert await read(partial, "own", "all", "other") == ["all"]
    for there in ("web", "nowhere"):
        assert await said(barred.ask(catalog.prompt_index, project=there)) == f"no access to project {there}"
        assert await said(read(barred, "all", there=there)) == f"no access to project {there}"
    assert await said(root.ask(catalog.prompt_index, project="nowhere")) == "no access to project nowhere"


async def test_a_token_sees_the_prompts_of_its_project_as_far_as_it_is_bound(prompts, plane, root, router):
    issued = await root.issue("web", "ci", "role:view,resource:prompts,name:a*")
    token = root.holding(issued.bearer)

    assert names(await token.ask(catalog.prompt_index, project="web")) == ["all"]
    assert await said(token.ask(catalog.prompt_index, project="shop")) == "no access to project shop"
    assert await said(token.ask(catalog.get_prompt, name="own")) == "there is no prompt own, or none that you may see"
    assert names(await token.ask(catalog.list_prompts)) == []
    assert names(await token.ask(catalog.list_prompts, project="web")) == ["all"]


@pytest.fixture
def written(actor):
    """The Catalog's audit events from now on, which go to the stream all the same."""
    events = asyncio.Queue()

    class Recorder(AuditWriter):
        def append(self, event):
            done = super().append(event)
            events.put_nowait(audit.Event.model_validate(event))
            return done

    actor.audit = Recorder(actor.bus)
    return events


async def test_each_change_and_each_refusal_leaves_an_event_that_names_the_project(prompts, user, written):
    pia = await user("pia", "role:edit,resource:prompts", project="web")

    await create(pia, prompt("new", "web"))
    await pia.ask(catalog.edit_prompt, spec=prompt("new", "web", priority=2))
    await pia.ask(catalog.delete_prompt, name="new")
    await said(pia.ask(catalog.edit_prompt, spec=prompt("other", "shop")))
    with pytest.raises(Conflict):
        await pia.ask(catalog.edit_prompt, spec=prompt("own", "web"), revision=9)

    told = [written.get_nowait() for _ in range(5)]
    assert [(event.kind, event.outcome, event.project, event.name) for event in told] == [
        ("catalog.create_prompt", "allow", "web", "new"),
        ("catalog.edit_prompt", "allow", "web", "new"),
        ("catalog.delete_prompt", "allow", "web", "new"),
        ("catalog.edit_prompt", "deny", "shop", "other"),
        ("catalog.edit_prompt", "error", "web", "own"),
    ]
    assert {event.user for event in told} == {"pia"}
    assert written.empty()


# The gate of a project

MODEL = catalog.ModelSpec(base_url="https://models.example/v1", model="small", secret_ref="key")
GATE = catalog.GateSpec(mode="refuse", budget=4096, exempt=("git/log",), llm=MODEL)


@pytest.fixture
async def key(root, actor):
    await root.ask(catalog.create_secret, name="key", value="of-the-model")


async def test_a_project_keeps_its_gate_and_loses_it(web, key, root, router):
    edited = await root.ask(catalog.edit_project, spec=project("web", "git", gate=GATE))
    assert (edited.spec.gate, edited.revision) == (GATE, 2)
    view = await router.call(catalog.view, catalog.GetView(bearer=root.bearer, project="web"))
    assert view.gate == GATE

    again = await root.ask(catalog.edit_project, spec=project("web", "git", gate=GATE))
    assert again.revision == 2
    opened = await root.ask(catalog.edit_project, spec=project("web", "git"))
    assert opened.spec.gate is None
    assert (await router.call(catalog.view, catalog.GetView(bearer=root.bearer, project="web"))).gate is None


async def test_the_secret_of_a_model_must_be_there_and_stays_there(web, root):
    with pytest.raises(Conflict, match="the model of project web refers to secret key, which does not exist"):
        await root.ask(catalog.edit_project, spec=project("web", gate=GATE))
    await root.ask(catalog.create_secret, name="key", value="of-the-model")
    await root.ask(catalog.edit_project, spec=project("web", gate=GATE))

    assert (await root.ask(catalog.get_secret, name="key")).used_by == ("project/web",)
    assert (await root.ask(catalog.list_secrets)).items[0].used_by == ("project/web",)
    with pytest.raises(Conflict, match="secret key is used by project/web"):
        await root.ask(catalog.delete_secret, name="key")

    await root.ask(catalog.edit_project, spec=project("web", gate=catalog.GateSpec()))
    await root.ask(catalog.delete_secret, name="key")


async def test_who_may_not_see_a_secret_cannot_send_it_to_a_model_of_his(web, key, root, user):
    pia = await user("pia", "role:edit,resource:projects")
    moved = GATE.model_copy(update={"llm": MODEL.model_copy(update={"base_url": "https://pia.example/v1"})})

    assert "view secrets key" in await said(pia.ask(catalog.create_project, spec=project("mine", gate=GATE)))
    assert "view secrets key" in await said(pia.ask(catalog.edit_project, spec=project("shop", gate=GATE)))
    await root.ask(catalog.edit_project, spec=project("shop", gate=GATE))
    assert "view secrets key" in await said(pia.ask(catalog.edit_project, spec=project("shop", gate=moved)))
    stays = GATE.model_copy(update={"mode": "strict"})
    assert (await pia.ask(catalog.edit_project, spec=project("shop", gate=stays))).spec.gate == stays


async def test_a_replaced_key_changes_the_projects_whose_models_take_it(web, key, root, router):
    await root.ask(catalog.edit_project, spec=project("web", gate=GATE))
    start = await start_of_feed(router)

    await root.ask(catalog.create_secret, name="key", value="another", replace=True)

    assert recorded(await pulled(router, start)) == [("project", "web", "changed")]


def asked_model(who, project):
    return catalog.UnsealModel(bearer=who.bearer, project=project)


async def test_the_router_is_given_the_model_with_its_key_in_clear(web, key, root, router, user):
    await root.ask(catalog.edit_project, spec=project("web", gate=GATE))
    nobody = await user("nobody")

    connection = await router.call(catalog.unseal_model, asked_model(root, "web"))

    assert connection == catalog.ModelConnection(
        base_url="https://models.example/v1", model="small", key="of-the-model", timeout_ms=5000
    )
    assert "of-the-model" not in repr(connection)
    with pytest.raises(NotFound, match="project shop has no gate"):
        await router.call(catalog.unseal_model, asked_model(root, "shop"))
    await root.ask(catalog.edit_project, spec=project("shop", gate=catalog.GateSpec()))
    with pytest.raises(NotFound, match="project shop has no model"):
        await router.call(catalog.unseal_model, asked_model(root, "shop"))
    for name in ("web", "nowhere"):
        assert (
            await said(router.call(catalog.unseal_model, asked_model(nobody, name))) == f"no access to project {name}"
        )


@pytest.fixture
async def with_default(plane, actor):
    """Start the Catalog anew, with a model for all gated projects."""
    await actor.stop()
    told = {
        "llm_base_url": "http://127.0.0.1:1/v1",
        "llm_model": "shared",
        "llm_secret_ref": "key",
        "llm_timeout_ms": 700,
    }
    fresh = Catalog(await plane.actor("catalog"), plane.settings.model_copy(update=told))
    await fresh.start()
    yield fresh
    await fresh.stop()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"llm_base_url": "http://x/v1"}, "is missing beside MCPCTL_LLM_BASE_URL"),
        ({"llm_base_url": "http://me:pass@x/v1", "llm_model": "m"}, "must not hold credentials"),
        ({"llm_secret_ref": "A B"}, "llm_secret_ref"),
    ],
)
def test_settings_that_name_no_whole_model_are_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        ActorSettings(**given)


async def test_a_gated_project_without_a_model_has_that_of_the_settings(web, key, root, router, with_default):
    await root.ask(catalog.edit_project, spec=project("web", gate=catalog.GateSpec()))

    view = await router.call(catalog.view, catalog.GetView(bearer=root.bearer, project="web"))
    connection = await router.call(catalog.unseal_model, asked_model(root, "web"))

    assert view.gate.llm.model == "shared"
    assert (connection.base_url, connection.key, connection.timeout_ms) == (
        "http://127.0.0.1:1/v1",
        "of-the-model",
        700,
    )
    assert (await root.ask(catalog.get_project, name="web")).spec.gate == catalog.GateSpec()
    assert (await router.call(catalog.view, catalog.GetView(bearer=root.bearer, project="shop"))).gate is None
    with pytest.raises(NotFound, match="project shop has no gate"):
        await router.call(catalog.unseal_model, asked_model(root, "shop"))
    await root.ask(catalog.delete_secret, name="key")
    with pytest.raises(Unavailable, match="the model of project web refers to secret key, which does not exist"):
        await router.call(catalog.unseal_model, asked_model(root, "web"))


# Documents


async def apply(who, remove=(), **members):
    removed = tuple(Ref(kind=kind, name=name) for kind, name in remove)
    done = await who.ask(catalog.apply, remove=removed, **members)
    return {f"{item.ref.kind}/{item.ref.name}": item.action for item in done.items}


async def test_documents_bring_a_project_with_its_gate_its_key_and_its_prompts_and_once_is_enough(actor, root, router):
    documents = {
        "prompts": [linked("own", "web"), prompt("all")],
        "projects": [project("web", "git", gate=GATE, naming="plain")],
        "servers": [http("git")],
        "secrets": [catalog.SecretSpec(name="key", value="of-the-model")],
    }

    assert set((await apply(root, **documents)).values()) == {"created"}
    start = await start_of_feed(router)
    assert set((await apply(root, **documents)).values()) == {"unchanged"}

    assert recorded(await pulled(router, start)) == []
    assert (await root.ask(catalog.get_project, name="web")).spec.gate == GATE
    assert names(await root.ask(catalog.list_prompts)) == ["all", "own"]


async def test_a_server_leaves_a_project_together_with_the_resource_of_its_prompt(web, root):
    await create(root, linked("own", "web"))

    with pytest.raises(Conflict, match="prompt own has its content from server git"):
        await apply(root, projects=[project("web")], dry_run=True)
    with pytest.raises(Conflict, match="supplies the content of prompt own"):
        await apply(root, [("server", "git")], projects=[project("web")])
    done = await apply(root, [("server", "git")], projects=[project("web")], prompts=[prompt("own", "web")])

    assert done == {"project/web": "configured", "prompt/own": "configured", "server/git": "removed"}


async def test_a_prompt_goes_with_or_before_its_project_and_cannot_stay_in_it(prompts, root):
    with pytest.raises(BadRequest, match="prompt own is of project web, which is to be removed"):
        await apply(root, [("project", "web")], prompts=[prompt("own", "web")])

    done = await apply(root, [("project", "web"), ("prompt", "own"), ("prompt", "other")])

    assert list(done) == ["prompt/own", "prompt/other", "project/web"]
    assert names(await root.ask(catalog.list_prompts)) == ["all"]
    with pytest.raises(NotFound, match="no prompt own"):
        await apply(root, [("prompt", "own")])


async def test_what_a_prompt_was_comes_with_the_answer_and_can_be_applied_again(prompts, root):
    done = await root.ask(catalog.apply, prompts=(prompt("own", "shop", tags=("a",)),))

    before = catalog.PromptSpec.model_validate(done.items[0].before)
    assert before == prompt("own", "web")
    assert await apply(root, prompts=[before]) == {"prompt/own": "configured"}


@pytest.mark.parametrize(
    ("documents", "lacks"),
    [
        ({"prompts": [prompt("new", "shop")]}, "view prompts new"),
        ({"prompts": [prompt("own", "shop")]}, "view prompts own"),
        ({"prompts": [prompt("other", "web")]}, "there is no prompt other, or none that you may see"),
        ({"prompts": [prompt("all", "web")]}, "there is no prompt all, or none that you may see"),
        ({"prompts": [linked("new", "web")]}, "view servers git in project web"),
        ({"remove": [("prompt", "other")]}, "there is no prompt other, or none that you may see"),
        ({"projects": [project("web", "git", gate=GATE)]}, "view secrets key"),
    ],
)
async def test_each_document_takes_the_rights_of_the_single_call(prompts, key, root, user, documents, lacks):
    pia = await user("pia", "role:edit,resource:prompts", "role:edit,resource:projects", project="web")
    await apply(pia, [("prompt", "own")], prompts=[prompt("fine", "web")])
    await create(root, prompt("own", "web"))

    with pytest.raises(Forbidden, match=lacks):
        await apply(pia, **documents)


async def test_each_applied_prompt_leaves_an_event_that_names_the_project(prompts, root, written):
    await apply(root, [("prompt", "own")], prompts=[prompt("other", "shop", priority=7), prompt("all")])

    told = [written.get_nowait() for _ in range(2)]
    assert [(event.kind, event.project, event.name) for event in told] == [
        ("catalog.edit_prompt", "shop", "other"),
        ("catalog.delete_prompt", "web", "own"),
    ]
    assert written.empty()


# Backup and restore


async def test_a_restore_brings_prompts_and_gates_back(prompts, key, root, router):
    await create(root, linked("linked", "web", tags=("a", "b"), labels={"team": "a"}))
    await root.ask(catalog.edit_project, spec=project("web", "git", gate=GATE))
    items = (await root.ask(catalog.list_prompts)).items
    dump = await root.ask(catalog.backup)
    await root.ask(catalog.delete_project, name="web")
    await root.ask(catalog.delete_prompt, name="all")

    await root.ask(catalog.restore, dump=dump)

    assert (await root.ask(catalog.list_prompts)).items == items
    assert (await root.ask(catalog.get_project, name="web")).spec.gate == GATE
    assert (await router.call(catalog.unseal_model, asked_model(root, "web"))).key == "of-the-model"


async def test_a_model_whose_secret_was_left_out_of_the_backup_waits_for_it(web, key, root, router):
    await root.ask(catalog.edit_project, spec=project("web", gate=GATE))
    dump = await root.ask(catalog.backup, secrets=False)
    await root.ask(catalog.restore, dump=dump)

    with pytest.raises(Unavailable, match="refers to secret key, which does not exist"):
        await router.call(catalog.unseal_model, asked_model(root, "web"))
    await root.ask(catalog.create_secret, name="key", value="anew")
    assert (await router.call(catalog.unseal_model, asked_model(root, "web"))).key == "anew"


@pytest.mark.parametrize(
    ("table", "row", "said"),
    [
        ("prompts", {"priority": 11}, "its prompt own is none"),
        ("prompts", {"size": 1}, "its prompt own is none"),
        ("prompts", {"tags": ["A B"]}, "its prompt own is none"),
        ("prompts", {"content": "", "size": 0}, "its prompt own is none"),
        ("prompts", {"server": "git"}, "its prompt own is none"),
        ("prompts", {"server": "git", "uri": "docs://x", "project": "shop"}, "is not one of project shop"),
        ("prompts", {"project": "nowhere"}, "contradict each other"),
        ("prompts", {"summary": 5}, "a row of prompts without summary"),
        ("projects", {"gate": {"mode": "open"}}, "its project web is none"),
        ("projects", {"gate": "brief"}, "a row of projects without gate"),
    ],
)
async def test_a_backup_with_a_prompt_or_a_gate_that_cannot_be_is_refused(prompts, root, table, row, said):
    dump = await root.ask(catalog.backup)
    name = "own" if table == "prompts" else "web"

    def change(rows):
        next(each for each in rows[table] if each["name"] == name).update(row)

    with pytest.raises((BadRequest, Conflict), match=said):
        await root.ask(catalog.restore, dump=damaged(dump, change))

    assert names(await root.ask(catalog.list_prompts)) == ["all", "other", "own"]
