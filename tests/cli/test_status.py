import json

from tests.installation import Installation

PARTS = ["token", "rbac", "catalog", "session", "router", "audit", "gateway"]


def away(tmp_path):
    """A CLI whose context leads nowhere."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "current: a\ncontexts: {a: {nats_url: 'nats://127.0.0.1:1', gateway_url: 'http://127.0.0.1:1', bearer: x}}\n"
    )
    config.chmod(0o600)
    return Installation(tmp_path, 1)


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


def test_nats_and_jetstream_are_seen(cli):
    found = json.loads(cli.ok("status", "-o", "json"))

    assert found["nats"]["url"] == cli.nats_url
    assert found["nats"]["version"].startswith("2.")
    assert found["nats"]["round_trip_ms"] >= 0
    assert {name: text.split()[0] for name, text in found["checks"].items()} == {
        "JetStream KV_sessions": "ok",
        "JetStream KV_owners": "ok",
        "JetStream AUDIT": "ok",
        "database": "ok",
    }


def test_the_table_has_a_line_for_each_replica(cli):
    told = cli.ok("status").splitlines()

    assert told[0] == "context   local (user admin)"
    assert told[1].startswith(f"bus       ok ({cli.nats_url}, nats-server 2.")
    assert [line.split()[0] for line in told[2:8]] == [
        *(["JetStream"] * 3),
        "database",
        "/healthz",
        "/readyz",
    ]
    assert [line.split()[:2] for line in told[10:]] == [[name, "ok"] for name in PARTS]


def test_nothing_that_can_be_reached_is_a_line_each_and_exit_code_3(tmp_path):
    done = away(tmp_path).run("status")

    assert done.returncode == 3
    assert done.stderr == ""
    assert "bus       error: the bus at nats://127.0.0.1:1 cannot be reached" in done.stdout
    assert "/healthz  error: cannot connect to 127.0.0.1:1: connection refused\n" in done.stdout
    assert [line.split()[:2] for line in done.stdout.splitlines()[-7:]] == [[name, "missing"] for name in PARTS]


def test_a_bus_that_is_away_beside_a_gateway_that_is_there_is_exit_code_1(cli, tmp_path):
    own = away(tmp_path)
    own.ok("config", "set-context", "a", "--gateway-url", cli.url)

    done = own.run("status")

    assert (done.returncode, done.stderr) == (1, "")
    assert "bus       error: " in done.stdout
    assert "/healthz  ok (ok)" in done.stdout


def test_a_session_that_has_ended_is_told_as_such(cli, tmp_path):
    own = Installation(tmp_path, 1)
    config = tmp_path / "config.yaml"
    config.write_text(f"current: a\ncontexts: {{a: {{nats_url: '{cli.nats_url}', user: ann, bearer: mcpctl_ses_x}}}}\n")
    config.chmod(0o600)

    done = own.run("status")

    assert done.returncode == 1
    assert "the login session has ended: run mcpctl login --user ann" in done.stdout


def test_a_ca_file_that_is_gone_is_a_line(cli, tmp_path):
    own = Installation(tmp_path, 1)
    config = tmp_path / "config.yaml"
    config.write_text(f"current: a\ncontexts: {{a: {{nats_url: '{cli.nats_url}', ca: /nowhere, bearer: x}}}}\n")
    config.chmod(0o600)

    done = own.run("status")

    assert (done.returncode, done.stderr) == (3, "")
    assert "error: cannot read the CA file /nowhere" in done.stdout
