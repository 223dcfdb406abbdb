"""`mcpctl keys`: on the host of a running installation."""

import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "docs/examples/changing_server.py"


def test_the_sealing_key_is_rotated_and_retired_while_everything_runs(cli):
    data = ("--data", str(cli.data))
    cli.ok("create", "secret", "says", stdin="Greet.")
    cli.ok("create", "server", "keyed", "--command", f"{sys.executable} {PROGRAM}", "--env", "SAYS=secret:says")
    cli.ok("create", "project", "keyed", "--server", "keyed")
    assert "Greet." in cli.ok("get", "tools", "-p", "keyed")

    before = cli.ok("keys", "list", "sealing", *data).split()[2]
    assert "is the current one" in cli.ok("keys", "rotate", "sealing", *data)
    assert cli.ok("keys", "list", "sealing", *data).split()[3] == "opens"
    cli.ok("edit", "server", "keyed", "--set", "description=opened anew")
    assert "Greet." in cli.ok("get", "tools", "-p", "keyed")
    done = cli.ok("keys", "retire", "sealing", *data)
    assert "sealed anew under key" in done
    assert f"1 key retired from {cli.data}" in done
    assert before not in cli.ok("keys", "list", "sealing", *data)
    cli.ok("edit", "server", "keyed", "--set", "description=opened once more")
    assert "Greet." in cli.ok("get", "tools", "-p", "keyed")
    assert "catalog.reseal" in cli.ok("audit", "get", "--kind", "catalog.reseal")

    assert "derived" in cli.run("keys", "list", "routers", *data).stderr
    cli.ok("keys", "rotate", "routers", *data)
    assert "seals and opens" in cli.ok("keys", "list", "routers", *data)
    assert "Hello!" in cli.ok("call", "tool", "greet", "-p", "keyed")


def test_what_cannot_be_rotated_or_retired_is_told(cli, tmp_path):
    assert "the audit's keys stay" in cli.refused("keys", "retire", "audit", code=2)
    assert "cannot read the keyring" in cli.refused("keys", "rotate", "sealing", "--data", str(tmp_path))
    bad = tmp_path / "keys.json"
    bad.write_text('{"current": "a"}')
    assert "is no keyring" in cli.refused("keys", "list", "sealing", "--file", str(bad))
