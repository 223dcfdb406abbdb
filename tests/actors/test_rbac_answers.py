"""`check` as a person reads it: for arguments, for another, and with what comes nearest to a yes."""

import pytest

from mcpctl.bus.contracts import rbac
from mcpctl.bus.errors import BadRequest, Forbidden, NotFound, Unauthenticated

ACME = 'role:run,resource:tools,name:github/create_*,when:{"repo":{"glob":"acme/*"}}'


@pytest.fixture
async def ann(plane, root):
    """A user to whom nothing is granted yet."""
    await root.add_user("ann")
    return await plane.login("ann")


async def ask(who, verb, resource, name=None, project="web", **more):
    return await who.ask(rbac.check, verb=verb, resource=resource, name=name, project=project, **more)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [({"repo": "acme/site"}, True), ({"repo": "other/site"}, False), ({"repo": 1}, False), ({}, False), (None, False)],
)
async def test_a_condition_decides_by_the_arguments(plane, root, ann, arguments, allowed):
    await root.grant("callers", "User:ann", ACME, project="web")

    verdict = await ask(ann, "run", "tools", "github/create_issue", arguments=arguments)

    assert verdict.allowed is allowed
    assert allowed or "argument repo must be like acme/*" in verdict.reason


async def test_the_view_of_a_tool_has_no_conditions(plane, root, ann):
    await root.grant("callers", "User:ann", ACME, project="web")

    assert (await ask(ann, "view", "tools", "github/create_issue")).allowed


async def test_what_is_answered_is_what_the_scope_says(plane, root, ann):
    await root.grant("callers", "User:ann", ACME, "role:run,resource:servers,name:time", project="web")
    scope = (await ann.ask(rbac.scope, project="web")).scope

    for tool in ("github/create_issue", "github/delete", "time/now"):
        for arguments in ({"repo": "acme/x"}, {"repo": "x"}, {}):
            verdict = await ask(ann, "run", "tools", tool, arguments=arguments)
            fault = scope.why_not_run(*tool.split("/"), lambda given=arguments: given)

            assert verdict.allowed == (fault is None), (tool, arguments)


# Why not


async def test_a_denial_names_what_comes_nearest_and_what_it_lacks(plane, root, ann):
    held = ("role:view,resource:tools", "role:run,resource:tools,name:gitlab/*", ACME, "role:edit,resource:secrets")
    await root.grant("devs", "User:ann", *held, project="web")

    verdict = await ask(ann, "run", "tools", "github/create_issue", arguments={"repo": "other/x"})

    assert verdict.reason == (
        "user ann may not run tools github/create_issue in project web; nearest: "
        f"definition devs: {ACME} (argument repo must be like acme/*); "
        "definition devs: role:run,resource:tools,name:gitlab/* (for other names); "
        "definition devs: role:view,resource:tools (grants view alone)"
    )


async def test_a_denial_names_three_bindings_at_the_most(plane, root, ann):
    held = [f"role:run,resource:tools,name:server{number}/*" for number in range(9)]
    await root.grant("devs", "User:ann", *held, project="web")

    verdict = await ask(ann, "run", "tools", "github/get")

    assert verdict.reason.count("definition devs") == 3
    assert "\n" not in verdict.reason


@pytest.mark.parametrize(
    ("held", "asked", "lacks"),
    [
        ("role:edit,resource:servers,name:git*", ("create", "servers", "github"), "a name grants no create"),
        ("role:view,resource:servers,name:git*", ("view", "servers", None), "the question names none"),
        ("role:run,resource:servers,name:gitlab", ("run", "tools", "github/get"), "for other names"),
        ("role:delete,resource:*", ("edit", "servers", "github"), "grants delete, view alone"),
    ],
)
async def test_what_the_nearest_binding_lacks_is_said(plane, root, ann, held, asked, lacks):
    await root.grant("devs", "User:ann", held, project="web")

    verdict = await ask(ann, *asked)

    assert not verdict.allowed
    assert f"nearest: definition devs: {held} (" in verdict.reason
    assert lacks in verdict.reason


# For another


async def test_who_may_impersonate_asks_for_a_user_and_an_account(plane, root, ann):
    await root.grant("devs", "User:ann", "role:view,resource:servers", project="web")

    allowed = await ask(root, "view", "servers", subject="User:ann")
    denied = await ask(root, "edit", "servers", subject="User:ann")

    assert (allowed.allowed, allowed.kind, allowed.name) == (True, "User", "ann")
    assert denied.reason.startswith("user ann may not edit servers in project web; nearest: definition devs")


async def test_who_may_not_impersonate_asks_for_nobody(plane, root, ann):
    with pytest.raises(Forbidden, match="impersonate"):
        await ask(ann, "view", "servers", subject="User:root")


async def test_who_may_impersonate_in_one_project_asks_there_alone(plane, root, ann):
    await root.grant("helpdesk", "User:ann", "action:impersonate", project="web")

    assert (await ask(ann, "view", "servers", subject="User:root")).allowed
    for project in ("shop", None):
        with pytest.raises(Forbidden, match="impersonate"):
            await ask(ann, "view", "servers", project=project, subject="User:root")


@pytest.mark.parametrize(
    ("subject", "error"),
    [
        ("User:nobody", NotFound),
        ("McpToken:nothing", NotFound),
        ("Group:admins", BadRequest),
        ("ann", BadRequest),
    ],
)
async def test_nobody_is_taken_for_somebody(plane, root, subject, error):
    with pytest.raises(error):
        await ask(root, "view", "servers", subject=subject)


async def test_an_unknown_bearer_asks_for_nobody(plane, root):
    with pytest.raises(Unauthenticated):
        await ask(root, "view", "servers", bearer="mcpctl_pat_nothing", subject="User:root")


async def test_an_operator_sees_what_the_owner_lacks_and_the_token_does_not(plane, root, ann):
    rights = ("role:create,resource:mcptokens", "role:run,resource:tools")
    await root.grant("devs", "User:ann", *rights, project="web")
    issued = await ann.issue("web", "ci", "role:run,resource:tools,name:github/*")
    await root.ask(rbac.delete_definition, name="devs")
    await root.grant("devs", "User:ann", "role:run,resource:tools,name:gitlab/*", project="web")
    denied = "its owner may not run tools github/get in project web"

    own = await ask(ann.holding(issued.bearer), "run", "tools", "github/get")
    told = await ask(root, "run", "tools", "github/get", subject="McpToken:ci")

    assert own.reason == denied
    assert told.reason == f"{denied}; nearest: definition devs: role:run,resource:tools,name:gitlab/* (for other names)"
    assert (told.kind, told.name, told.owner) == ("McpToken", "ci", "ann")


async def test_a_token_that_may_impersonate_sees_no_more_of_its_owner(plane, root):
    issued = await root.issue("web", "spy", "action:impersonate")
    await root.issue("web", "ci", "role:run,resource:tools,name:github/*")
    spy = root.holding(issued.bearer)
    await root.add_user("bob")
    await root.grant("bobs", "User:bob", "role:create,resource:mcptokens", "role:run,resource:tools", project="web")
    bob = await plane.login("bob")
    await bob.issue("web", "his", "role:run,resource:tools")
    await root.ask(rbac.delete_definition, name="bobs")
    await root.grant("bobs", "User:bob", "role:view,resource:tools", project="web")

    verdict = await ask(spy, "run", "tools", "github/get", subject="McpToken:his")

    assert verdict.reason == "its owner may not run tools github/get in project web"
