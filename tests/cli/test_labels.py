import pytest

from mcpctl.cli.errors import CliError
from mcpctl.cli.labels import changed, parse_labels


def test_labels_are_set_and_removed():
    assert changed({"a": "1", "b": "2"}, ["a=3", "b-", "c="]) == {"a": "3", "c": ""}


@pytest.mark.parametrize("changes", [["=x"], ["-"], ["a=1", "a-"]])
def test_a_change_that_means_nothing_is_refused(changes):
    with pytest.raises(CliError) as refused:
        changed({}, changes)

    assert refused.value.code == 2


@pytest.mark.parametrize("texts", [["a"], ["=b"], ["a=1", "a=2"]])
def test_labels_of_a_new_resource_are_pairs(texts):
    with pytest.raises(CliError) as refused:
        parse_labels(texts)

    assert refused.value.code == 2


@pytest.fixture
def projects(cli):
    cli.ok("create", "project", "red", "--label", "team=shop", "--label", "tier=web")
    cli.ok("create", "project", "blue", "--label", "team=lab")
    yield
    cli.run("delete", "project", "red", "blue", "--ignore-not-found")


def test_labels_choose_what_is_listed(cli, projects):
    def chosen(selector):
        return cli.ok("get", "projects", "-l", selector, "-o", "name").split()

    assert chosen("team=shop") == ["project/red"]
    assert chosen("team,tier!=web") == ["project/blue"]
    assert set(chosen("team")) == {"project/red", "project/blue"}
    assert cli.run("get", "projects", "-l", "team=none").stderr == "No projects found with these labels.\n"


def test_labels_choose_what_is_deleted(cli, projects):
    assert cli.ok("delete", "projects", "-l", "team=lab") == 'project "blue" deleted\n'

    assert cli.ok("get", "projects", "-l", "team", "-o", "name") == "project/red\n"


@pytest.mark.parametrize(
    ("noun", "create"),
    [
        ("server", ("create", "server", "labelled", "--url", "http://127.0.0.1:9/")),
        ("user", ("create", "user", "labelled", "--password-stdin")),
        ("group", ("create", "group", "labelled")),
        ("serviceaccount", ("create", "serviceaccount", "labelled")),
        ("secret", ("create", "secret", "labelled")),
        (
            "rbac",
            ("create", "rbac", "labelled", "--subject", "User:ann", "--roleBindings", "role:view,resource:servers"),
        ),
    ],
)
def test_labels_of_every_noun_are_changed(cli, noun, create):
    cli.ok(*create, "--label", "a=1", "--label", "b=2", stdin="a-long-password\n")
    try:
        assert cli.ok("label", noun, "labelled", "a=3", "b-", "c=4") == f'{noun} "labelled" labelled\n'
        assert "labels:\n  a: '3'\n  c: '4'\n" in cli.ok("get", noun, "labelled", "-o", "yaml")
        assert cli.ok("label", f"{noun}/labelled", "a=3") == f'{noun} "labelled" unchanged\n'
    finally:
        cli.ok("delete", noun, "labelled")


def test_a_label_that_is_none_is_refused(cli, projects):
    assert "labels." in cli.refused("label", "project", "red", "team=not ok", code=2)


def test_labels_of_an_mcptoken_do_not_change(cli):
    refused = cli.refused("label", "mcptoken", "ci", "a=b", code=2)

    assert refused == "Error: an mcptoken cannot be labelled: it gets its labels when it is created"
