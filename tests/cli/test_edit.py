"""`mcpctl edit` with an editor: a script that does to the file what a person would."""

import re
from pathlib import Path

import pytest

from mcpctl.cli.edit import with_changes
from mcpctl.cli.errors import CliError


@pytest.fixture
def project(cli):
    cli.ok("create", "project", "edited", "--server", "time", "--description", "before")
    yield "edited"
    cli.run("delete", "project", "edited")


@pytest.fixture
def editor(tmp_path):
    """Return a maker of editors: a shell command that gets the file as `$1`."""

    def make(command: str) -> dict[str, str]:
        script = tmp_path / "editor"
        script.write_text(f"#!/bin/sh\n{command}\n")
        script.chmod(0o755)
        return {"EDITOR": str(script), "VISUAL": "", "TMPDIR": str(tmp_path)}

    return make


def test_what_the_editor_leaves_is_sent(cli, project, editor):
    assert cli.ok("edit", "project", project, **editor('sed -i s/before/after/ "$1"')) == 'project "edited" edited\n'

    assert "after" in cli.ok("get", "project", project)


def test_an_edit_without_a_change_sends_nothing(cli, project, editor):
    done = cli.run("edit", "project", project, **editor("true"))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Nothing was changed.\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ('echo "servers: [" > "$1"', "the edit, line 2: no valid YAML"),
        ('echo "- a" > "$1"', "the edit, line 1: a document is a mapping"),
        ('sed -i "s/^description:.*/description: 3/" "$1"', "description: must be a text"),
        ('echo "colour: red" >> "$1"', "colour: no such field of a project: there are name"),
        ('sed -i s/edited/renamed/ "$1"', "kind and name cannot be changed"),
        ('sed -i s/project/server/ "$1"', "the edit, line "),
        ('sed -i s/time/nowhere/ "$1"', "nowhere"),
        ('echo > "$1"', "the edit is not one document"),
    ],
)
def test_an_edit_that_is_refused_is_kept(cli, project, editor, command, said):
    done = cli.run("edit", "project", project, **editor(command))

    assert done.returncode in (1, 2)
    assert said in done.stderr
    kept = re.search(r"your edit is kept in (\S+\.yaml)", done.stderr)
    assert Path(kept[1]).read_text() != ""
    assert "before" in cli.ok("get", "project", project)


def test_a_change_by_somebody_else_meanwhile_is_told(cli, project, editor):
    program = f"{cli.program} edit project edited --set description=theirs"

    refused = cli.run("edit", "project", project, **editor(f'{program} >&2; sed -i s/before/mine/ "$1"'))

    assert refused.returncode == 1
    assert 'Error: project "edited" was changed by somebody else meanwhile: edit it again' in refused.stderr
    assert "theirs" in cli.ok("get", "project", project)


def test_an_editor_that_fails_changes_nothing(cli, project, editor):
    refused = cli.refused("edit", "project", project, **editor('sed -i s/before/after/ "$1"; exit 3'))

    assert "the editor ended with code 3" in refused
    assert "before" in cli.ok("get", "project", project)


def test_an_editor_that_is_not_there_is_one_line(cli, project):
    refused = cli.refused("edit", "project", project, code=2, EDITOR="/no/such/editor", VISUAL="")

    assert "cannot start the editor '/no/such/editor'" in refused


def test_what_an_editor_shows_is_the_document_without_its_status(cli, project, editor, tmp_path):
    cli.ok("edit", "project", project, **editor(f'cp "$1" {tmp_path}/shown'))

    shown = "kind: project\nname: edited\ndescription: before\nservers:\n- time\nnaming: plain\n"
    assert (tmp_path / "shown").read_text() == shown


def test_an_edit_to_what_is_there_already_changes_nothing(cli, project):
    assert cli.ok("edit", "project", project, "--set", "description=before") == 'project "edited" unchanged\n'


def test_a_group_is_edited_by_its_members(cli):
    cli.ok("create", "sa", "leaver")
    cli.ok("create", "group", "crew", "--member", "ServiceAccount:leaver")
    try:
        assert cli.ok("edit", "group", "crew", "--add", "User:admin", "--remove", "ServiceAccount:leaver") == (
            'group "crew" edited\n'
        )
        assert "members:\n  - User:admin\n" in cli.ok("get", "group", "crew", "-o", "yaml")
        cli.ok("edit", "group", "crew", "--set", "description=Who runs it")
        shown = cli.ok("get", "group", "crew", "-o", "yaml")
        assert "description: Who runs it" in shown
        assert "- User:admin" in shown
    finally:
        cli.ok("delete", "group", "crew")
        cli.ok("delete", "sa", "leaver")


def test_a_service_account_joins_and_leaves_groups(cli):
    cli.ok("create", "group", "robots")
    cli.ok("create", "sa", "arm", "--description", "before")
    try:
        cli.ok("edit", "sa", "arm", "--add-group", "robots")
        assert "groups:\n- robots\n" in cli.ok("get", "sa", "arm", "-o", "yaml")
        refused = cli.refused("edit", "sa", "arm", "--remove-group", "robots", "--set", "description=x", code=2)
        assert "two edits" in refused
        cli.ok("edit", "sa", "arm", "--remove-group", "robots")
        assert "groups" not in cli.ok("get", "sa", "arm", "-o", "yaml")
    finally:
        cli.ok("delete", "sa", "arm")
        cli.ok("delete", "group", "robots")


def test_paths_lead_into_mappings_and_null_removes():
    document = {"name": "a", "headers": {"X-Old": "1"}}

    changed = with_changes(document, ["headers.X-New=1.0", "headers.X-Old=null", "description=a: b", "servers=[a, b]"])

    assert changed == {"name": "a", "headers": {"X-New": "1.0"}, "description": "a: b", "servers": ["a", "b"]}
    assert document == {"name": "a", "headers": {"X-Old": "1"}}


def test_dots_lead_through_specifications_and_end_at_a_mapping():
    document = {"kind": "project", "name": "a", "labels": {"a.b/c": "1"}}

    changed = with_changes(document, ["gate.llm.timeoutMs=900", "gate.llm.model=7", "labels.a.b/c=2", "labels.d=3"])

    assert changed == {
        "kind": "project",
        "name": "a",
        "labels": {"a.b/c": "2", "d": "3"},
        "gate": {"llm": {"timeoutMs": 900, "model": "7"}},
    }


@pytest.mark.parametrize("change", ["description", "=x", "name.deeper=x", "servers=[", ".a=b", "a.=b"])
def test_a_change_that_leads_nowhere_is_refused(change):
    with pytest.raises(CliError) as refused:
        with_changes({"name": "a"}, [change])

    assert refused.value.code == 2


def test_the_site_of_a_routers_account_cannot_be_changed(cli):
    cli.ok("create", "serviceaccount", "lab-router", "--router-site", "lab")

    said = cli.refused("edit", "serviceaccount", "lab-router", "--set", "routerSite=shop", code=2)

    assert said == "Error: routerSite cannot be changed: delete the service account, and create it again"
    assert "lab" in cli.ok("get", "serviceaccount", "lab-router", "-o", "wide")
