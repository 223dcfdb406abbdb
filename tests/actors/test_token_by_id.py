"""Mcptokens by id, introspection, and principals found by subject."""

import pytest

from mcpctl.bus.bearer import mint
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated

INACTIVE = token.Introspection(active=False)
UNKNOWN_ID = "0" * 64


@pytest.fixture
async def viewer(plane, root):
    """One who may view the mcptokens of web."""
    await root.add_user("viewer")
    await root.grant("viewer", "User:viewer", "role:view,resource:mcptokens", project="web")
    return await plane.login("viewer")


@pytest.fixture
async def nobody(plane, root):
    """One without any right."""
    await root.add_user("nobody")
    return await plane.login("nobody")


# By id


async def test_an_id_is_the_bearers_sha_256(root, viewer):
    issued = await root.issue("web", "ci")

    for asker in (root, viewer):
        shown = await asker.ask(token.get_by_id, id=issued.token.id)
        assert (shown.name, shown.project, shown.id) == ("ci", "web", issued.token.id)


@pytest.mark.parametrize("call", [token.get_by_id, token.revoke_by_id, token.delete_by_id])
async def test_what_one_may_not_touch_is_as_if_it_were_not_there(plane, root, nobody, call):
    issued = await root.issue("web", "ci")

    refused = []
    for wanted in (issued.token.id, UNKNOWN_ID):
        with pytest.raises(NotFound) as raised:
            await nobody.ask(call, id=wanted)
        refused.append(str(raised.value))

    assert refused == ["there is no mcptoken with that id"] * 2
    assert (await plane.resolve(issued.bearer)).name == "ci"


@pytest.mark.parametrize("call", [token.revoke_by_id, token.delete_by_id])
async def test_who_may_only_view_changes_nothing(plane, root, viewer, call):
    issued = await root.issue("web", "ci")

    with pytest.raises(NotFound):
        await viewer.ask(call, id=issued.token.id)

    assert (await plane.resolve(issued.bearer)).name == "ci"


async def test_rights_count_in_the_tokens_own_project(root, viewer):
    issued = await root.issue("shop", "ci")

    with pytest.raises(NotFound, match="with that id"):
        await viewer.ask(token.get_by_id, id=issued.token.id)


async def test_a_login_session_has_no_id_here(plane, root):
    own = (await root.ask(token.whoami)).sha

    for call in (token.get_by_id, token.revoke_by_id, token.delete_by_id):
        with pytest.raises(NotFound, match="with that id"):
            await root.ask(call, id=own)
    assert (await plane.resolve(root.bearer)).name == "root"


@pytest.mark.parametrize("call", [token.get_by_id, token.revoke_by_id, token.delete_by_id])
async def test_a_bad_bearer_is_told_so(root, call):
    issued = await root.issue("web", "ci")

    for wanted in (issued.token.id, UNKNOWN_ID):
        with pytest.raises(Unauthenticated):
            await root.holding(mint("pat")).ask(call, id=wanted)


async def test_a_token_sees_and_revokes_itself_without_any_right_and_no_other(plane, root):
    own, other = await root.issue("web", "own"), await root.issue("web", "other")
    holder = root.holding(own.bearer)

    assert (await holder.ask(token.get_by_id, id=own.token.id)).name == "own"
    for call in (token.get_by_id, token.revoke_by_id, token.delete_by_id):
        with pytest.raises(NotFound):
            await holder.ask(call, id=other.token.id)
    with pytest.raises(NotFound):
        await holder.ask(token.delete_by_id, id=own.token.id)
    assert (await holder.ask(token.revoke_by_id, id=own.token.id)).status == "revoked"

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(own.bearer)
    assert (await plane.resolve(other.bearer)).name == "other"


async def test_revoking_and_deleting_by_id_end_the_tree(plane, root):
    for call, end in ((token.revoke_by_id, "revoked"), (token.delete_by_id, "unknown")):
        top = await root.issue("web", "top", "role:create,resource:mcptokens")
        child = await root.holding(top.bearer).issue("web", "child")

        await root.ask(call, id=top.token.id)

        with pytest.raises(Unauthenticated, match=end):
            await plane.resolve(top.bearer)
        with pytest.raises(Unauthenticated, match="revoked"):
            await plane.resolve(child.bearer)


async def test_what_is_done_by_id_leaves_events_with_name_and_project(root, nobody, events):
    issued = await root.issue("web", "ci")
    events.clear()

    with pytest.raises(NotFound):
        await nobody.ask(token.revoke_by_id, id=issued.token.id)
    await root.ask(token.revoke_by_id, id=issued.token.id)
    await root.ask(token.delete_by_id, id=issued.token.id)

    assert [
        (event["kind"], event["project"], event["name"], event["outcome"], event["principal"]) for event in events
    ] == [
        ("token.revoke_by_id", "web", "ci", "deny", "user-nobody"),
        ("token.revoke_by_id", "web", "ci", "allow", "user-root"),
        ("token.delete_by_id", "web", "ci", "allow", "user-root"),
    ]


# Introspection


async def test_a_holder_introspects_its_own_bearer(root):
    issued = await root.issue("web", "ci", "role:view,resource:servers", "action:logs", ttl_seconds=60)

    live = await root.ask(token.introspect, bearer=issued.bearer)

    assert live.model_dump(exclude_none=True) == {
        "active": True,
        "status": "active",
        "name": "ci",
        "project": "web",
        "owner": "root",
        "scope": "role:view,resource:servers action:logs",
        "sub": "token-ci",
        "token_type": "Bearer",
        "iat": int(issued.token.created_at.timestamp()),
        "exp": int(issued.token.expires_at.timestamp()),
    }


async def test_the_own_bearer_may_be_given_as_the_token_too(root):
    issued = await root.issue("web", "ci")

    answer = await root.ask(token.introspect, bearer=issued.bearer, token=issued.bearer)

    assert (answer.active, answer.scope) == (True, "")


async def test_a_session_introspects_itself(root):
    live = await root.ask(token.introspect)

    assert (live.active, live.sub, live.name, live.project, live.scope) == (True, "user-root", "root", None, None)


@pytest.mark.parametrize("bearer", ["", "nonsense", mint("pat"), mint("ses")])
async def test_of_an_unknown_bearer_only_that_is_said(root, bearer):
    assert await root.ask(token.introspect, bearer=bearer) == INACTIVE
    assert await root.ask(token.introspect, token=bearer) == INACTIVE


async def test_one_that_was_real_has_a_status_and_nothing_else(plane, root):
    revoked, late = await root.issue("web", "gone"), await root.issue("web", "late", ttl_seconds=60)
    await root.ask(token.revoke, project="web", name="gone")
    plane.clock.ahead_ms = 61_000

    for issued, status in ((revoked, "revoked"), (late, "expired")):
        wanted = token.Introspection(active=False, status=status)
        assert await root.ask(token.introspect, bearer=issued.bearer) == wanted
        assert await root.ask(token.introspect, token=issued.bearer) == wanted


async def test_who_may_view_a_token_introspects_it_and_nobody_else(root, viewer, nobody):
    here = await root.issue("web", "ci", "role:view,resource:servers")
    there = await root.issue("shop", "ci")

    seen = await viewer.ask(token.introspect, token=here.bearer)

    assert (seen.active, seen.name, seen.scope) == (True, "ci", "role:view,resource:servers")
    assert await nobody.ask(token.introspect, token=here.bearer) == INACTIVE
    assert await viewer.ask(token.introspect, token=there.bearer) == INACTIVE
    await root.ask(token.revoke, project="web", name="ci")
    assert await nobody.ask(token.introspect, token=here.bearer) == INACTIVE


async def test_sessions_of_others_are_nobodys_business(root, nobody):
    assert await root.ask(token.introspect, token=nobody.bearer) == INACTIVE


async def test_a_bad_bearer_introspects_nothing_else(root):
    issued = await root.issue("web", "ci")

    for bearer in (mint("ses"), "nonsense"):
        with pytest.raises(Unauthenticated):
            await root.ask(token.introspect, bearer=bearer, token=issued.bearer)


# Principals by subject


async def find(plane, root, subject, project=None):
    asked = token.FindPrincipal(bearer=root.bearer, subject=subject, project=project)
    return (await plane.evaluator.bus.call(token.find_principal, asked)).principal


async def test_each_kind_of_subject_is_found_with_its_groups(plane, root):
    await root.create_group("staff")
    await root.create_group("devs", groups=("staff",))
    await root.add_user("ann", "devs")
    await root.ask(token.create_service_account, name="ci", groups=("devs",))
    issued = await root.issue("web", "ci")

    for subject in ("User:ann", "ServiceAccount:ci"):
        found = await find(plane, root, subject)
        assert (f"{found.kind}:{found.name}", found.owner.groups) == (subject, ("devs", "staff"))
    for subject, project in (("McpToken:ci", "web"), (f"McpToken:{issued.token.id}", None)):
        found = await find(plane, root, subject, project)
        assert (found.kind, found.name, found.project, found.sha) == ("McpToken", "ci", "web", issued.token.id)


@pytest.mark.parametrize(
    ("subject", "project", "error", "text"),
    [
        ("Group:admins", None, BadRequest, "one of its members"),
        ("McpToken:ci", None, BadRequest, "belongs to a project"),
        ("ann", None, BadRequest, "no subject"),
        ("User:nobody", None, NotFound, "no user nobody"),
        ("ServiceAccount:nobody", None, NotFound, "no service account nobody"),
        ("McpToken:nobody", "web", NotFound, "no active mcptoken nobody in project web"),
        (f"McpToken:{UNKNOWN_ID}", None, NotFound, "no active mcptoken"),
    ],
)
async def test_what_stands_for_nobody_is_refused(plane, root, subject, project, error, text):
    with pytest.raises(error, match=text):
        await find(plane, root, subject, project)


async def test_one_who_can_do_nothing_is_said_to_be_so(plane, root):
    await root.add_user("ann")
    await root.ask(token.edit_user, name="ann", disabled=True)
    gone = await root.issue("web", "gone")
    await root.ask(token.revoke, project="web", name="gone")

    with pytest.raises(Conflict, match="ann is disabled"):
        await find(plane, root, "User:ann")
    with pytest.raises(Conflict, match="gone is revoked"):
        await find(plane, root, f"McpToken:{gone.token.id}")


async def test_a_token_of_another_project_is_not_found_here(plane, root):
    issued = await root.issue("shop", "ci")

    with pytest.raises(NotFound):
        await find(plane, root, f"McpToken:{issued.token.id}", "web")


async def test_only_who_may_impersonate_finds_others(plane, root, nobody):
    with pytest.raises(Forbidden, match="impersonate"):
        await find(plane, nobody, "User:root")
