import json

from tests.installation import Installation

PARTS = ["token", "rbac", "catalog", "session", "router", "audit", "gateway"]


def test_every_part_is_seen_with_its_numbers(cli):
    found = json.loads(cli.ok("status", "-o", "json"))

    assert found["well"] is True
    assert found["missing"] == []
    assert found["gateway"] == {"/healthz": "ok (ok)", "/readyz": "ok (ok)"}
    assert [replica["name"] for replica in found["replicas"]] == PARTS
    token = found["replicas"][0]
    assert token["requests"] > 0
    assert token["p50_ms"] > 0
    assert token["uptime_seconds"] > 0


def test_the_table_has_a_line_for_each_replica(cli):
    told = cli.ok("status").splitlines()

    assert told[0] == "context   local (user admin)"
    assert told[1] == f"bus       ok ({cli.nats_url})"
    assert [line.split()[:2] for line in told[6:]] == [[name, "ok"] for name in PARTS]


def test_what_is_away_is_a_line_and_exit_code_3(tmp_path):
    nowhere = Installation(tmp_path, 1)
    config = tmp_path / "config.yaml"
    config.write_text(
        "current: a\ncontexts: {a: {nats_url: 'nats://127.0.0.1:1', gateway_url: 'http://127.0.0.1:1', bearer: x}}\n"
    )
    config.chmod(0o600)

    done = nowhere.run("status")

    assert done.returncode == 3
    assert done.stderr == ""
    assert "bus       error: " in done.stdout
    assert "/healthz  error: " in done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines()[-7:]] == [[name, "missing"] for name in PARTS]


def test_a_session_that_has_ended_is_told_as_such(cli, tmp_path):
    own = Installation(tmp_path, 1)
    config = tmp_path / "config.yaml"
    config.write_text(f"current: a\ncontexts: {{a: {{nats_url: '{cli.nats_url}', user: ann, bearer: mcpctl_ses_x}}}}\n")
    config.chmod(0o600)

    done = own.run("status")

    assert done.returncode == 3
    assert "the login session has ended: run mcpctl login --user ann" in done.stdout
