"""Issuing mcptokens: for how long, with whose rights, in place of which."""

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from mcpctl.actors.token_registry.issuing import Binder, Issuer, NewToken, clear_name, insert
from mcpctl.actors.token_registry.rbac_calls import RbacCalls
from mcpctl.actors.token_registry.rows import BearerRow
from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound, Unauthenticated

DAY = 86400


def seconds_of(issued):
    """Return how long a new token lasts."""
    return round((issued.token.expires_at - issued.token.created_at).total_seconds())


async def bindings_of(root, issued):
    shown = issued.token
    answer = await root.ask(rbac.get_bindings, project=shown.project, name=shown.name, sha=shown.id)
    return [str(binding) for binding in answer.bindings]


@pytest.fixture
async def ann(plane, root):
    """One who manages the mcptokens of web, and holds a little more there."""
    await root.add_user("ann")
    rights = ("role:edit,resource:mcptokens", "role:view,resource:servers")
    await root.grant("ann", "User:ann", *rights, project="web")
    return await plane.login("ann")


# How long


async def test_without_a_word_a_token_lasts_thirty_days(root):
    assert seconds_of(await root.issue("web", "ci")) == 30 * DAY


async def test_a_token_lasts_as_long_as_asked(plane, root):
    plane.clock.ahead_ms = 1000 * DAY * 1000  # the registry's clock counts, not this one
    at = datetime.now(UTC) + timedelta(days=1003)

    assert seconds_of(await root.issue("web", "a", ttl_seconds=60)) == 60
    assert abs((await root.issue("web", "b", expires_at=at)).token.expires_at - at) < timedelta(seconds=1)
    assert (await root.issue("web", "c", never_expires=True)).token.expires_at is None


@pytest.fixture
async def root(plane):
    """The first user, whose session outlives the clock's leaps."""
    first = await plane.bootstrap()
    for project in ("web", "shop"):
        await first.create_project(project)
    await first.ask(token.create_service_account, name="robot", groups=("admins",))
    robot = await first.ask(token.issue_service_account_token, name="robot", ttl_seconds=None)
    return first.holding(robot.bearer)


@pytest.mark.parametrize(
    "fields",
    [
        {"ttl_seconds": 60, "never_expires": True},
        {"expires_at": datetime(2999, 1, 1, tzinfo=UTC), "never_expires": True},
        {"expires_at": datetime(2999, 1, 1, tzinfo=UTC), "ttl_seconds": 60},
    ],
)
async def test_two_lengths_at_once_are_refused(root, fields):
    with pytest.raises(BadRequest, match="at most one"):
        await root.issue("web", "ci", **fields)


async def test_a_time_that_is_past_by_the_registrys_clock_is_refused(plane, root):
    soon = datetime.now(UTC) + timedelta(days=1)
    await root.issue("web", "first", expires_at=soon)
    plane.clock.ahead_ms = 2 * DAY * 1000

    with pytest.raises(BadRequest, match="past"):
        await root.issue("web", "second", expires_at=soon)


async def test_a_project_caps_the_default_silently_and_refuses_more(root):
    await root.create_project("short", max_token_ttl="7d")

    assert seconds_of(await root.issue("short", "default")) == 7 * DAY
    assert seconds_of(await root.issue("short", "less", ttl_seconds=3600)) == 3600
    assert seconds_of(await root.issue("short", "exactly", ttl_seconds=7 * DAY)) == 7 * DAY
    for fields in (
        {"ttl_seconds": 7 * DAY + 1},
        {"never_expires": True},
        {"expires_at": datetime(2999, 1, 1, tzinfo=UTC)},
    ):
        with pytest.raises(Forbidden, match="1w"):
            await root.issue("short", "more", **fields)


async def test_a_cap_above_the_default_does_not_lengthen_it(root):
    await root.create_project("long", max_token_ttl="60d")

    assert seconds_of(await root.issue("long", "ci")) == 30 * DAY


async def test_a_project_that_is_not_there_is_refused(root):
    with pytest.raises(NotFound, match="no project nowhere"):
        await root.issue("nowhere", "ci")


async def test_nothing_is_issued_while_no_catalog_answers(plane, root):
    await plane.catalog.stop()

    with pytest.raises(Exception, match="no catalog actor answers"):
        await root.issue("web", "ci")


# With what


async def test_a_clone_holds_what_its_issuer_holds_there(plane, root, ann):
    clone = await ann.issue("web", "clone", rbac="clone")
    empty = await ann.issue("web", "empty")

    assert sorted(await bindings_of(root, clone)) == ["role:edit,resource:mcptokens", "role:view,resource:servers"]
    assert await bindings_of(root, empty) == []
    assert (await ann.holding(clone.bearer).ask(token.list_tokens, project="web")).items
    with pytest.raises(Forbidden):
        await ann.holding(empty.bearer).ask(token.list_tokens, project="web")


async def test_labels_and_parent_are_shown(root):
    top = await root.issue("web", "top", "role:create,resource:mcptokens", labels={"team": "web"})

    child = await root.holding(top.bearer).issue("web", "child")

    assert (top.token.labels, top.token.parent) == ({"team": "web"}, None)
    assert child.token.parent == "top"
    told = await root.ask(token.describe, project="web", name="child")
    assert told.model_dump(exclude={"owner"}) == child.token.model_dump(exclude={"owner"})


async def test_a_revoked_token_shows_when(root):
    await root.issue("web", "ci")

    revoked = await root.ask(token.revoke, project="web", name="ci")

    assert revoked.revoked_at >= revoked.created_at


# In place of another


async def test_force_revokes_the_active_one_with_its_tree_and_takes_the_name(plane, root):
    old = await root.issue("web", "ci", "role:create,resource:mcptokens")
    child = await root.holding(old.bearer).issue("web", "child")

    new = await root.issue("web", "ci", force=True)

    assert (await plane.resolve(new.bearer)).name == "ci"
    for gone in (old, child):
        with pytest.raises(Unauthenticated, match="revoked"):
            await plane.resolve(gone.bearer)
    assert (await root.ask(token.describe, project="web", name="ci")).id == new.token.id
    assert await bindings_of(root, old) == []


async def test_force_needs_no_token_to_replace(plane, root):
    issued = await root.issue("web", "ci", force=True)

    assert (await plane.resolve(issued.bearer)).name == "ci"


async def test_where_the_new_one_is_refused_the_old_one_lives_on(plane, root, ann):
    old = await ann.issue("web", "ci", "role:view,resource:servers")
    heard = await plane.listen()

    with pytest.raises(Forbidden, match="role:run,resource:servers"):
        await ann.issue("web", "ci", "role:run,resource:servers", force=True)

    assert (await plane.resolve(old.bearer)).name == "ci"
    assert await bindings_of(root, old) == ["role:view,resource:servers"]
    (only,) = (await root.ask(token.list_tokens, project="web")).items
    assert only == old.token.model_copy(update={"last_use": only.last_use})
    assert heard.empty()


async def test_a_token_does_not_replace_itself_by_force(plane, root):
    own = await root.issue("web", "ci", "role:edit,resource:mcptokens")

    with pytest.raises(Conflict, match="rotate it"):
        await root.holding(own.bearer).issue("web", "ci", force=True)

    assert (await plane.resolve(own.bearer)).name == "ci"


async def test_of_two_forced_issues_at_once_one_is_left(plane, root):
    await root.issue("web", "ci")

    await asyncio.gather(*(root.issue("web", "ci", force=True) for _ in range(4)))

    items = (await root.ask(token.list_tokens, project="web")).items
    assert sorted(item.status for item in items) == ["active", "revoked", "revoked", "revoked", "revoked"]


async def test_a_token_is_told_its_owner_but_not_what_else_that_one_may_do(root):
    above = await root.issue("web", "above", "role:create,resource:mcptokens")
    below = await root.holding(above.bearer).issue("web", "below")

    said = await root.ask(token.whoami, bearer=below.bearer)

    assert (said.name, said.owner.groups, said.parents) == ("below", (), ())


async def test_replacing_by_force_takes_the_right_to_delete(plane, root):
    other = await root.issue("web", "other")
    await root.add_user("ann")
    await root.grant("creators", "User:ann", "role:create,resource:mcptokens", project="web")
    ann = await plane.login("ann")

    with pytest.raises(Forbidden, match="the right to delete it"):
        await ann.issue("web", "other", force=True)

    assert (await plane.resolve(other.bearer)).name == "other"
    assert (await ann.issue("web", "new", force=True)).token.status == "active"


async def test_a_token_replaces_by_force_only_what_was_issued_below_it(plane, root):
    other = await root.issue("web", "other")
    own = root.holding((await root.issue("web", "own", "role:edit,resource:mcptokens")).bearer)
    await own.issue("web", "child")

    with pytest.raises(Forbidden, match="only what was issued below it"):
        await own.issue("web", "other", force=True)

    assert (await plane.resolve(other.bearer)).name == "other"
    assert (await own.issue("web", "child", force=True)).token.status == "active"


@pytest.mark.parametrize("by", ["name", "id"])
async def test_what_is_revoked_meanwhile_is_not_brought_back_by_an_issue_that_is_given_up(plane, root, by):
    old = await root.issue("web", "ci")

    async with given_up(plane, "ci"):
        if by == "name":
            await root.ask(token.revoke, project="web", name="ci")
        else:
            await root.ask(token.revoke_by_id, id=old.token.id)

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(old.bearer)


@pytest.mark.parametrize("call", [token.revoke_by_id, token.delete_by_id])
async def test_nor_is_what_hangs_on_a_token_that_is_ended_meanwhile(plane, root, call):
    top = await root.issue("web", "top", "role:create,resource:mcptokens")
    child = await root.holding(top.bearer).issue("web", "child")

    async with given_up(plane, "child"):
        await root.ask(call, id=top.token.id)

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(child.bearer)


async def test_nor_is_what_a_user_owned_who_is_deleted_meanwhile(plane, root):
    await root.add_user("ann", "admins")
    issued = await (await plane.login("ann")).issue("web", "ci")

    async with given_up(plane, "ci"):
        await root.ask(token.delete_user, name="ann")
    await root.add_user("ann")

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)


async def test_a_name_that_is_deleted_meanwhile_takes_what_hung_on_it_along(plane, root):
    top = await root.issue("web", "top", "role:create,resource:mcptokens")
    child = await root.holding(top.bearer).issue("web", "child")

    async with given_up(plane, "top"):
        await root.ask(token.delete, project="web", name="top")

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(child.bearer)


@asynccontextmanager
async def given_up(plane, name):
    """Have root replace an mcptoken of web by force; what is done here is done before the caller gives that up."""
    records = plane.registry._records
    binder = Binder(records, RbacCalls(plane.registry.bus), plane.registry.bus)
    written, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        """The registry's records, whose answer to the first write the test can hold up."""

        async def write(self, work):
            result = await records.write(work)
            written.set()
            await go_on.wait()
            return result

    binder._records = Slow()
    copy = NewToken(Issuer("User", "root", "", "User", "root"), "web", name, {}, "", None, 1)

    def place(changing, replaced):
        clear_name(changing, copy, replaced, may_delete=True)
        return insert(changing, copy)

    task = asyncio.create_task(binder.put(place, [copy.sha], []))
    await asyncio.wait_for(written.wait(), 5)
    yield
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_an_issue_that_is_given_up_leaves_everything_as_it_was(plane, root, moment):
    """What the caller does not hear of is undone, also where the rows were written just then."""
    old = await root.issue("web", "ci", "role:view,resource:servers")
    records = plane.registry._records
    binder = Binder(records, RbacCalls(plane.registry.bus), plane.registry.bus)
    written, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        """The registry's records, whose write the test can hold up."""

        async def write(self, work):
            if moment == "before":
                written.set()
                await go_on.wait()
                return await records.write(work)
            result = await records.write(work)
            written.set()
            await go_on.wait()
            return result

    binder._records = Slow()

    def place(changing, replaced):
        row = changing.session.get(BearerRow, old.token.id)
        replaced.note([row])
        row.revoked_at, row.active_name = 1, None
        changing.session.add(row)
        copy = BearerRow(**(row.model_dump() | {"sha": "f" * 64, "revoked_at": None, "active_name": "web/ci"}))
        changing.session.flush()
        changing.session.add(copy)

    bindings = (Binding.parse("role:view,resource:servers"),)
    bind = rbac.BindToken(bearer=root.bearer, project="web", name="ci", sha="f" * 64, bindings=bindings)
    task = asyncio.create_task(binder.put(place, ["f" * 64], [bind]))
    await asyncio.wait_for(written.wait(), 5)
    task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    (only,) = (await root.ask(token.list_tokens, project="web")).items
    assert (only.id, only.status) == (old.token.id, "active")
    assert (await root.ask(token.describe, project="web", name="ci")).id == old.token.id
    found = await root.ask(rbac.get_bindings, project="web", name="ci", sha="f" * 64)
    assert found.bindings == ()
    with pytest.raises(Conflict, match="active mcptoken ci already"):
        await root.issue("web", "ci")


async def test_tokens_of_a_deleted_project_do_not_come_back_with_it(plane, root):
    issued = await root.issue("web", "ci")
    await root.ask(catalog.delete_project, name="web")
    await root.create_project("web")

    with pytest.raises(Unauthenticated, match="revoked"):
        await plane.resolve(issued.bearer)
