"""Bindings and scopes: what is granted, and what may be given on."""

from itertools import product

import pytest
from pydantic import ValidationError

from mcpctl.bus.bindings import why_useless
from mcpctl.bus.contracts.rbac import Binding, Check, Definition, Scope

NAMES = ("github", "gitlab", "git", "github/get", "github/set", "gitlab/get", "git/get", "x")
GLOBS = (None, "*", "git*", "git", "github", "github/*", "github/get", "github/g*", "g[ij]t*", "?ithub/*", "*/get")
RESOURCES = ("servers", "tools", "prompts", "*")
VERBS = ("view", "create", "edit", "delete", "run")


def binding(text: str) -> Binding:
    return Binding.parse(text)


def scope(*layers: tuple[str, ...]) -> Scope:
    return Scope(layers=tuple(tuple(binding(text) for text in layer) for layer in layers))


@pytest.mark.parametrize(
    "text",
    ["role:view,resource:servers", "role:run,resource:tools,name:github/*", "action:logs", "role:edit,resource:*"],
)
def test_a_binding_reads_back_from_its_text(text):
    assert str(binding(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "role:view",
        "resource:servers",
        "role:owner,resource:servers",
        "role:view,resource:moon",
        "role:view,resource:servers,resource:tools",
        "role:view,resource:servers,name:",
        "role:view,resource:servers,name:a b",
        "role:view,action:logs",
        "action:logs,name:x",
        "action:logs,resource:servers",
        "view servers",
        "role:view,resource:servers,name:a[",
        "role:view,resource:servers,name:[b-a]",
    ],
)
def test_a_text_that_is_no_binding_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        binding(text)


def test_a_name_cannot_smuggle_a_second_field_into_the_text():
    with pytest.raises(ValidationError):
        Binding(role="view", resource="servers", name="x,role:edit")


@pytest.mark.parametrize(
    ("role", "verbs"),
    [
        ("view", {"view"}),
        ("create", {"view", "create"}),
        ("delete", {"view", "delete"}),
        ("edit", {"view", "create", "edit", "delete"}),
        ("run", {"view", "run"}),
    ],
)
def test_a_role_grants_its_verbs_and_no_other(role, verbs):
    held = binding(f"role:{role},resource:servers")

    assert {verb for verb in VERBS if held.grants(verb, "servers", None)} == verbs


def test_a_named_binding_grants_neither_create_nor_an_unscoped_list():
    held = binding("role:edit,resource:servers,name:git*")

    assert held.grants("edit", "servers", "github")
    assert not held.grants("create", "servers", "github")
    assert not held.grants("view", "servers", None)


def test_names_are_matched_with_their_case():
    assert not binding("role:view,resource:servers,name:git*").grants("view", "servers", "GitHub")


def test_an_operation_grants_nothing_on_resources():
    assert not any(binding("action:*").grants(verb, "servers", None) for verb in VERBS)


def test_what_is_granted_on_a_server_is_granted_on_its_tools():
    held = binding("role:run,resource:servers,name:github")

    assert held.grants("run", "tools", "github/get")
    assert not held.grants("run", "tools", "gitlab/get")
    assert not held.grants("run", "tools", None)


def test_whatever_a_covered_binding_grants_its_coverer_grants_too():
    bindings = [
        Binding(role=role, resource=resource, name=name)
        for role, resource, name in product(("view", "create", "edit", "delete", "run"), RESOURCES, GLOBS)
    ]
    asked = list(product(VERBS, ("servers", "tools", "prompts", "users"), (None, *NAMES)))
    granted = {str(b): {question for question in asked if b.grants(*question)} for b in bindings}

    wrong = [
        (str(a), str(b)) for a in bindings for b in bindings if a.covers(b) and not granted[str(b)] <= granted[str(a)]
    ]

    assert wrong == []


@pytest.mark.parametrize(
    ("held", "given"),
    [
        ("role:edit,resource:*", "role:view,resource:users"),
        ("role:edit,resource:servers,name:git*", "role:view,resource:servers,name:github"),
        ("role:run,resource:tools,name:github/*", "role:run,resource:tools,name:github/get_*"),
        ("role:run,resource:servers,name:github", "role:run,resource:tools,name:github/get_me"),
        ("role:run,resource:servers,name:github", "role:run,resource:tools,name:github/*"),
        ("role:run,resource:servers", "role:view,resource:tools"),
        ("action:*", "action:escalate"),
        ("action:logs", "action:logs"),
    ],
)
def test_a_holder_may_give_what_is_surely_less(held, given):
    assert binding(held).covers(binding(given))


@pytest.mark.parametrize(
    ("held", "given"),
    [
        ("role:edit,resource:*", "role:run,resource:tools"),
        ("role:edit,resource:*", "action:logs"),
        ("action:*", "role:view,resource:servers"),
        ("action:logs", "action:*"),
        ("role:view,resource:servers", "role:view,resource:*"),
        ("role:view,resource:servers,name:github", "role:view,resource:servers"),
        ("role:view,resource:servers,name:github", "role:view,resource:servers,name:git*"),
        ("role:view,resource:servers,name:git[ah]ub", "role:view,resource:servers,name:git*"),
        ("role:run,resource:servers,name:github", "role:run,resource:tools,name:git*/get"),
        ("role:run,resource:servers,name:github", "role:run,resource:tools,name:github*"),
        ("role:run,resource:tools", "role:run,resource:servers"),
        ("role:edit,resource:servers,name:x", "role:create,resource:servers"),
    ],
)
def test_a_holder_may_not_give_more(held, given):
    assert not binding(held).covers(binding(given))


def test_a_scope_grants_only_what_every_layer_grants():
    own, owner = ("role:run,resource:tools,name:github/*",), ("role:run,resource:servers,name:git*",)

    both = scope(own, owner)

    assert both.why_not_run("github", "get", dict) is None
    assert both.why_not_run("gitlab", "get", dict) is not None
    assert scope(own, ()).why_not_run("github", "get", dict) is not None


def test_a_scope_without_layers_is_refused_since_it_would_grant_everything():
    with pytest.raises(ValidationError):
        Scope(layers=())


def test_a_scope_covers_only_what_every_layer_covers():
    held = scope(("role:edit,resource:*",), ("role:view,resource:*",))

    assert held.covers(binding("role:view,resource:servers"))
    assert not held.covers(binding("role:edit,resource:servers"))
    assert not scope(()).covers(binding("role:view,resource:servers"))


def test_an_operation_needs_every_layer():
    assert scope(("action:*",), ("action:logs",)).may_operate("logs")
    assert not scope(("action:*",), ("action:logs",)).may_operate("backup")


@pytest.mark.parametrize("glob", [glob for glob in GLOBS if glob])
def test_a_server_is_touched_wherever_one_of_its_tools_is_granted(glob):
    held = Scope(layers=((Binding(role="run", resource="tools", name=glob),),))

    for server, tool in product(("github", "gitlab", "git", "x"), ("get", "set", "g")):
        assert held.touches_server(server) or not held.sees_tool(server, tool)


@pytest.mark.parametrize(
    ("glob", "server"),
    [("github/*", "gitlab"), ("github/get", "git"), ("github", "github"), ("gh*", "github")],
)
def test_a_server_none_of_whose_tools_can_be_granted_is_not_touched(glob, server):
    assert not Scope(layers=((Binding(role="run", resource="tools", name=glob),),)).touches_server(server)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("role:run,resource:tools,name:github", "write name:github/* for all tools of server github"),
        ("role:view,resource:tools,name:get", "or name:SERVER/get for one tool"),
        ("role:run,resource:servers,name:github/get", "write role:run,resource:tools,name:github/get"),
        ("role:run,resource:servers,name:git*/*", "write role:run,resource:tools,name:git*/*"),
    ],
)
def test_a_binding_whose_name_nothing_has_is_told_with_what_is_meant(text, meant):
    held = binding(text)

    assert meant in why_useless(held)
    for server, tool in product(("github", "gitlab", "get"), ("get", "github")):
        assert not held.grants("view", "servers", server)
        assert not held.grants("view", "tools", f"{server}/{tool}")


@pytest.mark.parametrize(
    "text",
    [
        "role:run,resource:tools",
        "role:run,resource:tools,name:github/get",
        "role:run,resource:tools,name:github*",
        "role:run,resource:tools,name:*",
        "role:run,resource:servers,name:github",
        "role:view,resource:secrets,name:a/b",
        "role:edit,resource:*,name:github",
        "action:logs",
    ],
)
def test_a_binding_that_can_grant_something_has_nothing_wrong(text):
    assert why_useless(binding(text)) is None


@pytest.mark.parametrize("subject", ["User:ann\n", "User:", "Robot:x", "User:a b", "ann", "Group:>", "McpToken:*"])
def test_a_malformed_subject_is_refused(subject):
    with pytest.raises(ValidationError):
        Definition(name="devs", subjects=(subject,))


def test_a_question_names_a_resource_or_an_action():
    with pytest.raises(ValidationError):
        Check(bearer="b")
    with pytest.raises(ValidationError):
        Check(bearer="b", resource="servers", action="logs")
