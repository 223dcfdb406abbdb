import pytest

from mcpctl.cli.bindings import parse_bindings, refuse_old_forms
from mcpctl.cli.errors import CliError


@pytest.mark.parametrize(
    ("bindings", "operations", "written"),
    [
        ([], ["logs"], "--operation: no such option any more: write --roleBindings action:logs"),
        (["view:servers"], [], "write --roleBindings role:view,resource:servers"),
        (["server:view"], [], "write --roleBindings role:view,resource:servers"),
        (["edit:srv:my-ha"], [], "write --roleBindings role:edit,resource:servers,name:my-ha"),
        (["role:view,resource:servers"], [], "write --roleBindings role:view,resource:servers"),
        (["run:tools:git/*"], ["logs"], "write --roleBindings 'role:run,resource:tools,name:git/*' --roleBindings act"),
        (["nonsense"], [], "write --roleBindings 'role:ROLE,resource:RESOURCE[,name:GLOB]'"),
    ],
)
def test_old_forms_are_refused_with_the_new_one_spelled_out(bindings, operations, written):
    with pytest.raises(CliError) as refused:
        refuse_old_forms("--roleBindings", bindings, operations)

    assert written in str(refused.value)
    assert refused.value.code == 2


def test_a_binding_that_is_none_is_refused():
    with pytest.raises(CliError, match="binding: "):
        parse_bindings(["role:fly,resource:servers"])
