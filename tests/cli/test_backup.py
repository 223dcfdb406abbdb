"""`mcpctl export` and `import`: the whole control plane, with tokens that still work."""

import base64
import json
import stat
import zlib

import pytest

from mcpctl.cli.nats_server import free_port
from tests.cli.conftest import TIME_IN_UTC
from tests.installation import Installation, running


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    """One of its own: a restore replaces everything."""
    with running(Installation(tmp_path_factory.mktemp("backup"), free_port(), "--demo")) as started:
        yield started


def works(installation, bearer):
    done = installation.run("test", "mcp", installation.endpoint, *TIME_IN_UTC, MCPCTL_TOKEN=bearer)
    return done.returncode == 0


def issue(installation, name):
    options = ("-p", "demo", "--bind", "role:run,resource:servers", "-o", "token")
    return installation.ok("create", "mcptoken", name, *options).strip()


def test_a_restore_brings_everything_back_but_what_was_revoked_since(installation, tmp_path):
    cli, file = installation, tmp_path / "backup.json"
    cli.ok("create", "project", "kept", "--server", "time")
    cli.ok("create", "secret", "key", stdin="hunter2")
    cli.ok("create", "group", "devs", "--member", "User:admin")
    bearer, leaked = issue(cli, "a"), issue(cli, "b")
    cli.ok("export", str(file))
    cli.ok("revoke", "mcptoken", "b", "-p", "demo")
    cli.ok("delete", "project", "kept")
    cli.ok("delete", "group", "devs")
    cli.ok("delete", "secret", "key")
    cli.ok("create", "project", "later")

    cli.ok("import", str(file), "--yes")

    assert works(cli, bearer)
    assert not works(cli, leaked)
    assert works(cli, installation.token)
    names = cli.ok("get", "projects", "-o", "name").split()
    assert "project/kept" in names
    assert "project/later" not in names
    assert "User:admin" in cli.ok("describe", "group", "devs")
    assert "secret/key" in cli.ok("get", "secrets", "-o", "name").split()


def test_tokens_work_in_another_installation_that_was_restored_from_the_backup(installation, tmp_path):
    file = tmp_path / "backup.json"
    bearer = issue(installation, "mover")
    installation.ok("export", "--secrets", "omit", str(file))

    with running(Installation(tmp_path / "other", free_port())) as other:
        assert not works(other, bearer)
        other.ok("import", str(file), "--yes")

        assert works(other, bearer)
        assert works(other, installation.token)
        assert "mcptoken/mover" in other.ok("get", "mcptokens", "-p", "demo", "-o", "name").split()


def test_nothing_in_a_backup_is_a_secret_in_clear(installation, tmp_path):
    file = tmp_path / "backup.json"
    installation.ok("create", "secret", "clear", stdin="hunter2-in-clear")

    installation.ok("export", str(file))

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert installation.token not in file.read_text()
    rows = [zlib.decompress(base64.b64decode(dump["rows"])) for dump in json.loads(file.read_text())["dumps"]]
    assert b"hunter2-in-clear" not in b"".join(rows)
    assert installation.token.encode() not in b"".join(rows)


def test_secrets_can_be_left_out(installation, tmp_path):
    file = tmp_path / "backup.json"
    installation.ok("create", "secret", "left-out", stdin="x")

    installation.ok("export", "--secrets", "omit", str(file))
    installation.ok("import", "backup", str(file), "--yes")

    assert "left-out" not in installation.ok("get", "secrets", "-o", "name")


def test_a_restore_asks_before_it_replaces_everything(installation, tmp_path):
    file = tmp_path / "backup.json"
    installation.ok("export", str(file))

    assert "--yes" in installation.refused("import", str(file), code=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: project", "is not JSON"),
        ("{}", "format must be mcpctl-backup/1"),
        (
            '{"format": "mcpctl-backup/1", "version": "1", "created_at": "2026-01-01T00:00:00Z", "dumps": []}',
            "not whole",
        ),
    ],
)
def test_what_is_no_backup_is_refused(installation, text, said):
    assert said in installation.refused("import", "backup", "-", "--yes", stdin=text, code=2)


def test_a_damaged_backup_changes_nothing(installation, tmp_path):
    file = tmp_path / "backup.json"
    installation.ok("create", "project", "still-there")
    installation.ok("export", str(file))
    data = json.loads(file.read_text())
    for dump in data["dumps"]:
        if dump["actor"] == "token":
            dump["rows"] = dump["rows"][: len(dump["rows"]) // 2]
    file.write_text(json.dumps(data))

    installation.refused("import", str(file), "--yes")

    assert "project/still-there" in installation.ok("get", "projects", "-o", "name")


def test_it_takes_an_operation_of_its_own(installation, tmp_path):
    installation.ok("create", "user", "sven", "--password-stdin", stdin="correct horse\n")
    other = {"MCPCTL_CONFIG": str(installation.folder / "sven.yaml")}
    url = installation.nats_url
    installation.ok("login", "--user", "sven", "--password-stdin", "--nats-url", url, stdin="correct horse\n", **other)

    assert "not allowed" in installation.refused("export", str(tmp_path / "x"), **other)
    assert not (tmp_path / "x").exists()
