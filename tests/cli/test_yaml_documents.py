"""YAML documents: plain data, with the line of whatever is wrong."""

import pytest

from mcpctl.cli.errors import USAGE, CliError
from mcpctl.cli.yaml_documents import parse


def read(text):
    return [document.data for document in parse(text, "f.yaml")]


def test_every_document_of_a_text_is_read_and_empty_ones_are_left_out():
    assert read("kind: a\n---\n---\n# nothing\n---\nkind: b\n") == [{"kind": "a"}, {"kind": "b"}]


def test_json_is_yaml():
    assert read('{"kind": "project", "servers": ["a"]}') == [{"kind": "project", "servers": ["a"]}]


def test_what_looks_like_a_date_is_a_text():
    assert read("expiresAt: 2030-01-01\nat: 2030-01-01T00:00:00Z\n") == [
        {"expiresAt": "2030-01-01", "at": "2030-01-01T00:00:00Z"}
    ]


def test_each_value_knows_its_line():
    (document,) = parse("kind: rbac\nroleBindings:\n  - role: view\n    resource: servers\n", "f.yaml")

    assert document.line(("roleBindings", 0, "resource")) == 4
    assert document.line(("roleBindings", 0, "nothing")) == 3
    assert document.line(()) == 1


def test_the_lines_of_a_later_document_are_those_of_the_file():
    _, second = parse("kind: a\n---\nkind: b\nname: c\n", "f.yaml")

    assert second.line(("name",)) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml, line 3: a comes twice"),
        ("a:\n  b: 1\n  b: 2\n", "f.yaml, line 3: b comes twice"),
        ("a: !!python/object/apply:os.system [id]\n", "only plain data is taken"),
        ("a: !secret x\n", "only plain data is taken"),
        ("base: &b {x: 1}\nc:\n  <<: *b\n", "f.yaml, line 3: '<<' cannot be read"),
        ("a: [1, 2\nb: 3\n", "f.yaml, line 2: no valid YAML"),
        ("a: 1\n\tb: 2\n", "f.yaml, line 2: no valid YAML"),
        ("1: a\n", "f.yaml, line 1: a key must be a text"),
        ("true: a\n", "f.yaml, line 1: a key must be a text"),
        ("a: &x [*x]\n", "f.yaml: it is nested too deeply"),
        ("a: \x00\n", "f.yaml: no valid YAML"),
        ("[" * 5000, "f.yaml: it is nested too deeply"),
    ],
)
def test_what_is_no_plain_data_is_refused_with_its_line(text, said):
    with pytest.raises(CliError) as refused:
        read(text)

    assert said in str(refused.value)
    assert refused.value.code == USAGE


def test_aliases_of_aliases_do_not_fill_the_memory():
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]

    with pytest.raises(CliError, match="more than 200000 values"):
        read("\n".join(lines))
