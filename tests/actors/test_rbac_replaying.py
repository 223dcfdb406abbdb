"""Recorded calls decided anew under documents that are not applied: by the real rules, and never by a guess."""

import pytest
from sqlmodel import select

from mcpctl.actors.changes import position
from mcpctl.actors.rbac_evaluator.rows import DefinitionRow
from mcpctl.bus.contract import Ref
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.contracts.rbac import Binding, Definition, RecordedCall
from mcpctl.bus.errors import Conflict, Forbidden
from tests.actors.conftest import PASSWORD

RUN_GIT = "role:run,resource:servers,name:git"
ACME_ONLY = 'role:run,resource:tools,name:git/push,when:{"repo":{"glob":"acme/*"}}'


def document(name, *bindings, subjects=("User:ann",), project="web"):
    held = tuple(Binding.parse(text) for text in bindings)
    return Definition(name=name, project=project, subjects=subjects, bindings=held)


def own(issued, *bindings):
    """The definition of an mcptoken's own bindings, as a document that changes them."""
    return document(f"mcptoken-{issued.token.id[:32]}", *bindings, subjects=(f"McpToken:{issued.token.id}",))


def called(who, tool="git/push", **more):
    subject = f"McpToken:{who.token.id}" if isinstance(who, token.IssuedToken) else who
    return RecordedCall(
        **({"subject": subject, "project": "web", "verb": "run", "resource": "tools", "name": tool} | more)
    )


async def replay(who, calls, *definitions, remove=()):
    refs = tuple(Ref(kind="rbac", name=name) for name in remove)
    answer = await who.ask(rbac.replay, definitions=definitions, remove=refs, calls=tuple(calls))
    return [item.outcome for item in answer.items], [item.reason for item in answer.items]


@pytest.fixture
async def ci(root):
    """An mcptoken of root's that may run all of the server git."""
    return await root.issue("web", "ci", RUN_GIT)


def kept(session):
    """Return all that the evaluator keeps: definitions, and the number of the last change."""
    return position(session), sorted((row.name, tuple(row.bindings)) for row in session.exec(select(DefinitionRow)))


async def test_calls_are_decided_as_they_would_be_and_nothing_is_applied(plane, root, ci):
    access = called(ci, "web", verb="view", resource="projects")
    calls = [called(ci), called(ci, "git/read"), called(ci, "time/now"), access, called(ci, project="shop")]
    before = await plane.evaluator._policy.store.read(kept)

    now, _ = await replay(root, calls)
    then, reasons = await replay(root, calls, own(ci, "role:run,resource:tools,name:*/[rn]*"))

    assert now == ["allow", "allow", "deny", "allow", "deny"]
    assert then == ["deny", "allow", "allow", "allow", "deny"]
    assert "mcptoken ci may not run tools git/push in project web; nearest: definition mcptoken-" in reasons[0]
    assert await plane.evaluator._policy.store.read(kept) == before


async def test_an_mcptoken_keeps_no_more_than_its_owner_and_those_above_it_have(plane, root):
    await root.add_user("ann")
    await root.grant("devs", "User:ann", "role:edit,resource:mcptokens", RUN_GIT, project="web")
    ann = await plane.login("ann")
    hers = await ann.issue("web", "hers", RUN_GIT)
    calls = [called(hers)]

    assert (await replay(root, calls))[0] == ["allow"]
    (outcome,), (reason,) = await replay(root, calls, document("devs", "role:view,resource:servers"))
    assert (outcome, reason.partition(":")[0]) == (
        "deny",
        "its owner may not run tools git/push in project web; nearest",
    )
    assert (await replay(root, calls, remove=["devs"]))[0] == ["deny"]


async def test_a_user_needs_his_way_into_the_project_too(root):
    await root.add_user("ann")
    may_see = "role:view,resource:projects,name:web"

    for bindings, expected in (((RUN_GIT,), "deny"), ((may_see,), "deny"), ((RUN_GIT, may_see), "allow")):
        assert (await replay(root, [called("User:ann")], document("devs", *bindings)))[0] == [expected]


async def test_what_the_ledger_does_not_have_is_unknown_and_never_guessed(root, ci):
    gone = await root.issue("web", "gone", RUN_GIT)
    await root.ask(token.revoke, project="web", name="gone")
    calls = [called(ci), called(ci, "git/read"), called(gone), called("User:nobody")]

    outcomes, reasons = await replay(root, calls, own(ci, ACME_ONLY))

    assert outcomes == ["unknown", "deny", "unknown", "unknown"]
    assert reasons[0].startswith("its arguments decide: definition mcptoken-")
    assert reasons[2] == f"McpToken:{gone.token.id}: mcptoken gone is revoked"
    assert reasons[3] == "User:nobody: there is no user nobody"
    # With another binding that asks for no arguments they do not matter.
    assert (await replay(root, calls[:1], own(ci, ACME_ONLY, RUN_GIT)))[0] == ["allow"]


async def test_groups_that_may_have_been_others_leave_unknown_only_what_hangs_on_them(root):
    await root.create_group("devs")
    await root.create_group("ops")
    await root.add_user("ann", "devs")
    of_devs = document("devs", RUN_GIT, "role:view,resource:projects", subjects=("Group:devs",))
    of_ann = document("anns", RUN_GIT, "role:view,resource:projects")
    then = called("User:ann", regrouped=True)

    assert (await replay(root, [called("User:ann"), then], of_devs))[0] == ["allow", "unknown"]
    assert (await replay(root, [then], of_devs.model_copy(update={"subjects": ("Group:ops",)})))[0] == ["unknown"]
    assert (await replay(root, [then], of_devs, of_ann))[0] == ["allow"]


async def test_nobody_learns_by_it_what_he_may_not_see(plane, root, ci):
    await root.add_user("ann")
    await root.add_user("eve")
    eve = await plane.login("eve", PASSWORD)
    for held, missing in (("role:view,resource:audit", "rbac"), ("role:view,resource:rbac", "audit")):
        await root.ask(rbac.apply, definitions=(document("eves", held, subjects=("User:eve",), project=None),))
        with pytest.raises(Forbidden, match=f"may not view {missing}"):
            await replay(eve, [called(ci)])
    held = ("role:view,resource:audit", "role:edit,resource:rbac")
    await root.ask(rbac.apply, definitions=(document("eves", *held, subjects=("User:eve",), project=None),))

    calls = [called(ci), called("User:ann"), called("User:nobody"), called(f"McpToken:{'0' * 64}")]
    outcomes, reasons = await replay(eve, calls)
    assert outcomes == ["unknown"] * 4
    assert {reason.partition(": ")[2] for reason in reasons} == {"it is gone, or you may not view it"}
    await root.grant("more", "User:eve", "role:view,resource:mcptokens", project="web")
    assert (await replay(eve, calls))[0] == ["allow", "unknown", "unknown", "unknown"]
    # And the documents must be such as the asker may apply.
    with pytest.raises(Forbidden, match="does not hold role:run"):
        await replay(eve, calls, document("gift", RUN_GIT))
    with pytest.raises(Conflict, match="built in"):
        await replay(root, calls, document("admins", RUN_GIT, project=None))
