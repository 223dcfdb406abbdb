"""Decisions, scopes, ceilings and definitions, asked over the bus."""

import pytest

from mcpctl.actors.rbac_evaluator.rows import DefinitionRow
from mcpctl.bus.contract import PullChanges
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.contracts.rbac import Binding, Definition
from mcpctl.bus.errors import BadRequest, BusError, Conflict, Forbidden, NotFound, Unauthenticated

PASSWORD = "correct horse battery staple"


def definition(name, *bindings, subjects=("Group:devs",), project=None):
    held = tuple(Binding.parse(text) for text in bindings)
    return Definition(name=name, project=project, subjects=subjects, bindings=held)


async def define(who, name, *bindings, **fields):
    return await who.ask(rbac.define, definition=definition(name, *bindings, **fields))


async def may(who, verb, resource, name=None, project=None):
    return (await who.ask(rbac.check, verb=verb, resource=resource, name=name, project=project)).allowed


@pytest.fixture
async def ann(plane, root):
    """A user in the group devs, to which nothing is granted yet."""
    await root.create_group("devs")
    await root.ask(token.create_user, name="ann", password=PASSWORD, groups=("devs",))
    return await plane.login("ann")


# Decisions


async def test_nothing_is_granted_that_no_definition_grants(plane, root, ann):
    verdict = await ann.ask(rbac.check, verb="view", resource="servers", project="web")

    assert not verdict.allowed
    assert verdict.reason == "user ann may not view servers in project web: no definition grants it anything there"


async def test_a_verdict_names_the_definition_and_the_binding_that_decided(plane, root, ann):
    await define(root, "devs", "role:view,resource:prompts", "role:run,resource:servers", project="web")

    verdict = await ann.ask(rbac.check, verb="run", resource="servers", name="github", project="web")

    assert verdict.allowed
    assert verdict.reason == "definition devs: role:run,resource:servers"
    assert (verdict.kind, verdict.name, verdict.owner) == ("User", "ann", "ann")


async def test_a_denial_names_the_definitions_that_apply(plane, root, ann):
    await define(root, "devs", "role:view,resource:prompts")
    await define(root, "secret-plan", "role:view,resource:servers", subjects=("Group:ops",))

    verdict = await ann.ask(rbac.check, verb="view", resource="servers")

    assert verdict.reason == "user ann may not view servers: granted only what is in devs"


async def test_a_definition_of_a_project_grants_nothing_outside_it(plane, root, ann):
    await define(root, "devs", "role:edit,resource:*", project="web")

    assert await may(ann, "edit", "servers", project="web")
    assert not await may(ann, "edit", "servers", project="shop")
    assert not await may(ann, "view", "users")


async def test_a_definition_without_a_project_grants_in_all(plane, root, ann):
    await define(root, "devs", "role:view,resource:servers", subjects=("User:ann",))

    assert await may(ann, "view", "servers", project="web")
    assert await may(ann, "view", "servers")


async def test_a_group_that_is_left_grants_nothing_any_more(plane, root, ann):
    await define(root, "devs", "role:view,resource:servers")

    await root.ask(token.edit_user, name="ann", groups=())

    assert not await may(ann, "view", "servers")


@pytest.mark.parametrize(
    "stored",
    [
        "role:run,resource:tools,name:github/[b-a]",
        'role:run,resource:tools,when:{"repo":{"like":"x"}}',
        'role:run,resource:tools,when:{"repo":{"equals":"x"},"Repo":{"equals":"x"}}',
    ],
)
async def test_a_stored_binding_that_is_not_understood_grants_nothing_and_harms_no_other(plane, root, ann, stored):
    await root.grant("devs", "Group:devs", "role:view,resource:servers")

    def add(session):
        row = session.get(DefinitionRow, "devs")
        row.bindings = [*row.bindings, stored]
        session.add(row)

    await plane.evaluator._policy.store.write(add)

    assert await may(ann, "view", "servers")
    assert not await may(ann, "run", "tools", "github/a", project="web")
    assert (await root.ask(rbac.get_definition, name="devs")).bindings == (Binding.parse("role:view,resource:servers"),)


async def test_an_operation_is_asked_like_a_right(plane, root, ann):
    await define(root, "devs", "action:logs")

    logs = await ann.ask(rbac.check, action="logs")
    backup = await ann.ask(rbac.check, action="backup")

    assert logs.allowed
    assert backup.reason == "user ann may not operate backup: granted only what is in devs"


async def test_revoke_any_lets_delete_mcptokens_and_nothing_else(plane, root, ann):
    await define(root, "responders", "action:revoke-any")
    await root.issue("web", "ci")

    await ann.ask(token.revoke, project="web", name="ci")

    assert not await may(ann, "view", "mcptokens", project="web")


async def test_an_unknown_bearer_gets_no_verdict(plane, root):
    with pytest.raises(Unauthenticated, match="unknown"):
        await root.ask(rbac.check, bearer="mcpctl_pat_nothing", verb="view", resource="servers")


# Mcptokens


async def test_a_token_has_its_own_rights_only_as_far_as_its_owner_has_them_now(plane, root, ann):
    await define(root, "devs", "role:edit,resource:mcptokens", "role:run,resource:servers", project="web")
    ci = ann.holding((await ann.issue("web", "ci", "role:run,resource:tools,name:github/*")).bearer)

    before = await ci.ask(rbac.check, verb="run", resource="tools", name="github/get", project="web")
    await root.ask(rbac.redefine, definition=definition("devs", "role:run,resource:servers,name:gitlab", project="web"))
    after = await ci.ask(rbac.check, verb="run", resource="tools", name="github/get", project="web")

    assert before.allowed
    assert "its owner by definition devs: role:run,resource:servers" in before.reason
    assert after.reason == "its owner may not run tools github/get in project web"


async def test_a_token_without_bindings_may_nothing_though_its_owner_may_everything(plane, root):
    ci = root.holding((await root.issue("web", "ci")).bearer)

    assert not await may(ci, "view", "servers", project="web")


async def test_a_token_acts_only_inside_its_project(plane, root):
    ci = root.holding((await root.issue("web", "ci", "role:edit,resource:*", "action:*")).bearer)

    assert await may(ci, "edit", "servers", project="web")
    assert not await may(ci, "edit", "servers", project="shop")
    assert not await may(ci, "view", "users")
    verdict = await ci.ask(rbac.check, verb="view", resource="projects")
    assert verdict.reason == "mcptoken ci may not view projects: it acts only inside project web"


async def test_no_operation_is_open_to_a_token_outside_its_project(plane, root):
    ci = root.holding((await root.issue("web", "ci", "action:*")).bearer)

    assert not (await ci.ask(rbac.check, action="backup")).allowed
    assert (await ci.ask(rbac.check, action="logs", project="web")).allowed


async def test_a_child_loses_what_its_parent_loses(plane, root):
    rights = ("role:create,resource:mcptokens", "role:run,resource:tools")
    parent = await root.issue("web", "parent", *rights)
    child = root.holding((await root.holding(parent.bearer).issue("web", "child", "role:run,resource:tools")).bearer)
    name = f"mcptoken-{parent.token.id[:32]}"
    subjects = (f"McpToken:{parent.token.id}",)

    before = await may(child, "run", "tools", "github/get", "web")
    await root.ask(
        rbac.redefine, definition=definition(name, "role:view,resource:tools", subjects=subjects, project="web")
    )
    after = await child.ask(rbac.check, verb="run", resource="tools", name="github/get", project="web")

    assert before
    assert after.reason == "a token above it may not run tools github/get in project web"


async def test_a_scope_has_a_layer_for_each_whose_rights_bound_it(plane, root):
    rights = ("role:create,resource:mcptokens", "role:run,resource:tools")
    parent = await root.issue("web", "parent", *rights)
    child = await root.holding(parent.bearer).issue("web", "child", "role:run,resource:tools,name:github/*")
    router = await plane.actor("router")

    answer = await router.call(rbac.scope, rbac.GetScope(bearer=child.bearer, project="web"))
    elsewhere = await router.call(rbac.scope, rbac.GetScope(bearer=child.bearer, project="shop"))
    resolved = await router.call(token.resolve, token.ResolveBearer(bearer=child.bearer))

    assert [len(layer) for layer in answer.scope.layers] == [1, 2, 3]
    assert answer.scope.why_not_run("github", "get", dict) is None
    assert answer.scope.why_not_run("gitlab", "get", dict) is not None
    assert elsewhere.scope.layers == ((),)
    assert (answer.token_epoch, answer.token_seq) == (resolved.epoch, resolved.seq)


async def test_the_bindings_of_a_token_can_be_shown(plane, root):
    issued = await root.issue("web", "ci", "role:run,resource:tools")

    shown = await root.ask(rbac.get_bindings, project="web", name="ci", sha=issued.token.id)
    elsewhere = await root.ask(rbac.get_bindings, project="shop", name="ci", sha=issued.token.id)

    assert [str(binding) for binding in shown.bindings] == ["role:run,resource:tools"]
    assert elsewhere.bindings == ()


# Definitions


async def test_definitions_are_kept_and_listed_by_name(plane, root):
    await define(root, "zoo", "role:view,resource:servers", subjects=("User:b", "User:a", "User:a"))
    await define(root, "ape", "action:logs", project="web")

    listed = (await root.ask(rbac.list_definitions)).items

    assert [item.name for item in listed] == ["admins", "ape", "zoo"]
    assert (await root.ask(rbac.get_definition, name="zoo")).subjects == ("User:a", "User:b")


async def test_a_definition_name_is_taken_once(plane, root):
    await define(root, "devs", "action:logs")

    with pytest.raises(Conflict, match="definition devs already"):
        await define(root, "devs", "action:logs")


async def test_what_does_not_exist_can_be_neither_shown_nor_changed_nor_deleted(plane, root):
    for call, fields in (
        (rbac.get_definition, {"name": "devs"}),
        (rbac.delete_definition, {"name": "devs"}),
        (rbac.redefine, {"definition": definition("devs", "action:logs")}),
    ):
        with pytest.raises(NotFound, match="no definition devs"):
            await root.ask(call, **fields)


async def test_the_built_in_definition_stays_as_it_is(plane, root):
    with pytest.raises(Conflict, match="built in"):
        await root.ask(rbac.redefine, definition=definition("admins", "action:logs"))
    with pytest.raises(Conflict, match="built in"):
        await root.ask(rbac.delete_definition, name="admins")
    with pytest.raises(Conflict):
        await define(root, "admins", "action:logs")
    with pytest.raises(BadRequest, match="kept for mcptokens"):
        await define(root, "mcptoken-0123", "action:logs")


async def test_changes_are_numbered_on_the_feed(plane, root):
    router = await plane.actor("router")
    begin = await router.call(rbac.feed.pull, PullChanges(epoch="", seq=-1, instance="test"))

    await define(root, "devs", "action:logs")
    await root.ask(rbac.redefine, definition=definition("devs", "action:backup"))
    await root.ask(rbac.delete_definition, name="devs")

    pulled = await router.call(rbac.feed.pull, PullChanges(epoch=begin.epoch, seq=begin.seq, instance="test"))
    assert [(change.kind, change.key, change.action) for change in pulled.changes] == [
        ("definition", "devs", "created"),
        ("definition", "devs", "changed"),
        ("definition", "devs", "removed"),
    ]


async def test_unbinding_a_subject_takes_it_out_everywhere_and_removes_what_is_left_empty(plane, root):
    await define(root, "both", "action:logs", subjects=("User:ann", "User:bob"))
    await define(root, "one", "action:logs", subjects=("User:ann",))

    await define(root, "two", "action:logs", subjects=("User:ann", "User:zoe"))

    await plane.registry.bus.call(rbac.unbind, rbac.UnbindSubject(subject="User:ann", others=("User:zoe",)))
    await plane.registry.bus.call(rbac.unbind, rbac.UnbindSubject(subject="Group:admins"))

    listed = (await root.ask(rbac.list_definitions)).items
    assert [(item.name, item.subjects) for item in listed] == [("admins", ("Group:admins",)), ("both", ("User:bob",))]


# The ceiling


@pytest.fixture
async def keeper(plane, root, ann):
    """Ann, who writes the definitions of one project and holds a little there."""
    await define(root, "keepers", "role:edit,resource:rbac", "role:run,resource:servers,name:git*", project="web")
    return ann


async def test_nobody_defines_what_he_does_not_hold(plane, keeper):
    for given in ("role:edit,resource:servers", "role:run,resource:servers", "role:run,resource:*", "action:logs"):
        with pytest.raises(Forbidden, match=f"user ann does not hold {given.replace('*', '.')} in project web"):
            await define(keeper, "more", "role:run,resource:servers,name:github", given, project="web")

    await define(keeper, "less", "role:run,resource:servers,name:github", project="web", subjects=("User:bob",))


async def test_who_keeps_one_project_defines_nothing_outside_it(plane, keeper):
    for project in (None, "shop"):
        with pytest.raises(Forbidden, match="may not create rbac"):
            await define(keeper, "out", "role:run,resource:servers,name:github", project=project)


async def test_who_keeps_one_project_touches_no_definition_of_another(plane, root, keeper):
    await define(root, "shop", "role:view,resource:servers", project="shop")
    await define(root, "global", "role:view,resource:servers")

    for name in ("shop", "global"):
        small = definition(name, "role:run,resource:servers,name:github", project="web")
        with pytest.raises(Conflict, match="project of definition"):
            await keeper.ask(rbac.redefine, definition=small)
        with pytest.raises(Forbidden):
            await keeper.ask(rbac.delete_definition, name=name)
        with pytest.raises(Forbidden):
            await keeper.ask(rbac.get_definition, name=name)


async def test_who_keeps_one_project_deletes_its_definitions(plane, root, keeper):
    await define(root, "devs", "role:view,resource:servers", project="web")

    assert (await keeper.ask(rbac.get_definition, name="devs")).project == "web"
    await keeper.ask(rbac.delete_definition, name="devs")

    with pytest.raises(NotFound):
        await root.ask(rbac.get_definition, name="devs")


async def test_nobody_joins_a_definition_that_holds_more(plane, root, keeper):
    bindings = ("role:edit,resource:servers",)
    await define(root, "rich", *bindings, subjects=("User:bob",), project="web")

    with pytest.raises(Forbidden, match="does not hold role:edit,resource:servers"):
        await keeper.ask(
            rbac.redefine, definition=definition("rich", *bindings, subjects=("User:bob", "User:ann"), project="web")
        )


async def test_who_may_escalate_gives_what_he_does_not_hold(plane, root, keeper):
    await define(root, "trusted", "action:escalate", subjects=("User:ann",), project="web")

    await define(keeper, "more", "role:edit,resource:servers", project="web")

    with pytest.raises(Forbidden):
        await define(keeper, "everywhere", "role:edit,resource:servers")


async def test_not_even_escalate_puts_anybody_among_the_admins(plane, root, ann):
    await define(root, "trusted", "action:escalate", "role:edit,resource:users", subjects=("User:ann",))

    with pytest.raises(Forbidden, match="only a member of the group admins"):
        await ann.ask(token.create_user, name="eve", password=PASSWORD, groups=("admins",))


async def test_a_token_of_an_admin_is_no_admin(plane, root):
    ci = root.holding((await root.issue("web", "ci", "role:edit,resource:*", "action:*")).bearer)

    for call, fields in (
        (token.create_user, {"name": "eve", "password": PASSWORD, "groups": ("admins",)}),
        (rbac.define, {"definition": definition("all", "role:edit,resource:*")}),
        (rbac.define, {"definition": definition("all", "role:edit,resource:*", project="shop")}),
    ):
        with pytest.raises(Forbidden, match="acts only inside project web"):
            await ci.ask(call, **fields)


async def test_bindings_are_given_to_a_token_once(plane, root):
    issued = await root.issue("web", "ci", "role:view,resource:servers")
    again = rbac.BindToken(
        bearer=root.bearer,
        project="web",
        name="ci",
        sha=issued.token.id,
        bindings=(Binding.parse("role:edit,resource:*"),),
    )

    with pytest.raises(Conflict):
        await plane.registry.bus.call(rbac.bind_token, again)


async def test_only_the_registry_may_bind_and_unbind(plane, root):
    for call, request in (
        (rbac.unbind, rbac.UnbindSubject(subject="User:ann")),
        (rbac.check_ceiling, rbac.CheckCeiling(bearer=root.bearer)),
    ):
        with pytest.raises(BusError):
            await root.bus.call(call, request, timeout=0.3)


# The ceiling on edits of what has subjects


@pytest.fixture
async def rich(plane, root, keeper):
    """A definition in ann's project that holds what she does not."""
    given = ("role:edit,resource:servers", "role:run,resource:servers,name:github")
    await define(root, "rich", *given, subjects=("User:bob", "User:zoe"), project="web")
    return given


async def edit(who, *bindings, subjects=("User:bob", "User:zoe")):
    return await who.ask(rbac.redefine, definition=definition("rich", *bindings, subjects=subjects, project="web"))


async def test_to_take_away_takes_no_more_than_edit(plane, keeper, rich):
    fewer = await edit(keeper, *rich, subjects=("User:bob",))
    less = await edit(keeper, "role:view,resource:servers,name:x", rich[1], subjects=("User:bob",))

    assert fewer.subjects == ("User:bob",)
    assert [str(each) for each in less.bindings] == ["role:view,resource:servers,name:x", rich[1]]


async def test_a_new_subject_is_given_every_binding(plane, keeper, rich):
    for subjects in (("User:bob", "User:zoe", "User:ann"), ("Group:devs",)):
        with pytest.raises(Forbidden, match="does not hold role:edit,resource:servers in project web"):
            await edit(keeper, *rich, subjects=subjects)

    assert (await edit(keeper, rich[1], subjects=("User:ann",))).subjects == ("User:ann",)


async def test_a_new_binding_is_given_to_those_who_are_there(plane, keeper, rich):
    with pytest.raises(Forbidden, match="does not hold role:edit,resource:prompts"):
        await edit(keeper, *rich, "role:edit,resource:prompts")

    await edit(keeper, *rich, "role:run,resource:servers,name:gitlab")


async def test_conditions_are_part_of_what_is_held(plane, root, ann):
    mine = 'role:run,resource:tools,name:github/*,when:{"repo":{"glob":"acme/*"}}'
    await define(root, "keepers", "role:edit,resource:rbac", mine, project="web")

    for wider in ("role:run,resource:tools,name:github/*", mine.replace("acme/*", "*")):
        with pytest.raises(Forbidden, match="does not hold role:run,resource:tools,name:github"):
            await define(ann, "more", wider, project="web")

    await define(ann, "less", mine.replace("acme/*", "acme/site"), project="web", subjects=("User:bob",))


# What an mcptoken is given at its making


async def test_a_clone_is_what_its_issuer_holds_now(plane, root, ann):
    held = ("role:create,resource:mcptokens", "role:run,resource:tools,name:github/*", "action:logs")
    await define(root, "devs", *held, project="web")
    await define(root, "all", "role:view,resource:servers")
    await define(root, "elsewhere", "role:edit,resource:*", project="shop")

    issued = await ann.issue("web", "mine", rbac="clone")

    shown = await root.ask(rbac.get_bindings, project="web", name="mine", sha=issued.token.id)
    assert sorted(map(str, shown.bindings)) == sorted((*held, "role:view,resource:servers"))


async def test_a_clone_of_a_token_holds_no_more_than_the_token(plane, root):
    parent = await root.issue("web", "parent", "role:create,resource:mcptokens", "role:run,resource:tools")

    child = await root.holding(parent.bearer).issue("web", "child", rbac="clone")

    shown = await root.ask(rbac.get_bindings, project="web", name="child", sha=child.token.id)
    assert sorted(map(str, shown.bindings)) == ["role:create,resource:mcptokens", "role:run,resource:tools"]


async def test_the_bindings_of_a_token_are_answered_and_copied_within_its_project(plane, root):
    first = await root.issue("web", "first", "role:view,resource:servers")
    bus = plane.registry.bus

    def bind(project, sha):
        asked = {"bearer": root.bearer, "project": project, "name": "next", "sha": sha, "copy_of": first.token.id}
        return bus.call(rbac.bind_token, rbac.BindToken(**asked))

    here, there = await bind("web", "0" * 64), await bind("shop", "1" * 64)

    assert [str(each) for each in here.bindings] == ["role:view,resource:servers"]
    assert there.bindings == ()


async def test_the_definitions_of_tokens_are_listed_when_asked_for(plane, root):
    issued = await root.issue("web", "ci", "role:view,resource:servers")
    await root.issue("shop", "cd", "action:logs")

    plain = (await root.ask(rbac.list_definitions)).items
    whole = (await root.ask(rbac.list_definitions, of_tokens=True)).items
    of_web = (await root.ask(rbac.list_token_bindings, project="web")).items

    assert [item.name for item in plain] == ["admins"]
    assert len(whole) == 3
    assert {sha: [str(each) for each in held] for sha, held in of_web.items()} == {
        issued.token.id: ["role:view,resource:servers"]
    }
