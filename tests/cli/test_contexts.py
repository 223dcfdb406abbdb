"""`mcpctl config`, and where the environment goes before it."""

import json

import pytest
import yaml

from tests.installation import Installation

BEARER = "mcpctl_ses_secret"


@pytest.fixture
def own(tmp_path):
    """A CLI with a configuration of its own and nothing that runs: `home` is current and logged in."""
    config = tmp_path / "config.yaml"
    home = {"nats_url": "nats://home:4222", "gateway_url": "http://home:3200", "user": "ann", "bearer": BEARER}
    contexts = {"home": home, "work": {"nats_url": "tls://work:4222"}}
    config.write_text(yaml.safe_dump({"current": "home", "contexts": contexts}))
    config.chmod(0o600)
    return Installation(tmp_path, 1)


def saved(own):
    return yaml.safe_load((own.folder / "config.yaml").read_text())


def test_contexts_are_listed_with_the_current_one_marked(own):
    told = own.ok("config", "get-contexts").splitlines()

    assert [line.split()[:2] for line in told] == [["CURRENT", "NAME"], ["*", "home"], ["work", "tls://work:4222"]]
    assert own.ok("config", "get-contexts", "-o", "name") == "home\nwork\n"


@pytest.mark.parametrize("command", ["get-contexts", "view"])
@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_no_bearer_is_shown(own, command, form):
    told = own.ok("config", command, "-o", form)

    assert "home" in told
    assert BEARER not in told


def test_the_view_of_one_context_says_where_its_bearer_comes_from(own):
    told = json.loads(own.ok("config", "view", "--minify", "-o", "json", MCPCTL_TOKEN="mcpctl_sa_x"))

    assert told["contexts"] == {
        "home": {
            "nats_url": "nats://home:4222",
            "gateway_url": "http://home:3200",
            "bearer": "(hidden)",
            "bearer_from": "$MCPCTL_TOKEN",
        }
    }


def test_another_context_becomes_the_current_one(own):
    assert own.ok("config", "current-context") == "home\n"

    own.ok("config", "use-context", "work")

    assert own.ok("config", "current-context") == "work\n"
    assert own.ok("config", "current-context", MCPCTL_CONTEXT="home") == "home\n"


def test_one_that_is_not_there_is_named_with_those_that_are(own):
    for command in ("use-context", "delete-context"):
        assert 'context "nope" not found' in own.refused("config", command, "nope")


def test_a_context_is_created_and_changed_member_by_member(own, certificates):
    own.ok("config", "set-context", "far", "--nats-url", "wss://far", "--ca", str(certificates.ca), "--user", "bob")
    own.ok("config", "set-context", "far", "--gateway-url", "https://far")

    assert saved(own)["contexts"]["far"] == {
        "nats_url": "wss://far",
        "gateway_url": "https://far",
        "user": "bob",
        "ca": str(certificates.ca),
    }
    own.ok("config", "set-context", "far", "--ca", "")
    assert "ca" not in saved(own)["contexts"]["far"]


def test_the_first_context_becomes_the_current_one(tmp_path):
    new = Installation(tmp_path, 1)

    assert new.ok("config", "set-context", "a") == 'context "a" created\n'

    assert new.ok("config", "current-context") == "a\n"


@pytest.mark.parametrize("change", [("--nats-url", "nats://elsewhere:4222"), ("--user", "bob")])
def test_a_session_is_not_taken_to_another_host_or_user(own, change):
    done = own.run("config", "set-context", "home", *change)

    assert "mcpctl login --context home" in done.stderr
    assert "bearer" not in saved(own)["contexts"]["home"]


def test_a_session_survives_a_change_of_the_scheme(own):
    own.ok("config", "set-context", "home", "--nats-url", "tls://home:4223")

    assert saved(own)["contexts"]["home"]["bearer"] == BEARER


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--nats-url", "http://a", "nats://, tls://, ws:// or wss://"),
        ("--nats-url", "nats://ann:secret@a:4222", "does not belong into the URL"),
        ("--nats-url", "nats://a:99999", "no valid host and port"),
        ("--nats-url", "nats://", "no valid host and port"),
        ("--nats-url", "nats://a/b", "ends after host and port"),
        ("--gateway-url", "ftp://a", "http:// or https://"),
        ("--ca", "/nowhere", "cannot read the CA file /nowhere"),
        ("--ca", "/etc/hostname", "no certificate in PEM form"),
    ],
)
def test_what_leads_nowhere_is_refused_with_the_reason(own, option, value, said):
    line = own.refused("config", "set-context", "home", option, value, code=2)

    assert said in line
    assert "secret" not in line
    assert saved(own)["contexts"]["home"]["nats_url"] == "nats://home:4222"


def test_a_deleted_context_is_gone_and_no_longer_the_current_one(own):
    own.ok("config", "delete-context", "home")

    assert list(saved(own)["contexts"]) == ["work"]
    assert "use-context" in own.refused("config", "current-context")


def test_a_file_that_others_can_read_is_refused_by_every_command(own):
    (own.folder / "config.yaml").chmod(0o644)

    for command in (("config", "view"), ("config", "use-context", "work"), ("get", "servers"), ("logout",)):
        assert "chmod 600" in own.refused(*command)


def test_without_any_context_the_environment_is_enough(cli, tmp_path):
    cli.ok("create", "serviceaccount", "builder")
    bearer = cli.ok("create", "serviceaccounttoken", "builder", "-o", "token").strip()
    own = Installation(tmp_path, 1)

    told = own.ok("auth", "whoami", MCPCTL_NATS_URL=cli.nats_url, MCPCTL_TOKEN=bearer)

    cli.ok("delete", "serviceaccount", "builder")
    assert told.startswith("ServiceAccount builder; the bearer ends in ")
    refused = own.refused("auth", "whoami", MCPCTL_NATS_URL=cli.nats_url, MCPCTL_TOKEN=bearer)
    assert "$MCPCTL_TOKEN is not accepted" in refused
    assert bearer not in refused


def test_a_bearer_in_the_environment_goes_before_the_login(cli, tmp_path):
    cli.ok("create", "serviceaccount", "deployer")
    file = tmp_path / "token"
    file.write_text(cli.ok("create", "serviceaccounttoken", "deployer", "-o", "token"))
    file.chmod(0o600)

    told = cli.ok("auth", "whoami", MCPCTL_TOKEN_FILE=str(file))

    cli.ok("delete", "serviceaccount", "deployer")
    assert told.startswith("ServiceAccount deployer")
    file.chmod(0o640)
    assert "chmod 600" in cli.refused("auth", "whoami", MCPCTL_TOKEN_FILE=str(file))
    assert "is not there" in cli.refused("auth", "whoami", code=2, MCPCTL_TOKEN_FILE=str(tmp_path / "none"))


def test_an_mcptoken_is_for_agents(cli, tmp_path):
    own = Installation(tmp_path, 1)

    line = own.refused("get", "servers", MCPCTL_NATS_URL=cli.nats_url, MCPCTL_TOKEN=cli.token)

    assert "$MCPCTL_TOKEN holds an mcptoken, which is for agents" in line
    assert cli.token not in line


def test_an_mcptoken_does_not_displace_a_login(cli):
    done = cli.run("auth", "whoami", MCPCTL_TOKEN=cli.token)

    assert done.stdout.startswith("User admin")
    assert "test mcp and call use it" in done.stderr
