"""`mcpctl admin reset`: the way back in for whoever owns the data folder."""

import os

import pytest

from mcpctl.cli.nats_server import free_port
from tests.installation import Installation, running

PASSWORD = "new-password"


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    with running(Installation(tmp_path_factory.mktemp("admin"), free_port())) as started:
        yield started


@pytest.fixture
def outside(tmp_path):
    """The CLI of somebody on the same host who has no context."""
    return Installation(tmp_path, 1)


def reset(*options):
    return ("admin", "reset", *options, "--password-stdin")


def test_the_lost_password_is_replaced_and_sessions_of_before_end(installation, outside):
    told = outside.ok(*reset("--data", str(installation.data)), stdin=f"{PASSWORD}\n")

    assert PASSWORD not in told
    command = told.splitlines()[-1].split()
    assert command[0] == "mcpctl"
    outside.ok(*command[1:], "--password-stdin", stdin=f"{PASSWORD}\n")
    assert outside.ok("auth", "whoami").startswith("User admin, in admins")
    assert "mcpctl login" in installation.refused("auth", "whoami")


def test_another_name_becomes_an_administrator(installation, outside):
    outside.ok(*reset("--data", str(installation.data), "--user", "eve"), stdin=f"{PASSWORD}\n")

    login = ("login", "--user", "eve", "--nats-url", installation.nats_url, "--password-stdin")
    outside.ok(*login, stdin=f"{PASSWORD}\n")
    assert outside.ok("auth", "can-i", "escalate").startswith("yes\n")


def test_the_secret_is_gone_afterwards_also_after_a_refusal(installation, outside):
    outside.ok(*reset("--data", str(installation.data)), stdin=f"{PASSWORD}\n")
    refused = outside.refused(*reset("--data", str(installation.data)), code=2, stdin="short\n")

    assert "password" in refused
    assert "short" not in refused
    assert not (installation.data / "bootstrap-secret").exists()


def test_where_nothing_runs_the_error_says_so(outside, tmp_path):
    data = tmp_path / "data"
    data.mkdir()

    assert f"no mcpctl up runs on {data}" in outside.refused(*reset("--data", str(data)), code=3, stdin=f"{PASSWORD}\n")


def test_a_folder_that_is_not_there_is_one_line(outside, tmp_path):
    line = outside.refused(*reset("--data", str(tmp_path / "none")), stdin=f"{PASSWORD}\n")

    assert "is no data folder" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every folder")
def test_a_folder_of_somebody_else_is_refused(outside):
    assert "is not yours" in outside.refused(*reset("--data", "/"), stdin=f"{PASSWORD}\n")
