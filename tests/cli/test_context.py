import stat

import pytest

from mcpctl.cli.context import Config, Context
from mcpctl.cli.errors import CliError


@pytest.fixture
def path(tmp_path, monkeypatch):
    file = tmp_path / "deep" / "config.yaml"
    monkeypatch.setenv("MCPCTL_CONFIG", str(file))
    monkeypatch.delenv("MCPCTL_CONTEXT", raising=False)
    monkeypatch.delenv("MCPCTL_NATS_URL", raising=False)
    return file


@pytest.fixture
def saved(path):
    config = Config.load()
    config.contexts["home"] = Context("nats://home:4222", user="ann", bearer="mcpctl_ses_x")
    config.contexts["work"] = Context("nats://work:4222")
    config.current = "home"
    config.save()
    return path


def test_what_is_saved_is_read_again(saved):
    config = Config.load()

    assert config.current == "home"
    assert config.get() == ("home", Context("nats://home:4222", user="ann", bearer="mcpctl_ses_x"))


def test_the_file_is_for_its_owner_alone(saved):
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert [file.name for file in saved.parent.iterdir()] == ["config.yaml"]


def test_a_file_that_others_can_read_is_refused(saved):
    saved.chmod(0o640)

    with pytest.raises(CliError, match="chmod 600"):
        Config.load()


@pytest.mark.parametrize(
    "text", ["- a\n", "contexts: [1]\n", "contexts: {a: 3}\n", "a: {", "contexts: {a: {user: 3}}\n"]
)
def test_a_broken_file_is_one_clear_error(path, text):
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o600)

    with pytest.raises(CliError, match="not a valid configuration"):
        Config.load()


def test_the_option_goes_before_the_environment_and_that_before_the_current_one(saved, monkeypatch):
    monkeypatch.setenv("MCPCTL_CONTEXT", "work")

    assert Config.load().get()[0] == "work"
    assert Config.load().get("home")[0] == "home"


def test_the_environment_replaces_the_bus_but_not_the_session(saved, monkeypatch):
    monkeypatch.setenv("MCPCTL_NATS_URL", "nats://other:4222")

    assert Config.load().get()[1] == Context("nats://other:4222", user="ann", bearer="mcpctl_ses_x")


def test_without_any_context_the_error_says_how_to_get_one(path):
    with pytest.raises(CliError, match="mcpctl up"):
        Config.load().get()


def test_an_unknown_context_is_named_with_those_that_there_are(saved):
    with pytest.raises(CliError, match=r'context "nope" not found .*home, work'):
        Config.load().get("nope")


def test_the_session_is_not_in_the_representation():
    assert "mcpctl_ses_x" not in repr(Context(bearer="mcpctl_ses_x"))


def test_what_another_command_wrote_meanwhile_stays(saved):
    mine, other = Config.load(), Config.load()
    other.contexts["theirs"] = Context(nats_url="nats://a:1")
    other.current = "theirs"
    other.save()

    mine.contexts["mine"] = Context(nats_url="nats://b:1")
    mine.save()

    assert set(Config.load().contexts) >= {"mine", "theirs"}
    assert Config.load().current == "theirs"
