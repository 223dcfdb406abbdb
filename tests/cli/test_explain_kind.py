import pytest

from mcpctl.cli.explain_kind import fields_below, fields_of, type_words
from mcpctl.cli.main import main
from mcpctl.cli.manifests import KINDS


def with_all_below(fields):
    for field in fields:
        yield field
        yield from with_all_below(fields_below(field))


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_field_of_every_kind_has_a_meaning(kind):
    fields = list(fields_of(kind))

    assert {field.name for field in fields} >= set(kind.keys)
    assert [field.path for field in with_all_below(fields) if field.meaning in ("-", "")] == []
    assert [field.path for field in fields if "value" in field.shape] == []


def test_a_kind_is_explained_by_any_of_its_names(capsys):
    assert main(["explain", "proj"]) == 0

    told = capsys.readouterr().out
    assert "maxTokenTtl <length of time: 90s, 30m, 12h, 30d, 2w>" in told
    assert "name <name> required" in told


def test_what_is_in_a_field_is_explained_below_it(capsys):
    assert main(["explain", "rbac.rolebindings"]) == 0

    told = capsys.readouterr().out
    assert "rbac.roleBindings <list of binding>" in told
    assert "role <one of view, create, delete, edit, run> required" in told


def test_a_kind_is_explained_with_all_that_is_in_its_fields(capsys):
    assert main(["explain", "project"]) == 0

    told = capsys.readouterr().out
    assert "\n  gate <gate>\n" in told
    assert "\n    mode <one of brief, refuse, strict>, default brief\n" in told
    assert "\n      baseUrl <text> required\n" in told


def test_a_default_is_told(capsys):
    assert main(["explain", "server.isolation"]) == 0

    assert capsys.readouterr().out.startswith("server.isolation <one of shared, session>, default shared\n")


def test_without_a_kind_all_are_listed(capsys):
    assert main(["explain"]) == 0

    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("sever", 'no kind "sever": there are secret, server'),
        ("tool", 'no kind "tool"'),
        ("server.uri", "server has no field uri: there are name, labels"),
        ("server.url.host", "server.url has no field host: there are none"),
    ],
)
def test_what_is_not_there_is_a_fault_of_usage(kind, said, capsys):
    assert main(["explain", kind]) == 2

    assert said in capsys.readouterr().err


def test_types_are_told_in_words():
    assert type_words(dict[str, int]) == "map of text to whole number"
    assert type_words(tuple[str, ...] | None) == "list of text"
