"""Groups: who is in which, what that gives, and who may say so."""

import asyncio

import pytest

from mcpctl.actors.token_registry.demands import Guarded
from mcpctl.actors.token_registry.membership import add_member
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound

PASSWORD = "correct horse battery staple"


async def groups_of(plane, user):
    login = await plane.login(user)
    return (await plane.resolve(login.bearer)).owner.groups


async def changes(heard, count):
    """Return the next changes as (kind, key, action)."""
    told = [(await asyncio.wait_for(heard.get(), 5)).change for _ in range(count)]
    return {(change.kind, change.key, change.action) for change in told}


@pytest.fixture
async def clerk(plane, root):
    """One who manages users, groups and service accounts, and holds nothing else; deployers hold more."""
    for group in ("clerks", "deployers", "empty"):
        await root.create_group(group)
    rights = [f"role:edit,resource:{resource}" for resource in ("users", "groups", "serviceaccounts")]
    await root.grant("clerks", "Group:clerks", *rights)
    await root.grant("deployers", "Group:deployers", "role:edit,resource:servers")
    await root.add_user("clerk", "clerks")
    return await plane.login("clerk")


async def test_a_group_shows_what_was_said_about_it_and_who_is_in_it(plane, root):
    await root.create_group("staff")
    await root.ask(token.create_service_account, name="ci")

    made = await root.create_group(
        "devs",
        labels={"team": "web"},
        description="who develops",
        groups=("staff",),
        members=("ServiceAccount:ci", "User:root"),
    )

    shown = await root.ask(token.get_group, name="devs")
    listed = await root.ask(token.list_groups)
    assert made == shown
    assert (shown.labels, shown.description, shown.groups) == ({"team": "web"}, "who develops", ("staff",))
    assert shown.members == ("ServiceAccount:ci", "User:root")
    assert [group.name for group in listed.items] == ["admins", "devs", "staff"]
    assert [group.members for group in listed.items] == [("User:root",), shown.members, ("Group:devs",)]


async def test_a_group_name_is_taken_once(plane, root):
    await root.create_group("devs")

    with pytest.raises(Conflict, match="group devs already"):
        await root.create_group("devs")


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        (token.create_user, {"name": "ann", "password": PASSWORD, "groups": ("devs",)}),
        (token.edit_user, {"name": "root", "groups": ("admins", "devs")}),
        (token.create_service_account, {"name": "ci", "groups": ("devs",)}),
        (token.create_group, {"name": "ops", "groups": ("devs",)}),
        (token.edit_group, {"name": "devs", "add_members": ("User:root",)}),
        (token.delete_group, {"name": "devs"}),
        (token.get_group, {"name": "devs"}),
    ],
)
async def test_a_group_that_does_not_exist_is_not_joined(plane, root, call, fields):
    with pytest.raises(NotFound, match="no group devs"):
        await root.ask(call, **fields)


@pytest.mark.parametrize("member", ["User:nobody", "ServiceAccount:nobody", "Group:nobody"])
async def test_a_member_that_does_not_exist_is_refused(plane, root, member):
    with pytest.raises(NotFound, match="nobody"):
        await root.create_group("devs", members=(member,))

    assert [group.name for group in (await root.ask(token.list_groups)).items] == ["admins"]


@pytest.mark.parametrize("member", ["ann", "McpToken:ci", "User:", ""])
async def test_what_is_no_member_is_refused(plane, root, member):
    with pytest.raises(BadRequest, match="no member"):
        await root.create_group("devs", members=(member,))


async def test_members_of_a_nested_group_are_members_of_all_above_it(plane, root):
    await root.create_group("company")
    await root.create_group("staff", groups=("company",))
    await root.add_user("ann")
    await root.create_group("devs", groups=("staff",), members=("User:ann",))

    assert await groups_of(plane, "ann") == ("company", "devs", "staff")
    await root.ask(token.edit_group, name="staff", groups=())
    assert await groups_of(plane, "ann") == ("devs", "staff")


async def test_what_a_group_above_is_granted_its_nested_members_may_do(plane, root):
    await root.add_user("ann")
    await root.create_group("staff")
    await root.create_group("devs", groups=("staff",), members=("User:ann",))
    await root.grant("staff", "Group:staff", "role:view,resource:users")
    ann = await plane.login("ann")

    assert (await ann.ask(token.list_users)).items
    await root.ask(token.edit_group, name="devs", groups=())

    with pytest.raises(Forbidden):
        await ann.ask(token.list_users)


async def test_groups_are_never_members_of_themselves(plane, root):
    await root.create_group("a")
    await root.create_group("b", groups=("a",))
    await root.create_group("c", groups=("b",))

    with pytest.raises(Conflict, match="group a cannot be a member of group c"):
        await root.ask(token.edit_group, name="a", groups=("c",))
    with pytest.raises(Conflict, match="group a cannot be a member of group c"):
        await root.ask(token.edit_group, name="c", add_members=("Group:a",))
    with pytest.raises(Conflict, match="group a cannot be a member of group a"):
        await root.ask(token.edit_group, name="a", groups=("a",))
    assert (await root.ask(token.get_group, name="a")).groups == ()


async def test_members_are_added_and_removed_in_their_own_rows(plane, root):
    await root.add_user("ann")
    await root.ask(token.create_service_account, name="ci")
    await root.create_group("ops")
    await root.create_group("devs", members=("User:ann",))

    await root.ask(
        token.edit_group, name="devs", add_members=("ServiceAccount:ci", "Group:ops"), remove_members=("User:ann",)
    )

    assert (await root.ask(token.get_user, name="ann")).groups == ()
    assert (await root.ask(token.get_service_account, name="ci")).groups == ("devs",)
    assert (await root.ask(token.get_group, name="ops")).groups == ("devs",)
    assert (await root.ask(token.get_group, name="devs")).members == ("Group:ops", "ServiceAccount:ci")


async def test_adding_a_member_twice_changes_nothing(plane, root):
    await root.create_group("devs", members=("User:root",))

    edited = await root.ask(token.edit_group, name="devs", add_members=("User:root",))

    assert edited.members == ("User:root",)
    assert (await root.ask(token.get_user, name="root")).groups == ("admins", "devs")


async def test_one_who_is_both_added_and_removed_is_a_mistake(plane, root):
    await root.create_group("devs")

    with pytest.raises(BadRequest, match="User:root"):
        await root.ask(token.edit_group, name="devs", add_members=("User:root",), remove_members=("User:root",))


async def test_an_edit_leaves_alone_what_it_does_not_name(plane, root):
    await root.create_group("staff")
    await root.create_group("devs", labels={"a": "b"}, description="x", groups=("staff",), members=("User:root",))

    edited = await root.ask(token.edit_group, name="devs", description="y")

    assert (edited.labels, edited.description, edited.groups) == ({"a": "b"}, "y", ("staff",))
    assert edited.members == ("User:root",)


async def test_a_change_of_nesting_is_told_for_everybody_in_it(plane, root):
    await root.create_group("company")
    await root.create_group("staff")
    await root.add_user("ann")
    await root.ask(token.create_service_account, name="ci")
    await root.create_group("devs", groups=("staff",), members=("User:ann",))
    await root.ask(token.edit_group, name="staff", add_members=("ServiceAccount:ci",))
    heard = await plane.listen()

    await root.ask(token.edit_group, name="staff", groups=("company",))

    assert await changes(heard, 3) == {
        ("group", "staff", "changed"),
        ("user", "ann", "changed"),
        ("serviceaccount", "ci", "changed"),
    }


async def test_a_deleted_group_is_told_for_everybody_who_was_in_it_and_its_grants_are_gone(plane, root):
    await root.create_group("staff")
    await root.add_user("ann")
    await root.create_group("devs", groups=("staff",), members=("User:ann",))
    await root.grant("staff", "Group:staff", "role:view,resource:users")
    heard = await plane.listen()

    await root.ask(token.delete_group, name="staff")

    assert await changes(heard, 3) == {
        ("group", "staff", "changed"),
        ("user", "ann", "changed"),
        ("group", "staff", "removed"),
    }
    assert await groups_of(plane, "ann") == ("devs",)
    assert (await root.ask(token.get_group, name="devs")).groups == ()
    assert [item.name for item in (await root.ask(rbac.list_definitions)).items] == ["admins"]


async def test_a_new_group_of_an_old_name_has_no_members(plane, root):
    await root.create_group("devs", members=("User:root",))
    await root.ask(token.delete_group, name="devs")

    assert (await root.create_group("devs")).members == ()


async def test_the_group_admins_cannot_be_deleted(plane, root):
    with pytest.raises(Conflict, match="built in"):
        await root.ask(token.delete_group, name="admins")


async def test_nobody_lets_anybody_into_a_group_that_gives_more_than_he_holds(plane, root, clerk):
    await clerk.create_group("own", members=("User:clerk",))
    for attempt in (
        clerk.create_group("mine", groups=("deployers",)),
        clerk.create_group("mine", groups=("deployers",), members=("User:clerk",)),
        clerk.ask(token.edit_group, name="own", groups=("deployers",)),
        clerk.ask(token.edit_group, name="deployers", add_members=("User:clerk",)),
        clerk.ask(token.edit_group, name="deployers", add_members=("Group:own",)),
        clerk.ask(token.edit_user, name="clerk", groups=("clerks", "deployers")),
        clerk.ask(token.create_service_account, name="mine", groups=("deployers",)),
    ):
        with pytest.raises(Forbidden, match="role:edit,resource:servers"):
            await attempt

    assert (await root.ask(token.get_group, name="deployers")).members == ()


async def test_the_ceiling_counts_the_groups_above(plane, root, clerk):
    await root.create_group("inner", groups=("deployers",))
    await root.create_group("innermost", groups=("inner",))
    await root.ask(token.create_service_account, name="ci")

    for attempt in (
        clerk.create_group("mine", groups=("innermost",)),
        clerk.ask(token.edit_group, name="innermost", add_members=("User:clerk",)),
        clerk.ask(token.create_user, name="eve", password=PASSWORD, groups=("innermost",)),
        clerk.ask(token.edit_service_account, name="ci", groups=("innermost",)),
    ):
        with pytest.raises(Forbidden, match="role:edit,resource:servers"):
            await attempt


async def test_a_grant_to_a_group_to_come_counts_once_it_has_members(plane, root, clerk):
    await root.grant("later", "Group:later", "role:edit,resource:servers")

    with pytest.raises(Forbidden, match="role:edit,resource:servers"):
        await clerk.create_group("later", members=("User:clerk",))
    await clerk.create_group("later")
    with pytest.raises(Forbidden, match="role:edit,resource:servers"):
        await clerk.ask(token.edit_group, name="later", add_members=("User:clerk",))


async def test_nobody_sets_the_password_of_one_who_holds_more_by_a_nested_group(plane, root, clerk):
    await root.create_group("inner", groups=("deployers",))
    await root.add_user("ann", "inner")
    await root.ask(token.create_service_account, name="ci", groups=("inner",))

    with pytest.raises(Forbidden, match="role:edit,resource:servers"):
        await clerk.ask(token.edit_user, name="ann", password="known to the clerk")
    with pytest.raises(Forbidden, match="role:edit,resource:servers"):
        await clerk.ask(token.issue_service_account_token, name="ci")


async def test_only_an_admin_makes_admins_or_touches_them_also_by_nesting(plane, root, clerk):
    await root.grant("escalate", "Group:clerks", "action:escalate")
    await root.create_group("chiefs", groups=("admins",))
    await root.add_user("ann", "chiefs")
    await clerk.create_group("own")

    for attempt in (
        clerk.ask(token.edit_group, name="chiefs", add_members=("User:clerk",)),
        clerk.ask(token.edit_group, name="chiefs", remove_members=("User:ann",)),
        clerk.ask(token.edit_group, name="chiefs", groups=()),
        clerk.ask(token.edit_group, name="admins", add_members=("Group:own",)),
        clerk.ask(token.edit_group, name="own", groups=("chiefs",)),
        clerk.ask(token.delete_group, name="chiefs"),
        clerk.ask(token.edit_user, name="ann", disabled=True),
        clerk.ask(token.edit_user, name="ann", password="known to the clerk"),
        clerk.ask(token.delete_user, name="ann"),
    ):
        with pytest.raises(Forbidden, match="admins"):
            await attempt

    ann = await plane.login("ann")
    await ann.ask(token.edit_group, name="chiefs", add_members=("User:clerk",))
    assert "admins" in await groups_of(plane, "clerk")


async def test_the_last_admin_stays_one_also_by_nesting(plane, root):
    await root.create_group("chiefs", groups=("admins",), members=("User:root",))
    await root.ask(token.edit_group, name="admins", remove_members=("User:root",))

    assert await groups_of(plane, "root") == ("admins", "chiefs")
    for attempt in (
        root.ask(token.edit_group, name="chiefs", groups=()),
        root.ask(token.edit_group, name="chiefs", remove_members=("User:root",)),
        root.ask(token.delete_group, name="chiefs"),
        root.ask(token.edit_user, name="root", groups=()),
    ):
        with pytest.raises(Conflict, match="last enabled member of admins"):
            await attempt


async def test_taking_out_is_free_for_who_may_edit_groups(plane, root, clerk):
    await root.add_user("ann", "deployers")

    edited = await clerk.ask(token.edit_group, name="deployers", remove_members=("User:ann",))

    assert edited.members == ()


async def test_changes_of_groups_leave_events(plane, root, events):
    await root.create_group("devs")
    await root.ask(token.edit_group, name="devs", description="x")
    await root.ask(token.delete_group, name="devs")

    assert [(event["kind"], event["name"], event["outcome"]) for event in events] == [
        (f"token.{verb}_group", "devs", "allow") for verb in ("create", "edit", "delete")
    ]


# Labels and service accounts


async def test_labels_of_users_and_service_accounts_stay_until_they_are_changed(plane, root):
    await root.ask(token.create_user, name="ann", password=PASSWORD, labels={"team": "web"})
    await root.ask(token.create_service_account, name="ci", labels={"team": "web"}, description="builds")
    await root.create_group("devs")

    user = await root.ask(token.edit_user, name="ann", disabled=False)
    account = await root.ask(token.edit_service_account, name="ci", groups=("devs",))

    assert user.labels == account.labels == {"team": "web"}
    assert (account.groups, account.description) == (("devs",), "builds")
    assert (await root.ask(token.edit_user, name="ann", labels={})).labels == {}
    changed = await root.ask(token.edit_service_account, name="ci", labels={"a": "b"}, description="")
    assert (changed.labels, changed.description, changed.groups) == ({"a": "b"}, "", ("devs",))
    assert (await root.ask(token.get_service_account, name="ci")) == changed


async def test_what_is_nested_between_the_check_and_the_commit_is_found(plane, root):
    await root.create_group("staff")
    await root.create_group("devs")
    await root.add_user("ann")
    guarded = Guarded(plane.registry._records, RbacCalls(plane.registry.bus))

    def work(changing, demands):
        add_member(changing, demands, "devs", "User:ann")

    _, demands = await guarded.rehearse(work)
    assert demands.groups == {"devs"}
    await root.ask(token.edit_group, name="devs", groups=("staff",))

    with pytest.raises(Conflict, match="meanwhile"):
        await guarded.commit(work, demands)
    assert (await root.ask(token.get_user, name="ann")).groups == ()
