"""`get tools` and `call tool`: through the gateway, as an agent sees and calls them."""

import json

import pytest


def test_tools_are_listed_with_their_servers_under_the_names_that_agents_call(cli):
    lines = cli.ok("get", "tools", "-p", "demo").splitlines()

    assert lines[0].split() == ["NAME", "PROJECT", "SERVER", "STATE", "DESCRIPTION"]
    rows = {line.split()[0]: line.split()[2] for line in lines[1:]}
    assert rows["time__get_current_time"] == "time"
    assert rows["notes__count"] == "notes"


def test_tools_of_one_server_and_as_json(cli):
    items = json.loads(cli.ok("get", "tools", "-p", "demo", "--server", "time", "-o", "json"))["items"]

    assert {item["server"] for item in items} == {"time"}
    assert "inputSchema" in items[0]


def test_a_project_that_is_not_there_is_told(cli):
    assert 'project "nowhere" not found' in cli.refused("get", "tools", "-p", "nowhere")
    assert 'server "nowhere" is not in project "demo"' in cli.refused(
        "get", "tools", "-p", "demo", "--server", "nowhere"
    )


def test_a_server_that_is_away_is_named_and_the_others_are_listed(cli):
    cli.ok("create", "server", "gone", "--url", "http://127.0.0.1:9/mcp")
    cli.ok("create", "project", "partly", "--server", "time", "--server", "gone")

    done = cli.run("get", "tools", "-p", "partly")

    assert done.returncode == 0
    assert "time__get_current_time" in done.stdout
    assert "Not listed: server gone of project partly" in done.stderr
    assert "Errno" not in done.stderr

    line = cli.refused("call", "tool", "gone__x", "-p", "partly", code=3)
    assert "server gone" in line


def test_without_a_project_all_that_the_operator_sees_are_listed(cli):
    cli.ok("create", "project", "second", "--server", "time")

    items = json.loads(cli.ok("get", "tools", "-o", "json"))["items"]

    assert {"demo", "second"} <= {item["project"] for item in items}
    assert "get_current_time" in {item["name"] for item in items if item["project"] == "second"}


def test_an_operator_without_the_right_to_see_tools_is_told(cli):
    cli.ok("create", "user", "blind", "--password-stdin", stdin="correct horse\n")
    other = {"MCPCTL_CONFIG": str(cli.folder / "blind.yaml")}
    given = ("login", "--user", "blind", "--password-stdin", "--nats-url", cli.nats_url, "--gateway-url", cli.url)
    cli.ok(*given, stdin="correct horse\n", **other)

    assert "user blind may not view projects" in cli.refused("get", "tools", "-p", "demo", **other)


def test_a_context_without_a_gateway_says_what_to_set(cli, tmp_path):
    lines = (cli.folder / "config.yaml").read_text().splitlines(keepends=True)
    (tmp_path / "config.yaml").write_text("".join(line for line in lines if "gateway_url" not in line))
    (tmp_path / "config.yaml").chmod(0o600)
    other = {"MCPCTL_CONFIG": str(tmp_path / "config.yaml")}

    for command in (("get", "tools", "-p", "demo"), ("call", "tool", "x", "-p", "demo"), ("mcp", "-p", "demo")):
        assert "mcpctl config set-context NAME --gateway-url URL" in cli.refused(*command, code=2, **other)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--args", '{"timezone": "UTC"}'),
        ("--arg", "timezone=UTC"),
        ("--args", "-"),
        ("--args", "{}", "--arg", "timezone=UTC"),
    ],
)
def test_a_tool_is_called_and_its_text_printed(cli, arguments):
    text = cli.ok("call", "tool", "time__get_current_time", "-p", "demo", *arguments, stdin='{"timezone": "UTC"}')

    assert json.loads(text)["timezone"] == "UTC"


def test_arguments_come_from_a_file_too(cli, tmp_path):
    (tmp_path / "args.json").write_text('{"timezone": "UTC"}')

    assert "UTC" in cli.ok("call", "tool", "time__get_current_time", "-p", "demo", "--args", f"@{tmp_path}/args.json")


def test_a_tool_of_one_server_has_its_own_name(cli):
    text = cli.ok("call", "tool", "get_current_time", "-p", "demo", "--server", "time", "--arg", "timezone=UTC")

    assert "UTC" in text


def test_a_tool_is_named_by_its_server_too(cli):
    text = cli.ok("call", "tool", "time/get_current_time", "-p", "demo", "--arg", "timezone=UTC")
    result = json.loads(cli.ok("call", "tool", "notes/count", "-p", "demo", "--arg", "to=3", "-o", "json"))

    assert "UTC" in text
    assert not result.get("isError")


def test_an_argument_has_the_type_of_the_tools_schema(cli):
    result = json.loads(cli.ok("call", "tool", "notes__count", "-p", "demo", "--arg", "to=3", "-o", "json"))

    assert not result.get("isError")


def test_a_call_with_a_token_and_a_url_needs_no_context(cli, tmp_path):
    given = ("--gateway-url", cli.url, "--arg", "timezone=UTC")
    alone = {"MCPCTL_CONFIG": str(tmp_path / "none.yaml"), "MCPCTL_TOKEN": cli.token}

    assert "UTC" in cli.ok("call", "tool", "time__get_current_time", "-p", "demo", *given, **alone)


def test_an_error_of_the_tool_is_printed_and_the_exit_code_is_1(cli):
    done = cli.run("call", "tool", "time__get_current_time", "-p", "demo", "--arg", "timezone=Nowhere/City")

    assert done.returncode == 1
    assert "Nowhere/City" in done.stdout
    assert done.stderr == "Error: the tool time__get_current_time reports an error\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("time__get_current_time", "-p", "demo", "--args", "{"), 2, "--args is no valid JSON"),
        (("time__get_current_time", "-p", "demo", "--args", "[1]"), 2, "--args must be a JSON object"),
        (("time__get_current_time", "-p", "demo", "--arg", "timezone"), 2, "--arg takes NAME=VALUE"),
        (("nothing", "-p", "demo"), 1, "Unknown tool"),
        (("time/nothing", "-p", "demo"), 1, "Unknown tool"),
        (("nothing/get_current_time", "-p", "demo"), 1, "403"),
        (("git/get_current_time", "-p", "demo"), 1, "Unknown tool"),
        (("x", "-p", "demo", "--args", "-", "--token", "-"), 2, "stdin cannot be both"),
        (("time__get_current_time", "-p", "demo/../demo"), 1, "403"),
        (("time__get_current_time", "-p", "nowhere"), 1, "403"),
        (("time__get_current_time", "-p", "demo", "--token", "mcpctl_pat_x"), 2, "does not belong on the command line"),
    ],
)
def test_what_cannot_be_called_is_told_in_one_line(cli, arguments, code, said):
    assert said in cli.refused("call", "tool", *arguments, code=code)


def test_a_gateway_that_is_away_is_exit_code_3(cli, tmp_path):
    config = (cli.folder / "config.yaml").read_text().replace(cli.url, "http://127.0.0.1:9")
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "config.yaml").chmod(0o600)

    cli.refused("call", "tool", "x", "-p", "demo", code=3, MCPCTL_CONFIG=str(tmp_path / "config.yaml"))


def test_the_bearer_of_the_environment_is_used_and_can_be_given_otherwise(cli, tmp_path):
    named = ("call", "tool", "time__get_current_time", "-p", "demo", "--arg", "timezone=UTC")
    bearer = cli.ok("create", "mcptoken", "of-call", "-p", "demo", "-o", "token").strip()
    (tmp_path / "token").write_text(cli.token + "\n")
    (tmp_path / "token").chmod(0o600)

    assert "Unknown tool" in cli.refused(*named, code=1, MCPCTL_TOKEN=bearer)
    cli.ok(*named, "--token", f"@{tmp_path}/token", MCPCTL_TOKEN=bearer)
    cli.ok(*named, "--token", "-", stdin=cli.token, MCPCTL_TOKEN=bearer)
