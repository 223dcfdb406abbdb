"""How agents see the tools of a project, from the command line."""

import json

import pytest
import yaml


@pytest.fixture
def solo(cli):
    """A project with one server and plain names, gone afterwards."""
    cli.ok("create", "project", "solo", "--server", "time")
    yield "solo"
    cli.run("delete", "project", "solo")
    cli.run("delete", "server", "second", "--ignore-not-found")


def naming(cli, name):
    return yaml.safe_load(cli.ok("get", "project", name, "-o", "yaml"))["naming"]


def tools(cli, name):
    return {item["name"] for item in json.loads(cli.ok("get", "tools", "-p", name, "-o", "json"))["items"]}


def test_the_naming_is_shown_wherever_a_project_is(cli, solo):
    assert naming(cli, solo) == "plain"
    assert naming(cli, "demo") == "prefix"
    assert "Naming:        plain" in cli.ok("describe", "project", solo)
    assert "plain" in cli.ok("get", "project", solo, "-o", "wide")
    assert "naming <one of plain, prefix>" in cli.ok("explain", "project")


def test_a_second_server_is_refused_until_new_names_are_asked_for(cli, solo):
    bearer = cli.ok("create", "mcptoken", "agent", "-p", solo, "--bind", "role:run,resource:servers", "-o", "token")
    call = ("call", "tool", "-p", solo, "--arg", "timezone=UTC", "--token", "-")

    refusals = [
        cli.refused("create", "server", "second", "--command", "x", "-p", solo),
        cli.refused("edit", "project", solo, "--set", "servers=[time,git]"),
    ]
    before = tools(cli, solo)
    cli.ok(*call, "get_current_time", stdin=bearer)
    cli.ok("edit", "project", solo, "--set", "servers=[time,git]", "--naming", "prefix")
    after = tools(cli, solo)

    assert all("mcpctl edit project solo --naming prefix" in line and "time and " in line for line in refusals)
    assert "get_current_time" in before
    assert {"time__get_current_time", "git__git_log"} <= after
    assert "Unknown tool" in cli.refused(*call, "get_current_time", stdin=bearer)
    cli.ok(*call, "time__get_current_time", stdin=bearer)
    assert "cannot have naming plain" in cli.refused("edit", "project", solo, "--naming", "plain")


def test_a_project_can_begin_with_prefixes(cli):
    cli.ok("create", "project", "prefixed", "--server", "time", "--naming", "prefix")

    assert "time__get_current_time" in tools(cli, "prefixed")
    assert "get_current_time" in cli.ok("get", "tools", "-p", "prefixed", "--server", "time")
    cli.ok("edit", "project", "prefixed", "--naming", "plain")
    assert "get_current_time" in tools(cli, "prefixed")
    cli.ok("delete", "project", "prefixed")


def test_a_document_says_it_and_one_that_does_not_changes_nothing(cli, solo, tmp_path):
    file = tmp_path / "project.yaml"
    file.write_text("kind: project\nname: solo\nservers: [time]\nnaming: prefix\n")
    planned = cli.ok("apply", "-f", str(file), "--dry-run")
    applied = cli.ok("apply", "-f", str(file))
    file.write_text("kind: project\nname: solo\nservers: [time]\n")
    again = cli.ok("apply", "-f", str(file))
    file.write_text("kind: project\nname: solo\nservers: [time]\nnaming: other\n")

    assert "solo configured" in planned
    assert "solo configured" in applied
    assert "solo unchanged" in again
    assert naming(cli, solo) == "prefix"
    assert "project.yaml, line 4: naming" in cli.refused("apply", "-f", str(file), code=2)


def test_naming_is_for_projects(cli):
    assert "--naming is for a project" in cli.refused("edit", "server", "time", "--naming", "prefix", code=2)
    assert cli.run("create", "project", "odd", "--naming", "other").returncode == 2


def test_servers_of_a_client_are_not_added_to_a_plain_project_by_surprise(cli, solo, tmp_path):
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"second": {"command": "x"}}}))

    refusal = cli.refused("import", "mcpservers", str(file), "-p", solo)

    assert "time and second" in refusal
    assert naming(cli, solo) == "plain"


# What operators see of the routers


def test_a_server_is_described_with_what_each_router_says(cli):
    cli.ok("get", "tools", "-p", "demo")
    cli.ok("create", "server", "unasked", "--command", "x")
    cli.ok("create", "server", "far", "--url", "http://127.0.0.1:9/mcp")
    cli.ok("create", "project", "away", "--server", "far", "--server", "time")
    cli.run("get", "tools", "-p", "away")

    reached, unasked, away = (cli.ok("describe", "server", name) for name in ("time", "unasked", "far"))
    rows = {line.split()[0]: line for line in cli.ok("get", "servers", "-o", "wide").splitlines()}

    assert "reached, speaks 2026-07-28" in reached
    assert "not in use" in unasked
    assert "away since 20" in away
    assert "ago): server far: " in away
    assert "   ok   " in rows["time"]
    assert "   unused   " in rows["unasked"]
    assert "   away   " in rows["far"]
    assert "   away   " in cli.ok("get", "server", "far", "-o", "wide")
    for name in ("projects away", "servers unasked far"):
        cli.ok("delete", *name.split())


def test_a_deleted_server_says_which_projects_lose_it(cli):
    cli.ok("create", "server", "short-lived", "--command", "x")
    cli.ok("create", "project", "losing", "--server", "short-lived")

    done = cli.run("delete", "server", "short-lived")

    assert done.stdout == 'server "short-lived" deleted\n'
    assert done.stderr.startswith("It was in project losing.\nconfirmed by ")
    cli.ok("delete", "project", "losing")


@pytest.mark.parametrize(
    "command", [("get", "mcptokens"), ("get", "servers"), ("get", "all"), ("describe", "mcptokens")]
)
def test_a_list_of_a_project_that_is_not_there_says_so(cli, command):
    assert 'project "nowhere" not found' in cli.refused(*command, "-p", "nowhere")


def test_a_binding_that_can_grant_nothing_is_refused_with_what_is_meant(cli):
    given = ("create", "mcptoken", "useless", "-p", "demo", "--bind")

    assert "write name:time/* for all tools" in cli.refused(*given, "role:run,resource:tools,name:time", code=2)
    assert "write role:run,resource:tools,name:time/x" in cli.refused(
        *given, "role:run,resource:servers,name:time/x", code=2
    )
