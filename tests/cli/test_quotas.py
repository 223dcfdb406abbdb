"""Quotas on the command line and in documents, against real actors."""

import pytest
import yaml

LIMITS = ("--requests-per-second", "50", "--burst", "100", "--concurrent-calls", "20", "--streams", "10")
QUOTA = {"requestsPerSecond": 50.0, "burst": 100, "concurrentCalls": 20, "streams": 10}


@pytest.fixture
def bounded(cli):
    cli.ok("create", "project", "bounded", "--server", "time", *LIMITS)
    yield "bounded"
    cli.run("delete", "project", "bounded")


def document(cli, noun, name, *options):
    return yaml.safe_load(cli.ok("get", noun, name, "-o", "yaml", *options))


def test_a_project_shows_its_quota_in_every_form_and_takes_it_back(cli, bounded):
    shown = document(cli, "project", bounded)
    assert shown["quota"] == QUOTA
    assert "50/s, burst 100, calls 20, streams 10" in cli.ok("get", "project", bounded, "-o", "wide")
    assert "  Streams:             10\n" in cli.ok("describe", "project", bounded)
    assert cli.ok("apply", "-f", "-", stdin=yaml.safe_dump(shown)) == "project/bounded unchanged\n"

    cli.ok("edit", "project", bounded, "--set", "quota.requestsPerSecond=2.5", "--set", "quota.streams=null")
    assert document(cli, "project", bounded)["quota"] == {"requestsPerSecond": 2.5, "burst": 100, "concurrentCalls": 20}
    refused = cli.refused("edit", "project", bounded, "--set", "quota.requestsPerSecond=null", code=2)
    assert "quota: burst without requests_per_second" in refused
    assert "quota.burst: must be a whole number" in cli.refused(
        "edit", "project", bounded, "--set", "quota.burst=lots", code=2
    )
    cli.ok("edit", "project", bounded, "--set", "quota=null")
    assert "quota" not in document(cli, "project", bounded)
    assert cli.ok("apply", "-f", "-", stdin=yaml.safe_dump(shown)) == "project/bounded configured\n"
    assert cli.ok("apply", "-f", "-", stdin=yaml.safe_dump(shown | {"quota": None})) == "project/bounded configured\n"
    assert "quota" not in document(cli, "project", bounded)


def test_an_mcptoken_shows_its_quota_keeps_it_and_is_never_changed(cli, bounded):
    told = cli.ok("create", "mcptoken", "slow", "-p", bounded, "--requests-per-second", "5", "--streams", "1")
    assert "Its quota: 5/s, streams 1\n" in told
    shown = document(cli, "mcptoken", "slow", "-p", bounded)
    assert shown["quota"] == {"requestsPerSecond": 5.0, "streams": 1}
    assert "5/s, streams 1" in cli.ok("get", "mcptokens", "-p", bounded, "-o", "wide")
    assert "  Streams:             1\n" in cli.ok("describe", "mcptoken", "slow", "-p", bounded)
    assert "Its quota: 5/s, streams 1\n" in cli.ok("rotate", "mcptoken", "slow", "-p", bounded)

    other = shown | {"quota": {"streams": 9}}
    assert cli.ok("apply", "-f", "-", stdin=yaml.safe_dump(other)) == "mcptoken/slow -p bounded unchanged\n"
    cli.ok("revoke", "mcptoken", "slow", "-p", bounded)
    assert cli.ok("apply", "-f", "-", stdin=yaml.safe_dump(other)) == "mcptoken/slow -p bounded created\n"
    assert document(cli, "mcptoken", "slow", "-p", bounded)["quota"] == {"streams": 9}
