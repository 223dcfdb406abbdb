"""What each kind of recorded call asked for, and the least binding that would allow it."""

import pytest
from pydantic import ValidationError

from mcpctl.bus.contracts.audit import Use
from mcpctl.bus.contracts.rbac import Binding, RecordedCall
from mcpctl.cli.replay import _question
from mcpctl.cli.suggest import _covering


def use(method="tools/call", **facts):
    told = {"kind": "call", "outcome": "allow", "project": "web", "principal": "token-ci", "token_sha": "a" * 64}
    return Use(**(told | {"method": method, "user": "ann", "count": 1, "first": 1, "last": 2} | facts))


GIT = {"server": "git", "name": "read", "rule": "run on tools git/read"}
OWN = "the project's own"


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [
        (use(**GIT), "run tools git/read"),
        (use(**GIT | {"outcome": "deny", "rule": "run on tools git/read: not granted"}), "run tools git/read"),
        (use("prompts/get", server="git", name="p", rule="view on servers git"), "view servers git"),
        (
            use("resources/read", outcome="deny", server="git", rule="view on servers git: not granted"),
            "view servers git",
        ),
        (use("completion/complete", server="git", rule="view on servers git"), "view servers git"),
        (use("prompts/get", name="style", rule=OWN), "view prompts style"),
        (use(name="begin_session", rule=OWN), "view projects web"),
        (use("tools/list", rule="view"), "view projects web"),
        (use("tools/list", outcome="deny", rule="no access to project web"), "view projects web"),
        (use(**GIT | {"outcome": "deny", "rule": "the gate of project web: begin_session comes first"}), None),
        (use(**GIT | {"outcome": "deny", "rule": "tool git/read is in quarantine: its definition changed"}), None),
        (use(name="x", outcome="deny", rule="no server here has a tool x"), None),
        (use(principal=None, outcome="deny", rule="run on tools git/read"), None),
    ],
)
def test_a_recorded_call_is_asked_again_where_rights_decided_it(recorded, asked):
    found = _question(recorded, regrouped=False)

    assert asked == (found and f"{found.verb} {found.resource} {found.name}")


def test_who_asked_is_the_bearer_itself_or_its_user_or_account():
    subjects = [
        _question(use(**GIT, **who), regrouped=True).subject
        for who in ({}, {"principal": "user-ann"}, {"principal": "sa-build", "user": "build"})
    ]

    assert subjects == [f"McpToken:{'a' * 64}", "User:ann", "ServiceAccount:build"]


def test_an_event_without_its_server_is_not_guessed_at():
    found = _question(
        use(name="x", outcome="deny", rule="run on tool x: not granted, or no such tool"), regrouped=False
    )

    assert not isinstance(found, RecordedCall)
    assert "does not say" in found


@pytest.mark.parametrize(
    ("recorded", "bindings"),
    [
        (use(**GIT), ["role:run,resource:tools,name:git/read"]),
        (use(**GIT | {"name": "a[b]*?"}), ["role:run,resource:tools,name:git/a[[]b][*][?]"]),
        (use("prompts/get", server="git", name="p"), ["role:view,resource:servers,name:git"]),
        (use("prompts/get", name="style", rule=OWN), ["role:view,resource:prompts,name:style"]),
        (use(name="begin_session", rule=OWN), []),
        (use("tools/list", rule="view"), []),
        (use(None, kind="token.issue", name="helper"), ["role:create,resource:mcptokens"]),
        (use(None, kind="token.revoke", name="helper"), ["role:delete,resource:mcptokens,name:helper"]),
        (use("tools/call", kind="result", **GIT), []),
    ],
)
def test_the_least_binding_names_the_thing_and_nothing_beside_it(recorded, bindings):
    found = list(_covering(recorded, ()))

    assert [str(binding) for binding in found] == bindings
    if recorded.method == "tools/call" and bindings:
        assert found[0].grants("run", "tools", f"git/{recorded.name}")
        assert not found[0].grants("run", "tools", f"git/{recorded.name}x")


def test_a_condition_stays_where_nothing_else_grants_the_tool():
    when = 'role:run,resource:tools,name:git/*,when:{"repo":{"equals":"acme"}}'
    narrow = 'role:run,resource:tools,name:git/read,when:{"repo":{"equals":"acme"}}'

    for held, expected in (
        ((when,), narrow),
        ((when, "role:run,resource:servers"), "role:run,resource:tools,name:git/read"),
    ):
        found = _covering(use(**GIT), [Binding.parse(text) for text in held])
        assert [str(binding) for binding in found] == [expected]


def test_a_name_that_no_binding_can_hold_is_told():
    with pytest.raises(ValidationError):
        list(_covering(use(server="git", name="a, b"), ()))
