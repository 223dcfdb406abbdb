"""Bindings that can grant nothing: refused when they are written, and left where they are."""

import pytest

from mcpctl.actors.rbac_evaluator.rows import DefinitionRow
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.contracts.rbac import Binding, Definition
from mcpctl.bus.errors import BadRequest

USELESS, USEFUL = "role:run,resource:tools,name:git", "role:run,resource:tools,name:git/*"


def definition(name, *bindings):
    held = tuple(Binding.parse(text) for text in bindings)
    return Definition(name=name, subjects=("Group:devs",), bindings=held)


@pytest.mark.parametrize(
    "write",
    [
        lambda root: root.ask(rbac.define, definition=definition("new", USELESS)),
        lambda root: root.ask(rbac.redefine, definition=definition("devs", USEFUL, USELESS)),
        lambda root: root.ask(rbac.apply, definitions=(definition("new", USELESS),)),
        lambda root: root.ask(rbac.apply, definitions=(definition("devs", USELESS),), dry_run=True),
        lambda root: root.issue("web", "ci", USELESS),
    ],
)
async def test_a_binding_that_grants_nothing_is_refused_with_what_is_meant(plane, root, write):
    await root.ask(rbac.define, definition=definition("devs", USEFUL))

    with pytest.raises(BadRequest, match="tools are named SERVER/TOOL: write name:git/"):
        await write(root)

    assert (await root.ask(token.list_tokens, project="web")).items == ()
    assert [item.name for item in (await root.ask(rbac.list_definitions)).items] == ["admins", "devs"]


async def test_one_that_is_there_may_stay_while_others_are_changed(plane, root):
    await root.ask(rbac.define, definition=definition("devs", USEFUL))

    def spoil(session):
        row = session.get(DefinitionRow, "devs")
        row.bindings = [USELESS]
        session.add(row)

    await plane.evaluator._policy.store.write(spoil)
    await root.ask(rbac.redefine, definition=definition("devs", USELESS, USEFUL))

    kept = (await root.ask(rbac.get_definition, name="devs")).bindings
    assert [str(binding) for binding in kept] == [USELESS, USEFUL]
