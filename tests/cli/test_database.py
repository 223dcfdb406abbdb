"""`mcpctl db`: from SQLite to PostgreSQL, and between versions."""

import json
import sqlite3
from contextlib import closing

import pytest

from mcpctl.cli.nats_server import free_port
from tests.cli.conftest import TIME_IN_UTC
from tests.installation import Installation, running
from tests.postgres import new_database

KINDS = ("projects", "servers", "secrets", "mcptokens", "users", "groups", "rbac")


@pytest.fixture
def sqlite(tmp_path):
    """An installation on SQLite files with the demo, not started yet."""
    installation = Installation(tmp_path, free_port(), "--demo")
    installation.environment.pop("MCPCTL_DATABASE_URL", None)
    return installation


def held(installation):
    """All resources, and the ledger: each event with its place and hash in its chain."""
    resources = {kind: json.loads(installation.ok("get", kind, "-o", "json")) for kind in KINDS}
    for mcptoken in resources["mcptokens"]["items"]:
        mcptoken["status"].pop("lastUse", None)  # a start of the demo uses its token
    entries = json.loads(installation.ok("audit", "get", "--kind", "token.issue", "-o", "json"))
    return resources, [
        (entry["seq"], entry["number"], entry["hash"], entry["event"]["id"]) for entry in entries["items"]
    ]


def test_an_installation_moves_to_postgresql_with_digests_secrets_and_chain(sqlite):
    folder = ("--data", str(sqlite.data))
    with running(sqlite):
        sqlite.ok("create", "secret", "key", stdin="hunter2")
        sqlite.ok("create", "mcptoken", "old", "-p", "demo")
        sqlite.ok("revoke", "mcptoken", "old", "-p", "demo")
        before = held(sqlite)
    to = ("--database-url", new_database())

    told = sqlite.ok("db", "copy", *folder, *to)

    assert "token.users: 1 rows" in told.splitlines()
    assert "copy to another" in sqlite.refused("db", "copy", *folder, *to)
    sqlite.environment["MCPCTL_DATABASE_URL"] = to[1]
    with running(sqlite):
        assert held(sqlite) == before
        sqlite.ok("test", "mcp", sqlite.endpoint, *TIME_IN_UTC, "--no-health", MCPCTL_TOKEN=sqlite.token)


def test_where_the_databases_stand_is_told_before_and_after_they_are_migrated(sqlite):
    folder = ("--data", str(sqlite.data))

    def states(code):
        done = sqlite.run("db", "check", *folder, "-o", "json")
        assert done.returncode == code, done.stderr
        return {each["actor"]: each["state"] for each in json.loads(done.stdout)}

    assert set(states(1).values()) == {"empty"}
    assert not sqlite.data.exists()
    assert "nothing to copy" in sqlite.refused("db", "copy", *folder, "--database-url", "postgresql://nobody@/none")

    sqlite.ok("db", "migrate", *folder)

    assert states(0) == dict.fromkeys(("audit", "catalog", "rbac", "token"), "current")

    with closing(sqlite3.connect(sqlite.data / "sql" / "rbac.sqlite")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'rbac_9999'")
    assert states(1)["rbac"] == "newer"
    assert "start the version that wrote it, or a newer one" in sqlite.refused("db", "migrate", *folder)


def test_a_database_that_is_away_is_one_line(sqlite):
    url = f"postgresql://mcpctl@127.0.0.1:{free_port()}/mcpctl"

    assert "does not answer" in sqlite.refused("db", "check", "--database-url", url)
