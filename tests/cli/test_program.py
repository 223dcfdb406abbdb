import os
import subprocess
import sys

import pytest

from mcpctl.bus.contract import Call
from mcpctl.cli.main import Program
from mcpctl.cli.resources import RESOURCES, find

HEAVY = ("alembic", "sqlmodel", "sqlalchemy", "aiohttp.client", "cryptography", "argon2", "mcp", "rich")


def program(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mcpctl.cli.main", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def modules_after(code):
    script = f"{code}\nimport sys\nprint(*(name for name, module in sys.modules.items() if module))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_help_lists_every_command():
    told = program("--help").stdout

    for row in Program.table:
        assert f"  {row.name} " in told
        assert row.help in told


@pytest.mark.parametrize("row", Program.table, ids=lambda row: row.name)
def test_every_command_of_the_table_can_be_loaded(row):
    assert row.load().name == row.name


def test_without_arguments_the_help_is_shown():
    done = program()

    assert done.returncode == 0
    assert "Usage: mcpctl" in done.stdout


def test_the_help_loads_nothing_that_it_does_not_need():
    loaded = modules_after("from mcpctl.cli.main import main\nmain(['--help'])")

    assert not loaded & {*HEAVY, "pydantic", "nats", "yaml"}


def test_a_verb_loads_no_database_and_no_http_server():
    loaded = modules_after("import mcpctl.cli.session, mcpctl.cli.verbs, mcpctl.cli.getting, mcpctl.cli.resources")

    assert not loaded & set(HEAVY) - {"rich"}  # structlog takes rich where it is installed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gte"], 'no command "mcpctl gte": did you mean get?'),
        (["create", "serverr"], 'no command "mcpctl create serverr": did you mean server?'),
        (["get", "servrs"], 'no resource "servrs": did you mean servers?'),
        (["get", "xyzzy"], "there are projects, servers, prompts, mcptokens"),
        (["get"], "missing argument"),
        (["delete", "servers"], "name the servers that you mean, or choose them with -l"),
        (["delete", "server", "a", "-l", "b"], "give either names or -l"),
        (["get", "servers", "-l", "="], "is no label selector"),
        (["get", "tool", "a", "-w"], "a tool cannot be watched"),
        (["get", "servers", "--server", "a"], "--server is for tools"),
        (["get", "all", "-w"], "get all takes neither -w nor --server"),
        (["delete", "tool", "a"], "a tool cannot be deleted: its server offers it"),
        (["get", "--zzz"], "no such option: --zzz (see mcpctl get --help)"),
        (["get", "servers", "-o", "xml"], "'xml' is not one of 'table', 'wide', 'json', 'yaml', 'name'"),
        (["get", "server/a", "project/b"], "project/b is no server"),
        (["revoke", "server", "a"], "a server cannot be revoked (that can: mcptoken)"),
        (["edit", "mcptoken", "a"], "an mcptoken cannot be edited: revoke it and create another, or give it"),
        (["edit", "secret", "a"], "a secret cannot be edited: give it another value with mcpctl create secret"),
        (["edit", "user", "a", "--add", "User:b"], "--add and --remove are for a group"),
        (["edit", "server", "a", "--add-group", "b"], "a server is in no group: that can user, serviceaccount, group"),
        (["edit", "group", "a", "--add", "bob"], "--add bob: say of which kind it is (User:bob, ServiceAccount:bob"),
        (["label", "server", "a"], "say which labels"),
        (["label", "server", "a=b"], "name the servers that you mean"),
        (["rotate", "mcptoken", "a"], "missing option '-p' / '--project'"),
        (["rotate", "mcptoken", "a", "-p", "b", "--overlap", "x"], "'x' is no duration"),
        (["rotate", "server", "a"], 'no command "mcpctl rotate server"'),
        (["describe", "mcptoken", "a"], "mcptokens are named within a project: add -p PROJECT"),
        (["create", "server", "a"], "a server has either --url or --command"),
        (["create", "server", "a", "--url", "http://a/", "--header", "x"], "--header takes NAME=VALUE"),
        (["create", "server", "a", "--command", "'"], "--command is not a command line"),
        (["create", "server", "A", "--command", "x"], "name: must be 1 to 63 of a-z, 0-9 and inner hyphens"),
        (["create", "rbac", "a", "--subject", "User:a", "--roleBindings", "role:x"], "binding: "),
        (["create", "rbac", "a", "--subject", "ann", "--roleBindings", "action:logs"], "write User:NAME"),
        (["create", "rbac", "a", "--subject", "User:a"], "say what it grants: --roleBindings"),
        (["create", "rbac", "a", "--subject", "User:a", "--operation", "logs"], "write --roleBindings action:logs"),
        (["create", "mcptoken", "a", "-p", "b", "--binding", "run:tools"], "write --bind role:run,resource:tools"),
        (["create", "group", "a", "--member", "ann"], "--member ann: say of which kind it is (User:ann,"),
        (["create", "group", "a", "--label", "b"], "--label b: write KEY=VALUE"),
        (["create", "project", "a", "--max-token-ttl", "soon"], "max_token_ttl: "),
        (["create", "project", "a", "--burst", "5"], "burst without requests_per_second: a burst is what may come"),
        (["create", "mcptoken", "a", "-p", "b", "--ttl", "soon"], "write 30d, 12h"),
        (["run", "actor", "nobody"], 'no actor "nobody": there are token, rbac'),
        (["audit", "get", "--since", "yesterday"], "write 30d"),
        (["audit", "get", "--outcome", "fine"], "'fine' is not one of"),
        (["test", "mcp", "http://h/", "--args", "{"], "--args is no valid JSON"),
        (["test", "mcp", "http://h/", "--args", "[]"], "--args must be a JSON object"),
        (["test", "mcp", "ftp://h/"], "http://"),
        (["test", "mcp", "http://h/", "--token", "a b"], "a token does not belong on the command line"),
        (["test", "mcp", "http://h/", "--token", "@/nowhere"], "cannot read /nowhere"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(arguments, said, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("current: a\ncontexts: {a: {nats_url: 'nats://127.0.0.1:1', bearer: x}}\n")
    config.chmod(0o600)

    done = program(*arguments, MCPCTL_CONFIG=str(config))

    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: ")
    assert said in done.stderr


def test_without_a_login_the_error_says_how_to_log_in(tmp_path):
    done = program("get", "servers", MCPCTL_CONFIG=str(tmp_path / "none.yaml"))

    assert done.returncode == 1
    assert "mcpctl login" in done.stderr


def test_a_bus_that_is_away_is_exit_code_3(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("current: a\ncontexts: {a: {nats_url: 'nats://127.0.0.1:1', bearer: x}}\n")
    config.chmod(0o600)

    done = program("get", "servers", MCPCTL_CONFIG=str(config))

    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert "nats://127.0.0.1:1 cannot be reached" in done.stderr


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.name)
def test_every_call_of_the_table_is_one_that_operators_may_make(resource):
    for verb in resource.calls:
        call = resource.call(verb)

        assert isinstance(call, Call)
        assert "operator" in call.callers
        if verb in ("get", "delete", "revoke"):
            assert "name" in call.request.model_fields
    assert resource.calls or resource.lister


def test_nouns_are_found_by_each_of_their_names():
    assert find("srv") is find("Servers") is find("server")
    assert find("tokens") is find("mcptoken")


def test_the_version_is_told_in_every_form():
    assert program("--version").stdout == program("version").stdout
    assert '"mcpctl"' in program("version", "-o", "json").stdout
