"""Groups, users, service accounts and mcptokens brought to their documents."""

import asyncio
import re
import threading
from collections import Counter
from datetime import UTC, datetime

import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine, event

from mcpctl.actors.token_registry.demands import AT_ONCE
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import Records, UserRow
from mcpctl.bus.contract import Ref
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.contracts.token import GroupSpec, ServiceAccountSpec, TokenSpec, UserSpec
from mcpctl.bus.errors import BadRequest, BusError, Conflict, Forbidden, NotFound, Unauthenticated

PASSWORD = "correct horse battery staple"
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("a password that is known")


async def apply(operator, **fields):
    return await operator.ask(token.apply_principals, **fields)


def done(applied):
    return [(item.action, item.ref.kind, item.ref.name) for item in applied.items]


async def hash_of(plane, user):
    return next(row.password_hash for row in await plane.rows(UserRow) if row.name == user)


async def names(root, call):
    return [item.name for item in (await root.ask(call)).items]


@pytest.fixture
async def clerk(plane, root):
    """One who manages users and groups, and holds nothing else; deployers hold more."""
    await root.create_group("clerks")
    await root.create_group("deployers")
    await root.grant("clerks", "Group:clerks", "role:edit,resource:users", "role:edit,resource:groups")
    await root.grant("deployers", "Group:deployers", "role:edit,resource:servers")
    await root.add_user("clerk", "clerks")
    return await plane.login("clerk")


EVERYTHING = {
    "groups": (GroupSpec(name="devs", groups=("staff",)), GroupSpec(name="staff", description="all")),
    "users": (UserSpec(name="ann", groups=("devs",), labels={"team": "web"}),),
    "service_accounts": (ServiceAccountSpec(name="ci", groups=("devs",), description="builds"),),
}


async def test_documents_that_name_each_other_are_created_together(plane, root):
    applied = await apply(root, **EVERYTHING)

    assert done(applied) == [
        ("created", "group", "devs"),
        ("created", "group", "staff"),
        ("created", "user", "ann"),
        ("created", "serviceaccount", "ci"),
    ]
    assert (await root.ask(token.get_group, name="devs")).members == ("ServiceAccount:ci", "User:ann")
    assert (await root.ask(token.get_group, name="staff")).members == ("Group:devs",)
    assert (await root.ask(token.get_user, name="ann")).labels == {"team": "web"}


async def test_applying_again_changes_nothing_and_tells_nobody(plane, root, events):
    await apply(root, **EVERYTHING)
    heard = await plane.listen()
    events.clear()

    again = await apply(root, **EVERYTHING)

    assert {item.action for item in again.items} == {"unchanged"}
    assert heard.empty()
    assert events == []


async def test_what_differs_is_configured_and_the_former_shape_is_told(root):
    await apply(root, **EVERYTHING)

    applied = await apply(
        root,
        groups=(GroupSpec(name="devs", groups=()),),
        users=(UserSpec(name="ann", groups=("staff",), disabled=True),),
        service_accounts=(ServiceAccountSpec(name="ci"),),
    )

    assert {item.action for item in applied.items} == {"configured"}
    assert [item.before for item in applied.items] == [
        {"name": "devs", "labels": {}, "description": "", "groups": ["staff"]},
        {"name": "ann", "labels": {"team": "web"}, "groups": ["devs"], "disabled": False},
        {"name": "ci", "labels": {}, "description": "builds", "groups": ["devs"], "router_site": None},
    ]
    ann = await root.ask(token.get_user, name="ann")
    assert (ann.groups, ann.labels, ann.disabled) == (("staff",), {}, True)
    assert (await root.ask(token.get_service_account, name="ci")).groups == ()


async def test_the_former_shape_brings_everything_back(root):
    await apply(root, **EVERYTHING)
    users = await root.ask(token.list_users)
    changed = await apply(root, users=(UserSpec(name="ann"),))

    await apply(root, users=(UserSpec.model_validate(changed.items[0].before),))

    assert await root.ask(token.list_users) == users


async def test_what_is_removed_goes_with_what_it_was_granted(plane, root):
    await apply(root, **EVERYTHING)
    await root.grant("devs", "Group:devs", "role:view,resource:servers")
    refs = (Ref(kind="group", name="devs"), Ref(kind="user", name="ann"), Ref(kind="serviceaccount", name="ci"))

    applied = await apply(root, remove=refs)

    assert {item.action for item in applied.items} == {"removed"}
    assert next(item.before for item in applied.items if item.ref.kind == "user")["groups"] == ["devs"]
    assert await names(root, token.list_groups) == ["admins", "staff"]
    assert await names(root, token.list_users) == ["root"]
    assert await names(root, rbac.list_definitions) == ["admins"]


async def test_a_dry_run_says_the_same_and_does_nothing(plane, root, events):
    await root.create_group("old")
    heard = await plane.listen()
    events.clear()
    wanted = EVERYTHING | {"remove": (Ref(kind="group", name="old"),)}

    planned = await apply(root, **wanted, dry_run=True)

    assert heard.empty()
    assert events == []
    assert await names(root, token.list_groups) == ["admins", "old"]
    assert await names(root, token.list_users) == ["root"]
    assert (await apply(root, **wanted)).items == planned.items


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"users": (UserSpec(name="ann", groups=("nowhere",)),)}, NotFound, "no group nowhere"),
        ({"groups": (GroupSpec(name="a", groups=("b",)), GroupSpec(name="b", groups=("a",)))}, Conflict, "member"),
        ({"users": (UserSpec(name="root", groups=()),)}, Conflict, "last enabled member"),
        ({"remove": (Ref(kind="user", name="root"),)}, Conflict, "last enabled member"),
        ({"remove": (Ref(kind="group", name="admins"),)}, Conflict, "built in"),
        ({"remove": (Ref(kind="user", name="nobody"),)}, NotFound, "nobody"),
        ({"remove": (Ref(kind="server", name="x"),)}, BadRequest, "server"),
        ({"users": (UserSpec(name="ann"), UserSpec(name="ann"))}, BadRequest, "twice"),
        ({"users": (UserSpec(name="a"),), "remove": (Ref(kind="user", name="a"),)}, BadRequest, "twice"),
        ({"users": (UserSpec(name="ann", password_hash="$argon2id$nonsense"),)}, BadRequest, "no argon2 hash"),
        ({"users": (UserSpec(name="ann", password_hash=HASH.replace("m=8", "m=9999999")),)}, BadRequest, "too much"),
    ],
)
async def test_one_fault_and_nothing_is_changed(root, fields, error, text, dry_run):
    good = {"groups": (GroupSpec(name="good"),)}

    with pytest.raises(error, match=text):
        await apply(root, **good | fields, dry_run=dry_run)

    assert await names(root, token.list_groups) == ["admins"]
    assert await names(root, token.list_users) == ["root"]


async def test_the_last_admin_may_be_replaced_by_one_who_can_log_in_only(plane, root):
    demoted = UserSpec(name="root")

    with pytest.raises(Conflict, match="last enabled member"):
        await apply(root, users=(demoted, UserSpec(name="ann", groups=("admins",))))
    await apply(root, users=(demoted, UserSpec(name="ann", groups=("admins",), password_hash=HASH)))

    assert (await root.ask(token.whoami)).owner.groups == ()


@pytest.mark.parametrize("password", ["", "nobody has this password"])
async def test_a_user_of_a_document_cannot_log_in_before_a_password_is_set(plane, root, password):
    await apply(root, users=(UserSpec(name="ann"),))

    with pytest.raises(Unauthenticated):
        await plane.login("ann", password)

    await root.ask(token.edit_user, name="ann", password=PASSWORD)
    await plane.login("ann")


async def test_a_password_hash_carries_a_password_over_and_ends_sessions_where_it_differs(plane, root):
    await root.add_user("ann")
    old = await hash_of(plane, "ann")
    await root.ask(token.edit_user, name="ann", password="another password")
    ann = await plane.login("ann", "another password")

    unchanged = await apply(root, users=(UserSpec(name="ann"),))
    assert (await plane.resolve(ann.bearer)).name == "ann"
    changed = await apply(root, users=(UserSpec(name="ann", password_hash=old),))
    again = await apply(root, users=(UserSpec(name="ann", password_hash=old),))

    assert [run.items[0].action for run in (unchanged, changed, again)] == ["unchanged", "configured", "unchanged"]
    assert "argon2" not in changed.model_dump_json()
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(ann.bearer)
    await plane.login("ann", PASSWORD)


@pytest.mark.parametrize("dry_run", [True, False])
async def test_nobody_applies_what_he_may_not_give(root, clerk, dry_run):
    await root.add_user("ann", "deployers")
    for fields in (
        {"groups": (GroupSpec(name="mine", groups=("deployers",)),)},
        {
            "groups": (GroupSpec(name="inner", groups=("deployers",)),),
            "users": (UserSpec(name="eve", groups=("inner",)),),
        },
        {"users": (UserSpec(name="clerk", groups=("clerks", "deployers")),)},
        {"users": (UserSpec(name="ann", groups=("deployers",), password_hash=HASH),)},
        {"users": (UserSpec(name="eve", groups=("admins",)),)},
        {"users": (UserSpec(name="root", groups=("admins",), password_hash=HASH),)},
        {"remove": (Ref(kind="user", name="root"),)},
    ):
        with pytest.raises((Forbidden, Conflict)):
            await apply(clerk, **fields, dry_run=dry_run)

    assert await names(root, token.list_users) == ["ann", "clerk", "root"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_each_document_takes_the_right_of_its_verb(plane, root, dry_run):
    await root.add_user("viewer")
    await root.add_user("ann")
    await root.grant("viewer", "User:viewer", "role:view,resource:users", "role:create,resource:groups")
    viewer = await plane.login("viewer")

    assert done(await apply(viewer, users=(UserSpec(name="ann"),), dry_run=dry_run)) == [("unchanged", "user", "ann")]
    await apply(viewer, groups=(GroupSpec(name=f"new-{dry_run}".lower()),), dry_run=dry_run)
    for fields, verb in (
        ({"users": (UserSpec(name="eve"),)}, "create users eve"),
        ({"users": (UserSpec(name="ann", disabled=True),)}, "edit users ann"),
        ({"remove": (Ref(kind="user", name="ann"),)}, "delete users ann"),
        ({"service_accounts": (ServiceAccountSpec(name="ci"),)}, "view serviceaccounts ci"),
        ({"groups": (GroupSpec(name="admins", description="x"),)}, "edit groups admins"),
    ):
        with pytest.raises(Forbidden, match=f"may not {verb}"):
            await apply(viewer, **fields, dry_run=dry_run)


@pytest.mark.parametrize("call", [token.apply_principals, token.apply_tokens])
async def test_who_may_see_nothing_is_not_told_what_there_is(plane, root, call):
    await root.issue("web", "there")
    await root.add_user("there")
    await root.add_user("ann")
    ann = await plane.login("ann")
    of_kind = {
        token.apply_principals: lambda name: (
            {"users": (UserSpec(name=name),)},
            {"remove": (Ref(kind="user", name=name),)},
        ),
        token.apply_tokens: lambda name: (
            {"tokens": (TokenSpec(name=name, project="web"),)},
            {"remove": (Ref(kind="mcptoken", name=name, project="web"),)},
        ),
    }

    for there, missing in zip(of_kind[call]("there"), of_kind[call]("other"), strict=True):
        told = []
        for fields in (there, missing):
            with pytest.raises(Forbidden) as refused:
                await ann.ask(call, **fields, dry_run=True)
            told.append(str(refused.value).replace("other", "there"))
        assert told[0] == told[1]


async def test_what_the_asker_may_not_do_is_not_even_rehearsed(plane, root, monkeypatch):
    """A rehearsal holds the registry's lock."""
    await root.add_user("ann")
    await root.grant("viewers", "User:ann", "role:view,resource:groups")
    ann = await plane.login("ann")
    rehearsed = []
    monkeypatch.setattr(Records, "rehearse", lambda *_: rehearsed.append(1))
    chain = tuple(GroupSpec(name=f"g{n}", groups=(f"g{n + 1}",) if n < 400 else ()) for n in range(401))

    with pytest.raises(Forbidden, match="may not create groups"):
        await apply(ann, groups=chain, dry_run=True)

    assert rehearsed == []


async def test_a_token_that_the_asker_may_not_issue_is_not_even_rehearsed(plane, root, monkeypatch):
    await root.add_user("ann")
    await root.grant("viewers", "User:ann", "role:view,resource:mcptokens", project="web")
    await root.issue("web", "ci")
    ann = await plane.login("ann")
    rehearsed = []
    monkeypatch.setattr(Records, "rehearse", lambda *_: rehearsed.append(1))

    with pytest.raises(Forbidden, match="may not create mcptokens new"):
        await apply_tokens(ann, TokenSpec(project="web", name="new"), dry_run=True)
    with pytest.raises(Forbidden, match="may not delete mcptokens ci"):
        await apply_tokens(ann, remove=(Ref(kind="mcptoken", name="ci", project="web"),), dry_run=True)

    assert rehearsed == []


async def test_after_the_first_refusal_no_more_rights_are_asked_for(plane, root, monkeypatch):
    await root.add_user("ann")
    ann = await plane.login("ann")
    asked, decide = [], RbacCalls.decide

    async def note(self, bearer, need, name, project):
        asked.append(name)
        return await decide(self, bearer, need, name, project)

    monkeypatch.setattr(RbacCalls, "decide", note)

    with pytest.raises(Forbidden, match="may not view groups"):
        await apply(ann, groups=tuple(GroupSpec(name=f"g{n}") for n in range(300)))
    left = [task for task in asyncio.all_tasks() if "authorize" in repr(task.get_coro())]
    if left:
        await asyncio.wait(left, timeout=5)

    assert len(asked) <= 2 * AT_ONCE


@pytest.fixture
def read_tables():
    """The tables that the registry's changes read as a whole, from now on, once for each time."""
    found = []

    def note(_connection, _cursor, statement, *_):
        chosen = re.search(r"\sFROM (?:token\.)?(\w+)\s*$", statement)
        if chosen and threading.current_thread().name.startswith("token-write"):
            found.append(chosen[1])

    event.listen(Engine, "before_cursor_execute", note)
    yield found
    event.remove(Engine, "before_cursor_execute", note)


async def test_a_chain_of_groups_does_not_have_them_all_read_for_each_link(root, read_tables):
    """A rehearsal holds the registry's lock: what it takes may not grow with the square of the documents."""
    reads = []
    for count in (5, 50):
        of = f"g{count}-"
        chain = tuple(
            GroupSpec(name=f"{of}{n}", groups=(f"{of}{n + 1}",) if n < count else ()) for n in range(count + 1)
        )
        users = tuple(UserSpec(name=f"u{of}{n}", groups=(f"{of}{n}",)) for n in range(count))
        read_tables.clear()
        await apply(root, groups=chain, users=users)
        reads.append(Counter(read_tables))

    assert reads[0]["groups"] > 0
    assert reads[1] == reads[0] | {"change_counter": reads[1]["change_counter"]}  # one for each change


async def test_a_bad_bearer_applies_nothing(root):
    with pytest.raises(Unauthenticated):
        await apply(root.holding("nonsense"))


async def test_each_thing_that_changes_leaves_the_event_of_its_verb(root, events):
    await apply(root, **EVERYTHING)
    await apply(root, users=(UserSpec(name="ann", disabled=True),), groups=EVERYTHING["groups"])
    await apply(root, remove=(Ref(kind="serviceaccount", name="ci"),))

    assert [(event["kind"], event["name"], event["outcome"], event["principal"]) for event in events] == [
        ("token.create_group", "devs", "allow", "user-root"),
        ("token.create_group", "staff", "allow", "user-root"),
        ("token.create_user", "ann", "allow", "user-root"),
        ("token.create_service_account", "ci", "allow", "user-root"),
        ("token.edit_user", "ann", "allow", "user-root"),
        ("token.delete_service_account", "ci", "allow", "user-root"),
    ]
    assert all("definition admins" in event["rule"] for event in events)


async def test_a_refused_apply_leaves_an_event_that_says_who_was_refused(clerk, events):
    with pytest.raises(Forbidden):
        await apply(clerk, users=(UserSpec(name="clerk", groups=("clerks", "deployers")),))

    (event,) = events
    assert (event["kind"], event["outcome"], event["principal"]) == ("token.apply_principals", "deny", "user-clerk")
    assert "role:edit,resource:servers" in event["detail"]


# Mcptokens

CI = TokenSpec(project="web", name="ci", bindings=(Binding.parse("role:view,resource:servers"),), labels={"a": "b"})


async def apply_tokens(operator, *tokens, **fields):
    return await operator.ask(token.apply_tokens, tokens=tokens, **fields)


async def list_tokens(root):
    return (await root.ask(token.list_tokens)).items


async def test_a_missing_token_is_issued_and_an_active_one_left_alone(plane, root):
    first = await apply_tokens(root, CI)
    second = await apply_tokens(root, CI, CI.model_copy(update={"name": "other", "bindings": ()}))

    assert [item.action for item in (*first.items, *second.items)] == ["created", "unchanged", "created"]
    assert str(first.items[0].ref) == "mcptoken ci of project web"
    (issued,) = first.issued
    assert issued.token.labels == {"a": "b"}
    assert (await plane.resolve(issued.bearer)).name == "ci"
    assert [one.token.name for one in second.issued] == ["other"]
    held = await root.ask(rbac.get_bindings, project="web", name="ci", sha=issued.token.id)
    assert held.bindings == CI.bindings


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_one_that_ended_is_issued_anew(plane, root, end):
    await root.issue("web", "ci", ttl_seconds=60)
    if end == "revoked":
        await root.ask(token.revoke, project="web", name="ci")
    else:
        plane.clock.ahead_ms = 61_000

    applied = await apply_tokens(root, CI)

    assert [item.action for item in applied.items] == ["created"]


async def test_a_document_of_an_active_token_may_have_a_time_that_is_past(root):
    await root.issue("web", "ci")
    past = CI.model_copy(update={"expires_at": datetime(2020, 1, 1, tzinfo=UTC)})

    assert [item.action for item in (await apply_tokens(root, past)).items] == ["unchanged"]
    with pytest.raises(BadRequest, match=r"mcptoken new of project web: .* past"):
        await apply_tokens(root, past.model_copy(update={"name": "new"}))


async def test_what_is_removed_is_revoked(plane, root):
    issued = await root.issue("web", "ci")

    applied = await apply_tokens(root, remove=(Ref(kind="mcptoken", name="ci", project="web"),))

    assert [item.action for item in applied.items] == ["removed"]
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)


@pytest.mark.parametrize("dry_run", [True, False])
async def test_one_refused_token_and_none_is_issued_or_revoked(plane, root, dry_run):
    await root.add_user("ann")
    await root.grant("ann", "User:ann", "role:edit,resource:mcptokens", "role:view,resource:servers", project="web")
    ann = await plane.login("ann")
    kept = await ann.issue("web", "kept")
    strong = TokenSpec(project="web", name="strong", bindings=(Binding.parse("role:run,resource:servers"),))
    remove = (Ref(kind="mcptoken", name="kept", project="web"),)

    with pytest.raises(Forbidden, match="role:run,resource:servers"):
        await apply_tokens(ann, CI, strong, remove=remove, dry_run=dry_run)

    assert [item.id for item in await list_tokens(root)] == [kept.token.id]
    assert (await plane.resolve(kept.bearer)).name == "kept"
    assert await names(root, rbac.list_definitions) == ["admins", "ann"]


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"tokens": (CI.model_copy(update={"project": "nowhere"}),)}, NotFound, "no project nowhere"),
        ({"tokens": (CI, CI)}, BadRequest, "twice"),
        ({"remove": (Ref(kind="mcptoken", name="ci"),)}, BadRequest, "belongs to a project"),
        ({"remove": (Ref(kind="mcptoken", name="ci", project="web"),)}, NotFound, "no mcptoken ci"),
        ({"remove": (Ref(kind="user", name="root"),)}, BadRequest, "user"),
        ({"tokens": (CI.model_copy(update={"ttl_seconds": 5, "never_expires": True}),)}, BadRequest, "at most one"),
    ],
)
async def test_a_fault_in_one_token_document_issues_none(root, fields, error, text, dry_run):
    with pytest.raises(error, match=text):
        await root.ask(token.apply_tokens, **fields, dry_run=dry_run)

    assert await list_tokens(root) == ()


async def test_a_dry_run_takes_projects_to_come_for_granted_and_issues_nothing(root):
    wanted = CI.model_copy(update={"project": "later"})

    planned = await apply_tokens(root, CI, wanted, projects={"later": None}, dry_run=True)

    assert [item.action for item in planned.items] == ["created", "created"]
    assert planned.issued == ()
    assert await list_tokens(root) == ()
    assert await names(root, rbac.list_definitions) == ["admins"]
    with pytest.raises(NotFound, match="no project later"):
        await apply_tokens(root, wanted, projects={"later": None})


async def test_a_projects_cap_counts_for_documents_too(root):
    await root.create_project("short", max_token_ttl="1d")

    applied = await apply_tokens(root, CI.model_copy(update={"project": "short"}))
    with pytest.raises(Forbidden, match=r"mcptoken never of project short: .*1d"):
        await apply_tokens(
            root, CI.model_copy(update={"project": "short", "name": "never", "never_expires": True}), dry_run=True
        )

    lasts = applied.issued[0].token.expires_at - applied.issued[0].token.created_at
    assert lasts.days == 1


async def test_tokens_take_the_rights_of_their_verbs(plane, root):
    await root.add_user("viewer")
    await root.grant("viewer", "User:viewer", "role:view,resource:mcptokens", project="web")
    viewer = await plane.login("viewer")
    await root.issue("web", "ci")

    assert [item.action for item in (await apply_tokens(viewer, CI)).items] == ["unchanged"]
    with pytest.raises(Forbidden, match="may not create mcptokens new in project web"):
        await apply_tokens(viewer, TokenSpec(project="web", name="new"), dry_run=True)
    with pytest.raises(Forbidden, match="may not delete mcptokens ci in project web"):
        await apply_tokens(viewer, remove=(Ref(kind="mcptoken", name="ci", project="web"),))


async def test_no_answer_tells_an_mcptoken_the_groups_of_its_owner(root):
    above = await root.issue("web", "above", "role:edit,resource:mcptokens")
    agent, of_web = root.holding(above.bearer), {"project": "web"}
    below = await agent.issue("web", "below")
    applied = await apply_tokens(agent, TokenSpec(project="web", name="applied"))

    told = [
        below.token,
        applied.issued[0].token,
        await agent.ask(token.describe, **of_web, name="below"),
        *(await agent.ask(token.list_tokens, **of_web)).items,
        await agent.ask(token.get_by_id, id=above.token.id),
        (await agent.ask(token.rotate, **of_web, name="below")).token,
        await agent.ask(token.revoke, **of_web, name="below"),
        await agent.ask(token.revoke_by_id, id=applied.issued[0].token.id),
    ]

    assert {each.owner for each in told} == {token.Owner(kind="User", name="root")}
    assert (await root.ask(token.describe, **of_web, name="above")).owner.groups == ("admins",)


async def test_of_two_applies_at_once_one_issues(root):
    outcomes = await asyncio.gather(*(apply_tokens(root, CI) for _ in range(4)), return_exceptions=True)

    assert all(isinstance(outcome, token.AppliedTokens | BusError) for outcome in outcomes)
    issued = [one for outcome in outcomes if isinstance(outcome, token.AppliedTokens) for one in outcome.issued]
    assert len(issued) == len(await list_tokens(root)) == 1


async def test_applied_tokens_leave_the_events_of_their_verbs(root, events):
    await root.issue("web", "old")
    events.clear()

    applied = await apply_tokens(root, CI, remove=(Ref(kind="mcptoken", name="old", project="web"),))

    assert [(event["kind"], event["project"], event["name"]) for event in events] == [
        ("token.issue", "web", "ci"),
        ("token.revoke", "web", "old"),
    ]
    assert applied.issued[0].bearer not in str(events)
