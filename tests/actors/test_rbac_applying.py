"""Definitions applied as documents: all or none, with the rights and ceilings of the single verbs."""

import asyncio

import pytest

from mcpctl.bus.contract import Ref
from mcpctl.bus.contracts import rbac
from mcpctl.bus.contracts.rbac import Binding, Definition
from mcpctl.bus.errors import BadRequest, Conflict, Forbidden, NotFound

VIEW, EDIT = "role:view,resource:servers", "role:edit,resource:servers"


def document(name, *bindings, subjects=("User:ann",), project="web", **more):
    held = tuple(Binding.parse(text) for text in bindings)
    return Definition(name=name, project=project, subjects=subjects, bindings=held, **more)


async def apply(who, *definitions, remove=(), **more):
    refs = tuple(Ref(kind="rbac", name=name) for name in remove)
    answer = await who.ask(rbac.apply, definitions=definitions, remove=refs, **more)
    return [(item.ref.name, item.action) for item in answer.items]


async def names(who):
    return [item.name for item in (await who.ask(rbac.list_definitions)).items]


@pytest.fixture
def noted(plane):
    """The audit events that the evaluator appends from now on, still on their way to the stream as ever."""
    written = []
    append = plane.evaluator.audit.append

    def note(event) -> "asyncio.Future[None]":
        written.append(event)
        return append(event)

    plane.evaluator.audit.append = note
    return written


@pytest.fixture
async def keeper(plane, root):
    """Ann, who writes the definitions of the project web, and views servers there."""
    await root.add_user("ann")
    await root.grant("keepers", "User:ann", "role:edit,resource:rbac", "role:view,resource:servers", project="web")
    return await plane.login("ann")


async def test_documents_are_created_configured_left_alone_and_removed(plane, root):
    await apply(root, document("same", VIEW), document("other", VIEW), document("old", VIEW))

    done = await apply(
        root,
        document("new", VIEW),
        document("other", EDIT, labels={"team": "a"}),
        document("same", VIEW),
        remove=["old"],
    )

    assert done == [("new", "created"), ("other", "configured"), ("same", "unchanged"), ("old", "removed")]
    assert await names(root) == ["admins", "new", "other", "same"]
    other = await root.ask(rbac.get_definition, name="other")
    assert ([str(each) for each in other.bindings], other.labels) == ([EDIT], {"team": "a"})


async def test_what_was_there_before_brings_it_back(plane, root):
    when = 'role:run,resource:tools,when:{"n":{"in":[1,"a",true]}}'
    first = document("devs", when, VIEW, labels={"a": "b"}, subjects=("User:bob", "Group:x"), project=None)
    await apply(root, first)

    answer = await root.ask(rbac.apply, definitions=(document("devs", EDIT, project=None),))
    before = Definition.model_validate(answer.items[0].before)

    assert await apply(root, before) == [("devs", "configured")]
    assert await apply(root, first) == [("devs", "unchanged")]


async def test_what_is_listed_is_what_apply_takes(plane, root):
    await root.grant("devs", "User:ann", VIEW)
    await root.issue("web", "ci", VIEW)

    listed = (await root.ask(rbac.list_definitions, of_tokens=True)).items

    assert {action for _, action in await apply(root, *listed)} == {"unchanged"}


async def test_a_fault_in_one_document_changes_nothing(plane, root, keeper):
    await root.grant("old", "User:bob", VIEW, project="web")

    with pytest.raises(Forbidden, match="does not hold role:edit,resource:servers in project web"):
        await apply(keeper, document("good", VIEW), document("bad", EDIT), remove=["old"])

    assert await names(root) == ["admins", "keepers", "old"]


async def test_a_dry_run_checks_everything_and_changes_nothing(plane, root, keeper, noted):
    plan = await apply(keeper, document("good", VIEW), dry_run=True)
    with pytest.raises(Forbidden, match="does not hold"):
        await apply(keeper, document("bad", EDIT), dry_run=True)

    assert plan == [("good", "created")]
    assert await names(root) == ["admins", "keepers"]
    assert [(event["kind"], event["outcome"]) for event in noted] == [("rbac.apply", "deny")]


@pytest.mark.parametrize(
    ("action", "needed"),
    [("created", "create"), ("configured", "edit"), ("unchanged", "view"), ("removed", "delete")],
)
async def test_each_change_takes_the_right_of_its_single_verb(plane, root, action, needed):
    await root.add_user("ann")
    await root.grant("there", "User:bob", VIEW, project="web")
    ask = {
        "created": {"definitions": (document("new"),)},
        "configured": {"definitions": (document("there", subjects=("User:bob",)),)},
        "unchanged": {"definitions": (document("there", VIEW, subjects=("User:bob",)),)},
        "removed": {"remove": (Ref(kind="rbac", name="there"),)},
    }[action]
    ann = await plane.login("ann")
    lesser = "role:delete" if action in ("created", "configured") else "role:view"
    if action != "unchanged":
        await root.grant("lesser", "User:ann", f"{lesser},resource:rbac", project="web")

    with pytest.raises(Forbidden, match=f"may not {needed} rbac"):
        await ann.ask(rbac.apply, **ask)
    await root.grant("enough", "User:ann", f"role:{needed},resource:rbac", project="web")
    answer = await ann.ask(rbac.apply, **ask)

    assert [item.action for item in answer.items] == [action]


async def test_who_keeps_one_project_applies_nothing_elsewhere(plane, root, keeper):
    await root.grant("shops", "User:bob", VIEW, project="shop")

    for project in (None, "shop"):
        with pytest.raises(Forbidden, match="may not view rbac"):
            await apply(keeper, document("out", VIEW, project=project))
    for name in ("shops", "missing"):
        with pytest.raises(Forbidden, match=f"there is no definition {name}, or none that you may see"):
            await apply(keeper, remove=[name])
        with pytest.raises(Forbidden) as refused:
            await keeper.ask(rbac.get_definition, name=name)
        assert "shop" not in str(refused.value).replace("shops", "")
    with pytest.raises(Conflict, match="choose another name"):
        await apply(keeper, document("shops", VIEW, project="web"))


async def test_who_may_only_view_is_not_told_which_names_others_have(plane, root):
    await root.grant("shops", "User:bob", VIEW, project="shop")
    await root.add_user("vic")
    await root.grant("viewers", "User:vic", "role:view,resource:rbac", project="web")
    vic = await plane.login("vic")
    told = []

    for name in ("shops", "missing"):
        with pytest.raises(Forbidden, match="may not create rbac") as refused:
            await apply(vic, document(name, VIEW, project="web"))
        told.append(str(refused.value).replace(name, "it"))

    assert told[0] == told[1]


async def test_the_built_in_definition_is_neither_changed_nor_removed(plane, root):
    built_in = await root.ask(rbac.get_definition, name="admins")

    with pytest.raises(Conflict, match="built in"):
        await apply(root, document("admins", VIEW, project=None))
    with pytest.raises(Conflict, match="built in"):
        await apply(root, remove=["admins"])
    assert await apply(root, built_in) == [("admins", "unchanged")]


@pytest.mark.parametrize(
    ("definitions", "remove", "error", "said"),
    [
        ((document("a"), document("a", VIEW)), (), BadRequest, "a is named twice"),
        ((document("a"),), ("a",), BadRequest, "a is named twice"),
        ((), ("gone",), NotFound, "no definition gone"),
        ((document("mcptoken-0"),), (), BadRequest, "kept for mcptokens"),
    ],
)
async def test_documents_that_contradict_are_refused(plane, root, definitions, remove, error, said):
    with pytest.raises(error, match=said):
        await apply(root, *definitions, remove=remove)


async def test_another_kind_is_not_removed_here(plane, root):
    with pytest.raises(BadRequest, match="a user cannot be removed here"):
        await root.ask(rbac.apply, remove=(Ref(kind="user", name="ann"),))


async def test_each_change_leaves_the_event_of_its_single_verb(plane, root, noted):
    await apply(root, document("a", VIEW), document("b", VIEW))
    noted.clear()

    await apply(root, document("c"), document("a"), document("b", VIEW), remove=[])
    await apply(root, remove=["c"])

    assert [(event["kind"], event["name"], event["project"], event["user"]) for event in noted] == [
        ("rbac.define", "c", "web", "root"),
        ("rbac.redefine", "a", "web", "root"),
        ("rbac.delete", "c", "web", "root"),
    ]
    assert all(event["rule"].startswith("definition admins") for event in noted)


async def test_a_token_applies_only_inside_its_project(plane, root):
    ci = root.holding((await root.issue("web", "ci", "role:edit,resource:rbac", VIEW)).bearer)

    assert await apply(ci, document("inside", VIEW)) == [("inside", "created")]
    for project in (None, "shop"):
        with pytest.raises(Forbidden, match="only inside project web"):
            await apply(ci, document("outside", project=project))
