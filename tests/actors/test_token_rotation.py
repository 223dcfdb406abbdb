"""Rotation: a new bearer under the same name."""

import asyncio

import pytest

from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated

HOUR = 3600
ISSUE = "role:create,resource:mcptokens"


async def rotate(operator, name, **fields):
    return await operator.ask(token.rotate, project="web", name=name, **fields)


async def bindings_of(root, issued):
    answer = await root.ask(rbac.get_bindings, project="web", name=issued.token.name, sha=issued.token.id)
    return [str(binding) for binding in answer.bindings]


async def test_both_bearers_work_until_the_overlap_ends(plane, root):
    old = await root.issue("web", "ci", "role:view,resource:servers", labels={"a": "b"}, description="builds")

    new = await rotate(root, "ci", overlap_seconds=HOUR)

    assert (new.token.name, new.token.labels, new.token.description) == ("ci", {"a": "b"}, "builds")
    assert await bindings_of(root, new) == await bindings_of(root, old) == ["role:view,resource:servers"]
    for bearer in (old.bearer, new.bearer):
        assert (await plane.resolve(bearer)).name == "ci"
    assert (await root.ask(token.describe, project="web", name="ci")).id == new.token.id
    plane.clock.ahead_ms = HOUR * 1000 + 1000
    with pytest.raises(Unauthenticated, match="expired"):
        await plane.resolve(old.bearer)
    assert (await plane.resolve(new.bearer)).name == "ci"


async def test_without_overlap_the_old_one_ends_at_once_with_its_tree(plane, root):
    old = await root.issue("web", "ci", ISSUE)
    child = await root.holding(old.bearer).issue("web", "child")

    new = await rotate(root, "ci", overlap_seconds=0)

    for gone in (old, child):
        with pytest.raises(Unauthenticated, match="revoked"):
            await plane.resolve(gone.bearer)
    assert (await plane.resolve(new.bearer)).name == "ci"
    assert await bindings_of(root, old) == []


async def test_the_overlap_ends_the_old_ones_children_too_and_is_told(plane, root):
    old = await root.issue("web", "ci", ISSUE)
    child = await root.holding(old.bearer).issue("web", "child", never_expires=True)
    brief = await root.holding(old.bearer).issue("web", "brief", ttl_seconds=60)
    heard = await plane.listen()

    new = await rotate(root, "ci", overlap_seconds=HOUR)

    told = [(await asyncio.wait_for(heard.get(), 5)).change for _ in range(3)]
    assert {(change.key, change.action) for change in told} == {
        (new.token.id, "created"),
        (old.token.id, "changed"),
        (child.token.id, "changed"),
    }
    assert (await plane.resolve(child.bearer)).expires_in_ms <= HOUR * 1000
    assert (await plane.resolve(brief.bearer)).expires_in_ms <= 60_000


async def test_a_token_that_ends_before_the_overlap_does_is_not_prolonged(plane, root):
    old = await root.issue("web", "ci", ttl_seconds=60)

    await rotate(root, "ci", overlap_seconds=HOUR)

    assert (await plane.resolve(old.bearer)).expires_in_ms <= 60_000


@pytest.mark.parametrize("seconds", [60, None])
async def test_the_new_one_lasts_as_long_as_the_old_one_did(plane, root, seconds):
    await root.issue("web", "ci", **({"never_expires": True} if seconds is None else {"ttl_seconds": seconds}))
    plane.clock.ahead_ms = 30_000

    new = (await rotate(root, "ci")).token

    lasts = None if new.expires_at is None else round((new.expires_at - new.created_at).total_seconds())
    assert lasts == seconds


async def test_a_given_length_counts_for_the_new_one_within_the_projects_cap(plane, root):
    await root.issue("web", "ci", ttl_seconds=60)
    await root.create_project("short", max_token_ttl="1d")
    await root.issue("short", "ci")

    new = (await rotate(root, "ci", ttl_seconds=HOUR)).token

    assert round((new.expires_at - new.created_at).total_seconds()) == HOUR
    with pytest.raises(Forbidden, match="1d"):
        await root.ask(token.rotate, project="short", name="ci", never_expires=True)
    with pytest.raises(BadRequest, match="at most one"):
        await rotate(root, "ci", ttl_seconds=60, never_expires=True)


async def test_the_new_one_belongs_to_who_rotates_and_holds_no_more_than_he(plane, root):
    await root.add_user("ann")
    await root.grant("ann", "User:ann", "role:edit,resource:mcptokens", "role:view,resource:servers", project="web")
    ann = await plane.login("ann")
    await root.issue("web", "ci", "role:view,resource:servers")
    strong = await root.issue("web", "strong", "role:run,resource:servers")

    new = await rotate(ann, "ci")
    with pytest.raises(Forbidden, match="role:run,resource:servers"):
        await rotate(ann, "strong")

    assert new.token.owner.name == "ann"
    assert (await plane.resolve(strong.bearer)).expires_in_ms > HOUR * 1000 * 2
    assert (await root.ask(token.describe, project="web", name="strong")).id == strong.token.id


async def test_a_token_rotates_itself_and_stays_where_it_is(plane, root):
    top = await root.issue("web", "top", ISSUE)
    middle = await root.holding(top.bearer).issue("web", "middle", ISSUE)

    new = await rotate(root.holding(middle.bearer), "middle")

    assert (await plane.resolve(new.bearer)).parents == (top.token.id,)
    await root.ask(token.revoke, project="web", name="top")
    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(new.bearer)


async def test_a_token_rotates_what_is_below_it_and_nothing_else(plane, root):
    top = await root.issue("web", "top", ISSUE)
    middle = await root.holding(top.bearer).issue("web", "middle", ISSUE)
    await root.holding(middle.bearer).issue("web", "low")
    await root.issue("web", "other")

    low = await rotate(root.holding(top.bearer), "low")

    assert (await plane.resolve(low.bearer)).parents == (top.token.id, middle.token.id)
    for name in ("top", "other"):
        with pytest.raises(Forbidden, match="below it"):
            await rotate(root.holding(middle.bearer), name)


async def test_a_token_that_another_owner_rotates_leaves_the_tree(plane, root):
    """The tokens above are not his: his must not end with them."""
    top = await root.issue("web", "top", ISSUE)
    await root.holding(top.bearer).issue("web", "child")
    await root.add_user("ann", "admins")

    new = await rotate(await plane.login("ann"), "child")

    assert (await plane.resolve(new.bearer)).parents == ()
    assert new.token.owner.name == "ann"


async def test_a_child_does_not_outlive_its_parent_by_rotation(plane, root):
    top = await root.issue("web", "top", ISSUE, ttl_seconds=60)
    await root.holding(top.bearer).issue("web", "child")

    new = await rotate(root, "child", ttl_seconds=HOUR)

    assert new.token.expires_at == top.token.expires_at


async def test_a_token_does_not_put_off_its_own_end_by_rotation(plane, root):
    brief = await root.issue("web", "brief", ISSUE, ttl_seconds=60)

    new = await rotate(root.holding(brief.bearer), "brief", never_expires=True)

    plane.clock.ahead_ms = 61_000
    with pytest.raises(Unauthenticated, match="expired"):
        await plane.resolve(new.bearer)


@pytest.mark.parametrize("overlap", [0, HOUR])
async def test_revoking_a_token_by_its_id_ends_what_it_has_made_of_itself_by_rotation(plane, root, overlap):
    first = await root.issue("web", "ci", ISSUE)
    second = await rotate(root.holding(first.bearer), "ci", overlap_seconds=overlap)
    third = await rotate(root.holding(second.bearer), "ci", overlap_seconds=overlap)

    await root.ask(token.revoke_by_id, id=first.token.id)

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(third.bearer)


async def test_revoking_the_old_one_by_its_id_leaves_what_an_operator_has_made_of_it(plane, root):
    old = await root.issue("web", "ci")
    new = await rotate(root, "ci")

    await root.ask(token.revoke_by_id, id=old.token.id)

    assert (await plane.resolve(new.bearer)).name == "ci"


async def test_rotating_anothers_token_takes_the_right_to_delete(plane, root):
    old = await root.issue("web", "ci")
    await root.add_user("ann")
    await root.grant("creators", "User:ann", ISSUE, project="web")
    ann = await plane.login("ann")
    await ann.issue("web", "own")

    with pytest.raises(Forbidden, match="the right to delete it"):
        await rotate(ann, "ci", overlap_seconds=0)

    assert (await plane.resolve(old.bearer)).name == "ci"
    assert (await rotate(ann, "own")).token.status == "active"


async def test_revoking_the_name_ends_the_rotated_one_as_well(plane, root):
    old = await root.issue("web", "ci")
    new = await rotate(root, "ci")

    await root.ask(token.revoke, project="web", name="ci")

    for bearer in (old.bearer, new.bearer):
        with pytest.raises(Unauthenticated, match="revoked"):
            await plane.resolve(bearer)


async def test_force_ends_the_rotated_one_as_well(plane, root):
    old = await root.issue("web", "ci")
    await rotate(root, "ci")

    await root.issue("web", "ci", force=True)

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(old.bearer)


async def test_what_is_not_active_is_not_rotated(plane, root):
    await root.issue("web", "gone")
    await root.ask(token.revoke, project="web", name="gone")
    await root.issue("web", "late", ttl_seconds=60)
    plane.clock.ahead_ms = 61_000

    with pytest.raises(Conflict, match="gone is revoked: create one"):
        await rotate(root, "gone")
    with pytest.raises(Conflict, match="late is expired: create one"):
        await rotate(root, "late")
    with pytest.raises(NotFound, match="no mcptoken nobody"):
        await rotate(root, "nobody")


async def test_an_old_bearer_does_not_rotate_any_more(plane, root):
    old = await root.issue("web", "ci", ISSUE)
    await rotate(root.holding(old.bearer), "ci")

    with pytest.raises(Forbidden, match="itself"):
        await rotate(root.holding(old.bearer), "ci")


async def test_of_two_rotations_at_once_one_wins(plane, root):
    await root.issue("web", "ci")

    outcomes = await asyncio.gather(*(rotate(root, "ci") for _ in range(4)), return_exceptions=True)

    won = [outcome for outcome in outcomes if isinstance(outcome, token.IssuedToken)]
    assert won
    assert all(isinstance(outcome, Conflict) for outcome in outcomes if outcome not in won)
    active = [item for item in (await root.ask(token.list_tokens, project="web")).items if item.status == "active"]
    assert len(active) == len(won) + 1
    assert (await root.ask(token.describe, project="web", name="ci")).id in {one.token.id for one in won}


async def test_a_rotation_leaves_an_event(plane, root, events):
    await root.issue("web", "ci")
    new = await rotate(root, "ci")

    assert [(event["kind"], event["project"], event["name"]) for event in events][-1] == ("token.rotate", "web", "ci")
    assert new.bearer not in str(events)
