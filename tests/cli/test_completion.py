"""Completion, asked as a shell asks: by the environment variables of its script."""

import os
import shutil
import subprocess

import pytest

from tests.installation import Installation


@pytest.fixture(scope="module")
def shop(cli):
    cli.ok("create", "project", "shop-floor")
    yield cli
    cli.ok("delete", "project", "shop-floor")


def completed(installation, *words):
    """Return what bash offers for the last word."""
    line = {
        "COMP_WORDS": " ".join(("mcpctl", *words)),
        "COMP_CWORD": str(len(words)),
        "_MCPCTL_COMPLETE": "complete_bash",
    }
    done = installation.run(**line)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("stat",), ["status"]),
        (("auth", "who"), ["whoami"]),
        (("get", "--so"), ["--sort-by"]),
        (("get", "-o", "ya"), ["yaml"]),
        (("get", "proj"), ["projects"]),
        (("get", "projects", "shop"), ["shop-floor"]),
        (("get", "proj", "shop"), ["shop-floor"]),
        (("get", "projects", "shop-floor", "shop"), []),
        (("describe", "project/shop"), ["project/shop-floor"]),
        (("delete", "projects", "shop"), ["shop-floor"]),
        (("get", "servers", "-p", "shop"), ["shop-floor"]),
        (("get", "servers", "-p", "demo", "not"), ["notes"]),
        (("get", "mcptokens", "-p", "demo", "de"), ["demo"]),
        (("config", "use-context", "lo"), ["local"]),
        (("status", "--context", "lo"), ["local"]),
        (("auth", "can-i", "view", "mcpt"), ["mcptokens"]),
        (("completion", "f"), ["fish"]),
    ],
)
def test_bash_is_offered(shop, words, offered):
    assert completed(shop, *words) == offered


def test_zsh_and_fish_are_offered_the_same(shop):
    line = {"_TYPER_COMPLETE_ARGS": "mcpctl get projects shop"}

    zsh = shop.ok(_MCPCTL_COMPLETE="complete_zsh", **line)
    fish = shop.ok(_MCPCTL_COMPLETE="complete_fish", _TYPER_COMPLETE_FISH_ACTION="get-args", **line)

    assert '"shop-floor"' in zsh
    assert fish.split() == ["shop-floor"]


def test_it_is_silent_where_nothing_answers(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("current: a\ncontexts: {a: {nats_url: 'nats://127.0.0.1:1', bearer: x}}\n")
    config.chmod(0o600)

    assert completed(Installation(tmp_path, 1), "get", "projects", "") == []
    config.chmod(0o644)
    assert completed(Installation(tmp_path, 1), "config", "use-context", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_its_script(cli, shell):
    script = cli.ok("completion", shell)

    assert "_MCPCTL_COMPLETE" in script
    if found := shutil.which(shell):
        subprocess.run([found, "-n"], input=script, text=True, check=True, env={"PATH": os.environ["PATH"]})


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_itself_completes_a_name(shop, tmp_path):
    (tmp_path / "mcpctl").write_text(f'#!/bin/sh\nexec {shop.program} "$@"\n')
    (tmp_path / "mcpctl").chmod(0o755)
    script = """
    eval "$(mcpctl completion bash)"
    COMP_WORDS=(mcpctl get projects shop) COMP_CWORD=3
    _mcpctl_completion mcpctl shop projects
    echo "${COMPREPLY[@]}"
    """
    environment = shop.environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["shop-floor"]
