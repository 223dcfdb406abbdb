"""`import mcpservers`: what an MCP client has configured, taken over whole or not at all."""

import json
import sys

import pytest

FILE = {
    "mcpServers": {
        "Imported": {"command": sys.executable, "args": ["-c", "pass"], "env": {"API_KEY": "hunter2", "MODE": "x"}},
        "remote": {"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": "Bearer hunter3"}, "disabled": True},
    }
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(FILE))
    return str(path)


def names(cli, kind):
    return set(cli.ok("get", kind, "-o", "name").split())


def test_a_bad_file_changes_nothing(cli, tmp_path):
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": FILE["mcpServers"] | {"bad": {"args": []}}}))

    line = cli.refused("import", "mcpservers", str(tmp_path / "mcp.json"), code=2)

    assert "bad: command and args" in line
    assert "server/imported" not in names(cli, "servers")


def test_a_dry_run_shows_what_would_be_done(cli, file):
    done = cli.ok("import", "mcpservers", file, "-p", "taken", "--create-project", "--dry-run")

    assert "server/imported created (dry run)" in done.splitlines()
    assert "server/imported" not in names(cli, "servers")


def test_servers_are_created_secrets_sealed_and_the_project_filled(cli, file):
    assert "add --create-project" in cli.refused("import", "mcpservers", file, "-p", "taken")

    done = cli.run("import", "mcpservers", file, "-p", "taken", "--create-project")

    assert done.returncode == 0, done.stderr
    assert "hunter" not in done.stdout + done.stderr
    assert set(done.stdout.splitlines()) == {
        "secret/imported-api-key created",
        "secret/remote-authorization created",
        "server/imported created",
        "server/remote created",
        "project/taken created",
    }
    assert "Imported is called imported here." in done.stderr
    assert "remote: disabled" in done.stderr
    server = json.loads(cli.ok("get", "server", "imported", "-o", "json"))
    assert server["env"] == {"API_KEY": "secret:imported-api-key", "MODE": "x"}
    assert json.loads(cli.ok("get", "project", "taken", "-o", "json"))["servers"] == ["imported", "remote"]

    assert "there is already: server imported" in cli.refused("import", "mcpservers", file, "-p", "taken")


def test_a_file_that_is_none_is_told(cli, tmp_path):
    (tmp_path / "x").write_text("{")

    assert "no valid JSON" in cli.refused("import", "mcpservers", str(tmp_path / "x"), code=2)
    assert "cannot read" in cli.refused("import", "mcpservers", str(tmp_path / "nowhere"), code=2)
    assert "no mcpServers" in cli.refused("import", "mcpservers", "-", stdin="{}", code=2)


def test_arguments_that_look_like_a_secret_are_pointed_out_without_their_value(cli):
    data = {"mcpServers": {"open": {"command": "x", "args": ["--api-key=hunter4"]}}}

    done = cli.run("import", "mcpservers", "-", "--dry-run", stdin=json.dumps(data))

    assert done.returncode == 0, done.stderr
    assert "what looks like a secret in open: its arguments" in done.stderr
    assert "hunter4" not in done.stdout + done.stderr


def test_servers_join_those_that_a_project_has(cli, tmp_path):
    cli.ok("create", "project", "joined", "--server", "time", "--naming", "prefix")
    (tmp_path / "mcp.json").write_text(json.dumps({"servers": {"joining": {"command": "x"}}}))

    cli.ok("import", "mcpservers", str(tmp_path / "mcp.json"), "-p", "joined", "--prefix", "new-")

    assert json.loads(cli.ok("get", "project", "joined", "-o", "json"))["servers"] == ["time", "new-joining"]


def test_import_of_a_file_is_the_import_of_a_backup(cli, tmp_path):
    (tmp_path / "backup.json").write_text("{}")

    assert cli.refused("import", str(tmp_path / "backup.json"), code=2) == cli.refused(
        "import", "backup", str(tmp_path / "backup.json"), code=2
    )
