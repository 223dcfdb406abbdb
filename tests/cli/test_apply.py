"""`mcpctl apply` against a running system: all of it or nothing, and the same again changes nothing."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from mcpctl.cli.nats_server import free_port
from tests.installation import Installation, running

TEAM = """
kind: secret
name: {x}-key
labels: {{crew: {x}}}
value: s3cret
---
kind: server
name: {x}-api
labels: {{crew: {x}}}
url: http://127.0.0.1:9/mcp
headers: {{Authorization: "secret:{x}-key"}}
---
kind: project
name: {x}
labels: {{crew: {x}}}
description: of team {x}
servers: [{x}-api]
maxTokenTtl: 7d
---
kind: group
name: {x}-devs
labels: {{crew: {x}}}
---
kind: user
name: {x}-ann
labels: {{crew: {x}}}
groups: [{x}-devs]
---
kind: serviceaccount
name: {x}-ci
labels: {{crew: {x}}}
groups: [{x}-devs]
---
kind: rbac
name: {x}-devs
project: {x}
labels: {{crew: {x}}}
subjects: ["Group:{x}-devs"]
roleBindings:
  - {{role: run, resource: servers, name: {x}-api}}
---
kind: mcptoken
name: bot
project: {x}
labels: {{crew: {x}}}
ttl: 1d
roleBindings:
  - {{role: run, resource: servers}}
"""


@pytest.fixture(scope="module")
def cli(tmp_path_factory):
    """An installation of its own: what these tests apply would be in the lists of others."""
    with running(Installation(tmp_path_factory.mktemp("apply"), free_port())) as installation:
        yield installation


KINDS = (
    "secret/{x}-key",
    "server/{x}-api",
    "project/{x}",
    "group/{x}-devs",
    "user/{x}-ann",
    "serviceaccount/{x}-ci",
    "rbac/{x}-devs",
    "mcptoken/bot -p {x}",
)


def lines(x, action, suffix=""):
    return {f"{kind.format(x=x)} {action}{suffix}" for kind in KINDS}


def applied(cli, text, *options):
    return set(cli.ok("apply", "-f", "-", *options, stdin=text).splitlines())


def names(cli, kind, *options):
    return set(cli.ok("get", kind, "-o", "name", *options).split())


def test_every_kind_is_created_and_the_same_again_changes_nothing(cli):
    text = TEAM.format(x="one")

    assert applied(cli, text) == lines("one", "created")
    assert applied(cli, text) == lines("one", "unchanged")
    assert "project/one" in names(cli, "projects")
    assert cli.ok("get", "mcptokens", "-p", "one", "-o", "name").split() == ["mcptoken/bot"]


def test_a_dry_run_prints_the_plan_and_does_nothing(cli):
    text = TEAM.format(x="two")

    assert applied(cli, text, "--dry-run") == lines("two", "created", " (dry run)")

    assert "project/two" not in names(cli, "projects")
    assert "group/two-devs" not in names(cli, "groups")


def test_what_differs_is_configured(cli):
    text = TEAM.format(x="three")
    applied(cli, text)

    changed = applied(cli, text.replace("of team three", "renamed"))

    assert changed == (lines("three", "unchanged") - {"project/three unchanged"}) | {"project/three configured"}
    assert yaml.safe_load(cli.ok("get", "project", "three", "-o", "yaml"))["description"] == "renamed"


@pytest.mark.parametrize("kind", ["project", "server", "secret", "group", "user", "serviceaccount", "rbac", "mcptoken"])
def test_what_get_prints_is_what_apply_takes(cli, kind):
    applied(cli, TEAM.format(x="four"))
    options = ("-p", "four") if kind == "mcptoken" else ()
    name = {"project": "four", "server": "four-api", "secret": "four-key", "group": "four-devs"} | {
        "user": "four-ann",
        "serviceaccount": "four-ci",
        "rbac": "four-devs",
        "mcptoken": "bot",
    }

    text = cli.ok("get", kind, name[kind], *options, "-o", "yaml")

    (line,) = applied(cli, text)
    assert line.endswith(" unchanged"), line


def test_a_list_as_yaml_is_a_file_of_documents(cli):
    applied(cli, TEAM.format(x="five"))

    text = cli.ok("get", "servers", "-o", "yaml", "-l", "crew=five")

    assert [document["name"] for document in yaml.safe_load_all(text)] == ["five-api"]
    assert applied(cli, text) == {"server/five-api unchanged"}


def test_an_error_in_the_last_document_changes_nothing(cli):
    text = TEAM.format(x="six") + "---\nkind: project\nname: six-b\nservers: [nowhere]\n"

    line = cli.refused("apply", "-f", "-", stdin=text)

    assert "nowhere" in line
    assert "project/six" not in names(cli, "projects")
    assert "user/six-ann" not in names(cli, "users")
    assert "secret/six-key" not in names(cli, "secrets")


def test_a_refusal_of_the_last_owner_changes_nothing_at_the_others(cli):
    text = TEAM.format(x="seven").replace("ttl: 1d", "ttl: 30d")  # longer than the project allows

    line = cli.refused("apply", "-f", "-", stdin=text, code=1)

    assert line.endswith("the project lets its mcptokens last 1w at the most")
    assert "project/seven" not in names(cli, "projects")


def test_a_document_that_cannot_be_read_is_told_with_file_and_line(cli, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("kind: project\nname: eight\n---\nkind: project\nname: nine\nserver: [x]\n")

    line = cli.refused("apply", "-f", str(file), code=2)

    assert f"{file}, line 6: server: no such field of a project" in line
    assert "project/eight" not in names(cli, "projects")


def test_a_folder_is_applied_as_one(cli, tmp_path):
    (tmp_path / "b.yaml").write_text("kind: project\nname: ten\nservers: [ten-api]\n")
    (tmp_path / "c.json").write_text(json.dumps({"kind": "server", "name": "ten-api", "url": "http://127.0.0.1:9/"}))
    (tmp_path / "notes.txt").write_text("not a document")

    assert set(cli.ok("apply", "-f", str(tmp_path)).splitlines()) == {"server/ten-api created", "project/ten created"}


def test_pruning_removes_what_has_the_label_and_is_in_no_document(cli):
    text = TEAM.format(x="eleven")
    applied(cli, text)
    applied(cli, "kind: project\nname: eleven-other\nlabels: {crew: another}\n")
    left = "\n---\n".join(text.split("\n---\n")[:3])  # secret, server, project

    plan = applied(cli, left, "--prune", "-l", "crew=eleven", "--dry-run")
    done = applied(cli, left, "--prune", "-l", "crew=eleven")

    gone = {line for line in lines("eleven", "pruned") if not line.startswith(("secret", "server/", "project"))}
    kept = {line for line in lines("eleven", "unchanged") if line.startswith(("secret", "server/", "project"))}
    assert done == gone | kept
    assert plan == {f"{line} (dry run)" for line in done}
    assert "user/eleven-ann" not in names(cli, "users")
    assert "project/eleven-other" in names(cli, "projects")
    (token,) = json.loads(cli.ok("get", "mcptokens", "-p", "eleven", "-o", "json"))["items"]
    assert token["status"]["state"] == "revoked"


def test_everything_can_be_pruned_but_what_another_one_needs(cli):
    applied(cli, TEAM.format(x="twelve"))
    applied(cli, "kind: project\nname: twelve-user\nservers: [twelve-api]\n")

    line = cli.refused(
        "apply", "-f", "-", "--prune", "-l", "crew=twelve", stdin="kind: group\nname: z\nlabels: {crew: twelve}\n"
    )

    assert "twelve-user" in line or "twelve-api" in line
    assert "project/twelve" in names(cli, "projects")


def test_pruning_needs_a_label(cli):
    assert "--prune needs -l" in cli.refused("apply", "-f", "-", "--prune", stdin="kind: group\nname: a\n", code=2)


def test_a_document_without_the_label_of_the_selector_is_refused(cli):
    line = cli.refused("apply", "-f", "-", "-l", "crew=x", stdin="kind: group\nname: a\n", code=2)

    assert "group a has not the labels" in line


def test_bearers_of_new_mcptokens_are_written_to_a_folder_when_asked(cli, tmp_path):
    text = TEAM.format(x="thirteen")

    done = cli.run("apply", "-f", "-", "--token-out", str(tmp_path / "tokens"), stdin=text)

    assert done.returncode == 0, done.stderr
    file = tmp_path / "tokens" / "thirteen.bot.token"
    bearer = file.read_text().strip()
    assert bearer.startswith("mcpctl_pat_")
    assert bearer not in done.stdout + done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(file) in done.stderr


def test_without_a_folder_it_is_said_that_the_bearer_is_lost(cli):
    done = cli.run("apply", "-f", "-", stdin=TEAM.format(x="fourteen"))

    assert "was not kept" in done.stderr
    assert "mcpctl_pat_" not in done.stdout + done.stderr


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_done(cli, tmp_path):
    (tmp_path / "file").write_text("")

    line = cli.refused(
        "apply", "-f", "-", "--token-out", str(tmp_path / "file"), stdin=TEAM.format(x="fifteen"), code=2
    )

    assert "cannot write" in line
    assert "project/fifteen" not in names(cli, "projects")


def test_a_revoked_mcptoken_is_created_anew(cli):
    text = TEAM.format(x="sixteen")
    applied(cli, text)
    cli.ok("revoke", "mcptoken", "bot", "-p", "sixteen")

    assert "mcptoken/bot -p sixteen created" in applied(cli, text)


def test_what_one_may_not_do_oneself_cannot_be_applied(cli):
    cli.ok("create", "user", "sven", "--password-stdin", stdin="correct horse\n")
    cli.ok("create", "rbac", "sven", "--subject", "User:sven", "--roleBindings", "role:view,resource:projects")
    other = {"MCPCTL_CONFIG": str(cli.folder / "sven.yaml"), "MCPCTL_NATS_URL": cli.nats_url}
    cli.ok("login", "--user", "sven", "--password-stdin", "--nats-url", cli.nats_url, stdin="correct horse\n", **other)

    line = cli.refused("apply", "-f", "-", stdin="kind: project\nname: seventeen\n", **other)

    assert "not allowed" in line
    assert "project/seventeen" not in names(cli, "projects")


def test_two_applies_at_once_leave_one_state(cli):
    text = TEAM.format(x="eighteen")

    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: cli.run("apply", "-f", "-", stdin=text), range(2)))

    assert 0 in {each.returncode for each in done}
    assert applied(cli, text) == lines("eighteen", "unchanged")
