"""Conditions on arguments: what fits, what is refused when written, and what covers what."""

import json

import pytest
from pydantic import ValidationError

from mcpctl.bus import conditions
from mcpctl.bus.bindings import TRIED
from mcpctl.bus.conditions import (
    GLOB_CHARACTERS,
    READ_BYTES,
    Condition,
    UnreadableArguments,
    read_arguments,
    unmet,
)
from mcpctl.bus.contracts.rbac import Binding, Definition, Scope


def condition(**members):
    return Condition.model_validate(members)


@pytest.mark.parametrize(
    ("test", "value"),
    [
        ({"equals": "a"}, "a"),
        ({"equals": 1}, 1),
        ({"equals": 1}, 1.0),
        ({"equals": True}, True),
        ({"equals": False}, False),
        ({"equals": ""}, ""),
        ({"in": ["a", 2]}, 2),
        ({"glob": "acme/*"}, "acme/site"),
        ({"min": 1}, 1),
        ({"max": 9}, -3.5),
        ({"min": 1, "max": 9}, 9),
    ],
)
def test_what_fits(test, value):
    assert condition(**test).fits(value)


@pytest.mark.parametrize(
    ("test", "value"),
    [
        ({"equals": "a"}, "A"),
        ({"equals": "1"}, 1),
        ({"equals": 1}, "1"),
        ({"equals": 1}, True),
        ({"equals": True}, 1),
        ({"equals": False}, 0),
        ({"in": ["a"]}, ["a"]),
        ({"in": ["a"]}, None),
        ({"glob": "acme/*"}, "other/acme/x"),
        ({"glob": "acme/*"}, "ACME/x"),
        ({"glob": "1*"}, 12),
        ({"min": 1}, 0),
        ({"min": 1}, True),
        ({"min": 1}, "2"),
        ({"min": 1, "max": 9}, 9.1),
        ({"max": 9}, None),
        ({"min": 1}, float("inf")),
        ({"max": 9}, float("nan")),
    ],
)
def test_what_does_not_fit(test, value):
    assert not condition(**test).fits(value)


@pytest.mark.parametrize(
    "when",
    [
        {"repo": {}},
        {"repo": {"in": []}},
        {"repo": {"glob": ""}},
        {"repo": {"equals": "a", "glob": "b"}},
        {"repo": {"equals": None}},
        {"repo": {"equals": ["a"]}},
        {"repo": {"equlas": "a"}},
        {"repo": {"equals": "a", "note": "x"}},
        {"n": {"min": 2, "max": 1}},
        {"n": {"min": "1"}},
        {"n": {"min": float("inf")}},
        {"n": {"equals": float("nan")}},
        {"": {"equals": "a"}},
        {"a..b": {"equals": "a"}},
        {"a b": {"equals": "a"}},
        {f"a{n}": {"equals": 1} for n in range(17)},
        {"repo": {"one_of": ["a"]}},
        {"repo": {"glob": "[b-a]"}},
        {"repo": {"glob": "x[!z-a]*"}},
        {"repo": {"glob": "acme/["}},
        {"repo": {"glob": "[]"}},
        {"a": {"equals": 1}, "a.b": {"equals": 1}},
        {"a.b.c": {"equals": 1}, "a.b": {"equals": 1}},
        {"Repo": {"equals": "a"}, "repo": {"equals": "a"}},
        {"A.x": {"equals": 1}, "a.y": {"equals": 1}},
    ],
)
def test_what_would_deny_everything_or_means_nothing_is_refused_when_it_is_written(when):
    with pytest.raises(ValidationError):
        Binding.model_validate({"role": "run", "resource": "tools", "when": when})


@pytest.mark.parametrize(
    "when",
    [
        {"a.b": {"equals": 1}, "a.c": {"equals": 1}},
        {"a": {"equals": 1}, "ab": {"equals": 1}, "ab2.c": {"equals": 1}},
        {"a": {"glob": "[a-c-]*"}, "b": {"glob": "[]]"}, "c": {"glob": "[[]x"}, "d": {"glob": "x]"}},
    ],
)
def test_what_arguments_can_fit_is_taken(when):
    assert binding(**when).when.keys() == when.keys()


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("x", "write a condition"),
        ({"equals": ["a"]}, "write a text, a number, true or false"),
        ({"in": "abc"}, "write a list of values"),
        ({"in": [["a"], {}]}, "write a text, a number, true or false"),
        ({"min": "1"}, "write a number"),
        ({"max": True}, "write a number"),
        ({"glob": 1}, "valid string"),
        ({"equlas": "a", "equals": "a"}, "not permitted"),
    ],
)
def test_a_wrong_type_is_one_line(test, message):
    with pytest.raises(ValidationError) as refusal:
        binding(a=test)

    (fault,) = refusal.value.errors()
    assert message in fault["msg"]
    assert fault["loc"][:2] == ("when", "a")


@pytest.mark.parametrize(
    "binding",
    [
        {"role": "view", "resource": "tools"},
        {"role": "edit", "resource": "servers"},
        {"role": "run", "resource": "*"},
        {"role": "run", "action": "logs"},
    ],
)
def test_only_calls_of_tools_have_conditions(binding):
    with pytest.raises(ValidationError, match="when"):
        Binding.model_validate(binding | {"when": {"a": {"equals": 1}}})


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"repo": "acme/x", "n": 3}, None),
        ({"repo": "acme/x", "n": 3, "more": {}}, None),
        ({"repo": "other/x", "n": 3}, "argument repo must be like acme/*"),
        ({"repo": "acme/x"}, "argument n must be from 1 to 5"),
        ({"n": 3}, "argument repo must be like acme/*"),
    ],
)
def test_all_conditions_must_hold_and_the_first_that_does_not_is_told(arguments, fault):
    when = {"repo": condition(glob="acme/*"), "n": condition(min=1, max=5)}

    assert unmet(when, arguments) == fault


def test_dots_lead_into_objects():
    when = {"target.repo": condition(equals="a")}

    assert unmet(when, {"target": {"repo": "a"}}) is None
    assert unmet(when, {"target": "a"}) is not None
    assert unmet(when, {"target": [{"repo": "a"}]}) is not None
    assert unmet(when, {"target.repo": "a"}) is not None


@pytest.mark.parametrize(
    "text",
    [
        b'{"repo":"a","repo":"b"}',
        b'{"repo":"a","Repo":"b"}',
        b'{"x":{"repo":"a","REPO":"b"}}',
        b'{"x":[{"a":1,"a":2}]}',
        b"[1]",
        b'"a"',
        b"{",
        b'{"a":' * 100_000,
        b'{"n":' + b"1" * 5000 + b"}",
        b'{"n":NaN}',
        b'{"n":[-Infinity]}',
        b'{"n":1e999}',
    ],
)
def test_arguments_that_a_server_might_read_otherwise_are_not_read(text):
    with pytest.raises(UnreadableArguments):
        read_arguments(text)


def test_the_refusal_of_a_name_that_is_no_text_can_be_written():
    with pytest.raises(UnreadableArguments) as refusal:
        read_arguments(b'{"\\ud800":1,"\\ud800":2}')

    assert str(refusal.value).encode()


BINDING = {"role": "run", "resource": "tools", "name": "github/*"}


def binding(**when):
    return Binding.model_validate(BINDING | {"when": when})


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ({}, {}),
        ({}, {"a": {"equals": 1}}),
        ({"a": {"equals": 1}}, {"a": {"equals": 1}}),
        ({"a": {"equals": 1}}, {"a": {"equals": 1}, "b": {"glob": "x"}}),
        ({"a": {"in": [1, 2, 3]}}, {"a": {"in": [3, 1]}}),
        ({"a": {"glob": "x*"}}, {"a": {"in": ["x", "xy"]}}),
        ({"a": {"glob": "x*"}}, {"a": {"glob": "xy*"}}),
        ({"a": {"min": 1}}, {"a": {"min": 2, "max": 3}}),
        ({"a": {"min": 1, "max": 5}}, {"a": {"equals": 5}}),
        ({"a": {"equals": 5}}, {"a": {"min": 5, "max": 5}}),
        ({"a": {"in": [4, 5]}}, {"a": {"min": 5, "max": 5.0}}),
        ({"a": {"min": 5, "max": 5}}, {"a": {"equals": 5.0}}),
    ],
)
def test_what_covers(own, other):
    assert binding(**own).covers(binding(**other))


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ({"a": {"equals": 1}}, {}),
        ({"a": {"equals": 1}}, {"b": {"equals": 1}}),
        ({"a": {"equals": 1}}, {"a": {"equals": True}}),
        ({"a": {"in": [1, 2]}}, {"a": {"in": [2, 3]}}),
        ({"a": {"glob": "x*"}}, {"a": {"glob": "*"}}),
        ({"a": {"glob": "x*"}}, {"a": {"min": 1}}),
        ({"a": {"min": 1}}, {"a": {"max": 5}}),
        ({"a": {"min": 1, "max": 5}}, {"a": {"min": 1}}),
        ({"a": {"in": ["x"]}}, {"a": {"glob": "x"}}),
        ({"a": {"equals": 5}}, {"a": {"min": 5, "max": 6}}),
        ({"a": {"min": 1, "max": 1}}, {"a": {"equals": True}}),
        ({"a": {"equals": 1}, "b": {"equals": 1}}, {"a": {"equals": 1}}),
    ],
)
def test_what_does_not_cover(own, other):
    assert not binding(**own).covers(binding(**other))


def test_a_conditional_right_to_run_covers_the_view_of_the_same_tools():
    view = Binding.model_validate(BINDING | {"role": "view"})

    assert binding(a={"equals": 1}).covers(view)
    assert not view.covers(binding(a={"equals": 1}))


@pytest.mark.parametrize(
    "text",
    [
        'role:run,resource:tools,when:{"repo":{"equals":"a,when:b"}}',
        'role:run,resource:tools,name:github/*,when:{"repo":{"in":["acme/x","acme/y"]}}',
        'role:run,resource:servers,name:github,when:{"n":{"min":1,"max":5.5}}',
    ],
)
def test_the_text_form_and_the_binding_are_the_same(text):
    parsed = Binding.parse(text)

    assert str(parsed) == text
    assert Binding.parse(str(parsed)) == parsed
    assert Binding.model_validate_json(parsed.model_dump_json()) == parsed


@pytest.mark.parametrize(("one", "other"), [(True, 1), (False, 0), (1, 1.0)])
def test_values_that_python_takes_for_the_same_are_two(one, other):
    assert condition(equals=one) != condition(equals=other)
    assert binding(a={"equals": one}) != binding(a={"equals": other})
    assert len({binding(a={"equals": one}), binding(a={"equals": other}), binding(a={"equals": one})}) == 2


def test_what_is_not_used_is_not_written():
    written = binding(a={"equals": False}, n={"min": 0}).model_dump(mode="json")

    assert written == BINDING | {"when": {"a": {"equals": False}, "n": {"min": 0}}}
    assert Binding.parse("action:logs").model_dump(mode="json") == {"role": "run", "action": "logs"}


def test_a_misspelt_member_is_no_unconditional_grant():
    for spelt in ("whn", "When", "conditions"):
        with pytest.raises(ValidationError, match=spelt):
            Definition.model_validate(
                {"name": "a", "subjects": ["User:a"], "bindings": [BINDING | {spelt: {"a": {"equals": 1}}}]}
            )


@pytest.mark.parametrize(
    "when", ['{"a":{"equals":1},"a":{"glob":"*"}}', '{"a":{"min":1,"min":0}}', '{"a":{"equals":1,"equals":2}}']
)
def test_a_text_form_that_says_a_thing_twice_is_refused(when):
    with pytest.raises(ValueError, match="twice"):
        Binding.parse(f"role:run,resource:tools,when:{when}")


@pytest.mark.parametrize("text", ["role:run,resource:tools,when:", "role:run,resource:tools,when:{"])
def test_a_text_form_that_is_cut_off_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - pydantic's and ours
        Binding.parse(text)


def test_a_document_with_an_unknown_condition_is_refused():
    text = '{"name":"a","subjects":["User:a"],"bindings":[{"role":"run","resource":"tools","when":{"a":{"like":"x"}}}]}'

    with pytest.raises(ValidationError, match="like"):
        Definition.model_validate_json(text, strict=True, extra="forbid")


def read_never():
    raise AssertionError("the arguments must not be read")


def test_the_tool_is_seen_whatever_the_arguments_and_run_where_they_fit():
    scope = Scope(layers=((binding(repo={"glob": "acme/*"}),),))

    assert scope.sees_tool("github", "create")
    assert scope.why_not_run("github", "create", lambda: {"repo": "acme/x"}) is None
    assert scope.why_not_run("github", "create", dict) == "argument repo must be like acme/*"
    assert scope.why_not_run("gitlab", "create", read_never) == ""
    assert not scope.allows("run", ("tools", "github/create"))


def test_every_layer_must_grant_and_one_binding_of_it_is_enough():
    free, bound = Binding.model_validate(BINDING), binding(repo={"equals": "a"})

    assert Scope(layers=((free, bound),)).why_not_run("github", "x", read_never) is None
    assert Scope(layers=((free,), (bound,))).why_not_run("github", "x", dict) is not None
    assert (
        Scope(layers=((bound, binding(repo={"equals": "b"})),)).why_not_run("github", "x", lambda: {"repo": "b"})
        is None
    )


def test_arguments_are_read_once_however_many_bindings_have_conditions():
    layer = tuple(
        Binding.parse(f'role:run,resource:tools,name:git/*,when:{{"repo":{{"equals":"r{n}"}}}}') for n in range(50)
    )
    read = []

    def arguments():
        read.append(1)
        return {"repo": "r49"}

    assert Scope(layers=(layer, layer)).why_not_run("git", "push", arguments) is None
    assert len(read) == 1


def test_names_are_looked_through_once_however_many_conditions_ask(monkeypatch):
    looked = []
    dotted = conditions._dotted
    monkeypatch.setattr(conditions, "_dotted", lambda names: looked.append(1) or dotted(names))
    when = [binding(**{"opts.repo": {"equals": f"r{n}"}}) for n in range(50)]
    text = b'{"opts":{"repo":"r49"},"a.b":1}'

    assert Scope(layers=(tuple(when),)).why_not_run("github", "x", lambda: read_arguments(text)) is None
    assert len(looked) == 1, "the arguments: opts itself has no further step"


def test_a_glob_fits_no_text_that_is_too_long_to_be_searched_for_every_binding():
    longest = "a" * GLOB_CHARACTERS

    assert condition(glob="a*").fits(longest)
    assert not condition(glob="a*").fits(longest + "a")
    assert condition(equals=longest + "a").fits(longest + "a")


def test_bindings_with_conditions_are_tried_up_to_a_number_and_the_refusal_tells():
    layer = tuple(binding(repo={"equals": f"r{n}"}) for n in range(TRIED + 1))
    scope = Scope(layers=(layer,))

    assert scope.why_not_run("github", "x", lambda: {"repo": f"r{TRIED - 1}"}) is None
    assert scope.why_not_run("github", "x", lambda: {"repo": f"r{TRIED}"}) == (
        f'argument repo must be "r0" (of {TRIED + 1} bindings only {TRIED} are tried)'
    )
    assert Scope(layers=(layer[1:],)).why_not_run("github", "x", lambda: {"repo": f"r{TRIED}"}) is None


def test_arguments_beyond_the_size_on_which_conditions_are_tested_are_refused():
    with pytest.raises(UnreadableArguments, match="longer than"):
        read_arguments(b'{"repo":"' + b"a" * READ_BYTES + b'"}')


@pytest.mark.parametrize(
    "arguments",
    [
        {"opts": {"repo": "acme/x"}, "opts.repo": "evil/x"},
        {"opts": {"repo": "acme/x"}, "Opts.Repo": "evil/x"},
        {"opts.repo": "acme/x"},
    ],
)
def test_a_member_that_is_named_like_the_whole_path_does_not_sidestep_a_condition(arguments):
    when = binding(**{"opts.repo": {"glob": "acme/*"}}).when

    assert unmet(when, arguments) is not None
    assert unmet(when, read_arguments(json.dumps(arguments).encode())) is not None
    for clear in ({"opts": {"repo": "acme/x"}, "repo": "y"}, {"opts": {"repo": "acme/x"}, "a.b": 1}):
        assert unmet(when, clear) is None
        assert unmet(when, read_arguments(json.dumps(clear).encode())) is None


def test_a_member_named_like_the_rest_of_a_path_does_not_sidestep_a_condition_deeper_down():
    when = binding(**{"a.opts.repo": {"glob": "acme/*"}}).when

    assert unmet(when, read_arguments(b'{"a":{"opts":{"repo":"acme/x"}}}')) is None
    for sly in (
        b'{"a":{"opts":{"repo":"acme/x"},"opts.repo":"evil"}}',
        b'{"a":{"opts":{"repo":"acme/x"}},"a.opts":{"repo":"evil"}}',
        b'{"a":{"opts":{"repo":"acme/x"}},"A.opts.REPO":"evil"}',
    ):
        assert unmet(when, read_arguments(sly)) is not None


@pytest.mark.parametrize("value", ["acme/../evil", "acme/..", "acme/x\\..\\evil", "acme/x\n", "acme/\x00", "acme/\x7f"])
def test_a_glob_fits_no_path_that_climbs_and_no_control_character(value):
    assert not Condition(glob="acme/*").fits(value)
    assert Condition(glob="acme/*").fits("acme/a..b")


def test_what_another_layer_asks_of_the_arguments_is_not_told():
    free, bound = Binding.model_validate(BINDING), binding(repo={"equals": "secret-plan"})

    def unreadable():
        raise UnreadableArguments("two arguments are called repo")

    assert Scope(layers=((bound,), (free,))).why_not_run("github", "x", dict) == 'argument repo must be "secret-plan"'
    for arguments in (dict, unreadable):
        assert Scope(layers=((free,), (bound,))).why_not_run("github", "x", arguments) == ""
        assert Scope(layers=((free,), (free,), (bound,))).why_not_run("github", "x", arguments) == ""
