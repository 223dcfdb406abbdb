"""Prompts and gates at the command line, against real actors."""

import json
import sys

import pytest
import yaml

STYLE = "# Style\n\nSmall functions.\n    indented\n"


@pytest.fixture
def shop(cli):
    """A project with a server, and nothing left of it and of all prompts afterwards."""
    cli.ok("create", "project", "shop", "--server", "notes")
    yield "shop"
    left = [line.partition("/")[2] for line in cli.ok("get", "prompts", "-o", "name").splitlines()]
    if left:
        cli.ok("delete", "prompts", *left)
    cli.ok("delete", "project", "shop", "--ignore-not-found")


@pytest.fixture
def style(cli, shop):
    options = ("--tag", "python", "--tag", "review", "--priority", "8", "--summary", "How we write")
    cli.ok("create", "prompt", "style", "-p", shop, *options, "--file", "-", stdin=STYLE)
    return "style"


def document(cli, noun, name):
    return yaml.safe_load(cli.ok("get", noun, name, "-o", "yaml"))


def without_status(shown):
    return {key: value for key, value in shown.items() if key != "status"}


def applied(cli, shown, *options):
    return cli.ok("apply", "-f", "-", *options, stdin=yaml.safe_dump(shown))


# Prompts


def test_a_prompt_is_written_from_stdin_and_shown_as_what_apply_takes(cli, style):
    text = cli.ok("get", "prompt", style, "-o", "yaml")

    assert "content: |\n  # Style\n\n  Small functions.\n" in text
    assert without_status(yaml.safe_load(text)) == {
        "kind": "prompt",
        "name": "style",
        "project": "shop",
        "tags": ["python", "review"],
        "priority": 8,
        "summary": "How we write",
        "content": STYLE,
    }
    assert cli.ok("apply", "-f", "-", stdin=text) == "prompt/style unchanged\n"


def test_a_prompt_comes_from_a_file_or_the_command_line_or_a_resource(cli, shop, tmp_path):
    (tmp_path / "rules.md").write_text(STYLE)

    cli.ok("create", "prompt", "from-file", "-p", shop, "--file", str(tmp_path / "rules.md"))
    cli.ok("create", "prompt", "from-text", "--global", "--content", "Never push to main.")
    told = cli.ok("create", "prompt", "from-there", "-p", shop, "--resource", "notes/docs://read/me", "-o", "yaml")

    assert document(cli, "prompt", "from-file")["content"] == STYLE
    assert without_status(document(cli, "prompt", "from-text")) == {
        "kind": "prompt",
        "name": "from-text",
        "content": "Never push to main.",
    }
    assert yaml.safe_load(told)["resource"] == {"server": "notes", "uri": "docs://read/me"}


@pytest.mark.parametrize(
    ("options", "said", "code"),
    [
        (["--content", "x"], "say where it counts: -p PROJECT, or --global", 2),
        (["-p", "shop", "--global", "--content", "x"], "say where it counts", 2),
        (["-p", "shop"], "give its content: --file FILE, --content TEXT or --resource SERVER/URI", 2),
        (["-p", "shop", "--content", "x", "--file", "-"], "the content comes from one of --file and --content", 2),
        (["-p", "shop", "--file", "/nowhere/at/all"], "cannot read /nowhere/at/all", 2),
        (["-p", "shop", "--resource", "notes"], "write SERVER/URI", 2),
        (["-p", "shop", "--content", "x", "--tag", "A B"], "tags.0: must be 1 to 63 of a-z, 0-9", 2),
        (["-p", "shop", "--content", "x", "--priority", "11"], "priority: must be less than or equal to 10", 2),
        (["-p", "nowhere", "--content", "x"], "is of project nowhere, which does not exist", 1),
        (["-p", "shop", "--resource", "time/docs://x"], "from server time, which is not one of project shop", 1),
    ],
)
def test_a_prompt_that_cannot_be_is_refused_in_one_line(cli, shop, options, said, code):
    assert said in cli.refused("create", "prompt", "wrong", *options, code=code)


def test_prompts_are_listed_where_they_count(cli, style):
    cli.ok("create", "prompt", "all", "--global", "--content", "x")
    cli.ok("create", "prompt", "of-demo", "-p", "demo", "--content", "x")

    assert cli.ok("get", "prompts", "-o", "name") == "prompt/all\nprompt/of-demo\nprompt/style\n"
    assert cli.ok("get", "pr", "-p", "shop", "-o", "name") == "prompt/all\nprompt/style\n"
    assert "no project nowhere" in cli.refused("get", "prompts", "-p", "nowhere")
    by_weight = cli.ok("get", "prompts", "-p", "shop", "--sort-by", "priority", "--no-headers").splitlines()
    assert [line.split()[:3] for line in by_weight] == [["all", "(all)", "5"], ["style", "shop", "8"]]


def test_the_content_of_a_described_prompt_keeps_its_lines(cli, style):
    told = cli.ok("describe", "prompt", style)

    assert "Content:\n  # Style\n\n  Small functions.\n      indented\n" in told
    assert "Tags:\n  python\n  review\n" in told


def test_a_prompt_is_edited_labelled_and_deleted(cli, style):
    cli.ok("edit", "prompt", style, "--set", "priority=9", "--set", "tags=[git]", "--set", "project=null")
    cli.ok("label", "prompt", style, "team=shop")

    shown = document(cli, "prompt", style)
    assert (shown["priority"], shown["tags"], shown["labels"]) == (9, ["git"], {"team": "shop"})
    assert "project" not in shown
    assert shown["content"] == STYLE
    assert "no such field of a prompt" in cli.refused("edit", "prompt", style, "--set", "prio=1", code=2)
    assert cli.ok("delete", "prompts", "-l", "team=shop") == 'prompt "style" deleted\n'
    assert cli.refused("get", "prompt", style) == 'Error: prompt "style" not found'


def test_the_editor_is_given_the_content_as_a_block(cli, style, tmp_path):
    script = tmp_path / "editor.py"
    script.write_text(
        "import sys, pathlib\n"
        "file = pathlib.Path(sys.argv[1])\n"
        "text = file.read_text()\n"
        "assert 'content: |\\n  # Style\\n' in text\n"
        "file.write_text(text.replace('Small functions.', 'Short ones.'))\n"
    )

    cli.ok("edit", "prompt", style, EDITOR=f"{sys.executable} {script}")

    assert document(cli, "prompt", style)["content"] == STYLE.replace("Small functions.", "Short ones.")


def test_names_of_prompts_are_completed(cli, style):
    words = {"_MCPCTL_COMPLETE": "complete_bash", "COMP_WORDS": "mcpctl describe prompt st", "COMP_CWORD": "3"}

    assert cli.run(**words).stdout.split() == [style]
    words["COMP_WORDS"], words["COMP_CWORD"] = "mcpctl get prom", "2"
    assert cli.run(**words).stdout.split() == ["prompts"]


def test_documents_are_pruned_by_their_labels(cli, style):
    cli.ok("label", "prompt", style, "app=x")
    other = {"kind": "prompt", "name": "other", "labels": {"app": "x"}, "content": "x"}

    assert applied(cli, other, "--prune", "-l", "app=x") == "prompt/other created\nprompt/style pruned\n"


# Gates

GATE = {
    "mode": "refuse",
    "budget": 4096,
    "exempt": ["notes/*"],
    "llm": {"baseUrl": "http://127.0.0.1:9/v1", "model": "small", "timeoutMs": 900},
}


def test_a_gate_is_created_changed_and_taken_away(cli, shop):
    cli.ok("edit", "project", shop, "--gate", "brief")
    assert document(cli, "project", shop)["gate"] == {"mode": "brief", "budget": 16384}
    cli.ok("edit", "project", shop, "--gate", "refuse", "--set", "gate.budget=4096", "--set", "gate.exempt=[notes/*]")
    changes = ("gate.llm.baseUrl=http://127.0.0.1:9/v1", "gate.llm.model=small", "gate.llm.timeoutMs=900")
    cli.ok("edit", "project", shop, *(word for change in changes for word in ("--set", change)))
    assert document(cli, "project", shop)["gate"] == GATE

    cli.ok("edit", "project", shop, "--gate", "strict")
    assert document(cli, "project", shop)["gate"] == GATE | {"mode": "strict"}
    cli.ok("edit", "project", shop, "--gate", "off")
    assert "gate" not in document(cli, "project", shop)


def test_a_project_is_created_with_a_gate(cli):
    told = cli.ok("create", "project", "gated", "--gate", "strict", "-o", "json")
    try:
        assert json.loads(told)["gate"] == {"mode": "strict", "budget": 16384}
        assert "Gate:\n  Mode:   strict\n  Budget: 16384\n" in cli.ok("describe", "project", "gated")
    finally:
        cli.ok("delete", "project", "gated")


def test_a_gate_is_applied_with_its_secret_as_it_is_shown(cli, shop):
    cli.ok("create", "secret", "model-key", stdin="a-key")
    gate = GATE | {"llm": GATE["llm"] | {"secretRef": "model-key"}}
    assert applied(cli, document(cli, "project", shop) | {"gate": gate}) == "project/shop configured\n"

    shown = document(cli, "project", shop)
    assert shown["gate"] == gate
    assert applied(cli, shown) == "project/shop unchanged\n"
    assert cli.refused("delete", "secret", "model-key") == "Error: secret model-key is used by project/shop"
    cli.ok("edit", "project", shop, "--gate", "off")
    cli.ok("delete", "secret", "model-key")


def test_gate_is_an_option_of_projects_alone(cli):
    assert cli.refused("edit", "server", "time", "--gate", "brief", code=2) == "Error: --gate is for a project"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gate.llm.base_url=http://x", "gate.llm.base_url: no such field: there are baseUrl, model, secretRef"),
        ("gate.llm.baseUrl=ftp://x", "gate.llm.baseUrl: it must begin with http:// or https://"),
        ("gate.budget=lots", "gate.budget: must be a whole number"),
        ("gate.mode=open", "gate.mode: must be 'brief', 'refuse' or 'strict'"),
    ],
)
def test_what_is_wrong_in_a_gate_is_told_by_its_path(cli, shop, change, said):
    refused = cli.refused("edit", "project", shop, "--set", "gate.llm.model=small", "--set", change, code=2)

    assert said in refused
