"""Which context an `mcpctl up` writes to."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mcpctl.bus.contracts.token import LoggedIn
from mcpctl.cli.context import Config, Context
from mcpctl.cli.first_start import store_context

HERE, THERE = Path("/data/here"), Path("/data/there")


@pytest.fixture(autouse=True)
def config_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MCPCTL_CONFIG", str(tmp_path / "config.yaml"))
    monkeypatch.delenv("MCPCTL_CONTEXT", raising=False)


def logged_in(bearer):
    return LoggedIn(user="admin", bearer=bearer, expires_at=datetime.now(UTC))


def store(data, nats_port, bearer=None):
    opened = logged_in(bearer) if bearer else None
    return store_context(data, f"nats://127.0.0.1:{nats_port}", "http://127.0.0.1:3200", opened)


def test_the_first_installation_is_called_local_and_becomes_the_current_one():
    name, context = store(HERE, 1, "mcpctl_ses_a")

    config = Config.load()
    assert (name, config.current) == ("local", "local")
    assert (
        config.contexts["local"]
        == context
        == Context("nats://127.0.0.1:1", "http://127.0.0.1:3200", "admin", "mcpctl_ses_a", str(HERE))
    )


def test_a_later_start_brings_its_own_context_up_to_date_and_keeps_the_session():
    store(HERE, 1, "mcpctl_ses_a")

    name, context = store(HERE, 2)

    assert name == "local"
    assert (context.nats_url, context.bearer) == ("nats://127.0.0.1:2", "mcpctl_ses_a")


def test_another_installation_gets_a_context_of_its_own():
    store(HERE, 1, "mcpctl_ses_a")

    name, _ = store(THERE, 2, "mcpctl_ses_b")

    config = Config.load()
    assert (name, config.current) == ("local-2", "local-2")
    assert config.contexts["local"].bearer == "mcpctl_ses_a"


def test_an_installation_begun_anew_in_the_same_folder_takes_its_context_over():
    store(HERE, 1, "mcpctl_ses_a")

    name, context = store(HERE, 2, "mcpctl_ses_b")

    assert (name, context.bearer) == ("local", "mcpctl_ses_b")


def test_a_context_that_somebody_called_local_is_left_alone():
    config = Config.load()
    config.contexts["local"] = Context("nats://elsewhere:4222", bearer="mcpctl_ses_mine")
    config.current = "local"
    config.save()

    store(HERE, 1, "mcpctl_ses_a")

    assert Config.load().contexts["local"] == Context("nats://elsewhere:4222", bearer="mcpctl_ses_mine")


def test_a_later_start_does_not_change_which_context_is_the_current_one():
    store(HERE, 1, "mcpctl_ses_a")
    store(THERE, 2, "mcpctl_ses_b")

    store(HERE, 3)

    assert Config.load().current == "local-2"
