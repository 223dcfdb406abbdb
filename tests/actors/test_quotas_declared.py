"""Quotas as projects and mcptokens declare them: asked over the bus, by the real actors."""

import pytest

from mcpctl.bus.contracts import catalog, token
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden
from mcpctl.bus.quotas import Quota, TokenQuota
from tests.actors import test_catalog
from tests.actors.test_catalog import project, pulled, recorded, start_of_feed
from tests.actors.test_catalog_apply import actions, apply, damaged

root, actor, router = test_catalog.root, test_catalog.actor, test_catalog.router

QUOTA = Quota(requests_per_second=50, burst=100, concurrent_calls=20, streams=10)
LESS = Quota(concurrent_calls=0)


async def quota_in_view(router, root):
    return (await router.call(catalog.view, catalog.GetView(bearer=root.bearer, project="web"))).quota


async def test_a_project_keeps_its_quota_and_routers_are_told_of_each_change(actor, root, router):
    created = await root.ask(catalog.create_project, spec=project("web", quota=QUOTA))
    assert (created.spec.quota, await quota_in_view(router, root)) == (QUOTA, QUOTA)

    start = await start_of_feed(router)
    assert (await root.ask(catalog.edit_project, spec=project("web", quota=LESS))).spec.quota == LESS
    assert await quota_in_view(router, root) == LESS
    assert (await root.ask(catalog.edit_project, spec=project("web", quota=LESS))).revision == 2
    assert actions(await apply(root, project("web", quota=QUOTA))) == {"project/web": "configured"}
    assert actions(await apply(root, project("web", quota=QUOTA))) == {"project/web": "unchanged"}
    assert await quota_in_view(router, root) == QUOTA
    assert actions(await apply(root, project("web"))) == {"project/web": "configured"}
    assert await quota_in_view(router, root) is None
    assert (await root.ask(catalog.edit_project, spec=project("web", quota=Quota()))).spec.quota is None

    assert recorded(await pulled(router, start)) == [("project", "web", "changed")] * 3


async def test_a_backup_keeps_a_projects_quota_and_one_without_the_member_has_none(actor, root):
    await root.ask(catalog.create_project, spec=project("web", quota=QUOTA))
    dump = await root.ask(catalog.backup)

    await root.ask(catalog.restore, dump=damaged(dump, lambda rows: rows["projects"][0].pop("quota")))
    assert (await root.ask(catalog.get_project, name="web")).spec.quota is None
    await root.ask(catalog.restore, dump=dump)
    with pytest.raises(BadRequest, match="its project web is none"):
        await root.ask(
            catalog.restore, dump=damaged(dump, lambda rows: rows["projects"][0].update(quota={"streams": -1}))
        )

    assert (await root.ask(catalog.get_project, name="web")).spec.quota == QUOTA


# Mcptokens

ISSUE = "role:edit,resource:mcptokens"


@pytest.fixture
async def web(actor, root):
    await root.create_project("web")


def counted(issued, first=None):
    """Return the quota of an mcptoken as routers count it."""
    return TokenQuota(sha=(first or issued).token.id, name=issued.token.name, quota=issued.token.quota)


async def quotas(plane, issued):
    return (await plane.resolve(issued.bearer)).quotas


async def test_a_token_is_counted_with_its_own_quota_and_with_those_of_all_above_it(plane, web, root):
    top = await root.issue("web", "top", ISSUE, quota=QUOTA)
    middle = await root.holding(top.bearer).issue("web", "middle", ISSUE)
    low = await root.holding(middle.bearer).issue("web", "low", quota=LESS)

    assert (top.token.quota, middle.token.quota, low.token.quota) == (QUOTA, None, LESS)
    assert await quotas(plane, top) == (counted(top),)
    assert await quotas(plane, middle) == (counted(top),)
    assert await quotas(plane, low) == (counted(low), counted(top))
    told = await root.holding(low.bearer).ask(token.whoami)
    assert (told.quotas, told.parents) == ((counted(low),), ())
    assert (await root.issue("web", "free", quota=Quota())).token.quota is None


async def test_a_token_cannot_widen_or_escape_its_quota(plane, web, root):
    """Not by a document, by force, by rotation, nor by any of what it issues."""
    top = await root.issue("web", "top", ISSUE, quota=LESS)
    itself = root.holding(top.bearer)
    wider = token.TokenSpec(project="web", name="top", quota=QUOTA)

    assert [item.action for item in (await itself.ask(token.apply_tokens, tokens=(wider,))).items] == ["unchanged"]
    with pytest.raises(Conflict, match="cannot replace a token that it hangs on"):
        await itself.issue("web", "top", quota=QUOTA, force=True)
    child = await itself.issue("web", "child", ISSUE, quota=QUOTA)
    with pytest.raises(Conflict, match="cannot replace a token that it hangs on"):
        await root.holding(child.bearer).issue("web", "top", force=True)
    with pytest.raises(Forbidden, match="below it"):
        await root.holding(child.bearer).ask(token.rotate, project="web", name="top")
    again = await itself.ask(token.rotate, project="web", name="top")
    once_more = await root.holding(again.bearer).ask(token.rotate, project="web", name="top")
    new = await root.holding(once_more.bearer).issue("web", "new")

    for bearer in (top, again, once_more):
        assert await quotas(plane, bearer) == (counted(bearer, first=top),)
    assert await quotas(plane, child) == (counted(child), counted(top))
    assert await quotas(plane, new) == (counted(top),)


async def test_a_quota_outlives_rotation_and_restore_and_another_takes_another_token(plane, web, root):
    document = token.TokenSpec(project="web", name="ci", quota=QUOTA)
    old = (await root.ask(token.apply_tokens, tokens=(document,))).issued[0]
    new = await root.ask(token.rotate, project="web", name="ci")
    await root.ask(token.restore, dump=await root.ask(token.backup))

    for bearer in (old, new):
        assert await quotas(plane, bearer) == (counted(bearer, first=old),)
    assert (await root.ask(token.describe, project="web", name="ci")).quota == QUOTA

    other = await root.issue("web", "ci", quota=LESS, force=True)

    assert await quotas(plane, other) == (counted(other),)
    assert {item.id: item.quota for item in (await root.ask(token.list_tokens)).items} == {
        old.token.id: QUOTA,
        new.token.id: QUOTA,
        other.token.id: LESS,
    }
