"""The client in `docs/examples`, which must run on the standard library alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import COUNT_TO_THREE, TIME_IN_UTC

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "mcp_client.py"


def run(*arguments, token=""):
    return subprocess.run(
        [sys.executable, "-I", "-S", EXAMPLE, *arguments],  # neither site-packages nor this checkout can be imported
        env={"PATH": os.environ["PATH"], "MCPCTL_TOKEN": token},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_it_lists_the_tools_and_calls_one(cli):
    done = run(cli.endpoint, *TIME_IN_UTC, token=cli.token)

    while "- time__" not in done.stdout:  # a list goes on without a server that does not answer in time
        assert (done.returncode, done.stderr) == (0, "")
        done = run(cli.endpoint, *TIME_IN_UTC, token=cli.token)
    assert (done.returncode, done.stderr) == (0, "")
    assert "connected to mcpctl" in done.stdout
    assert "- time__convert_time: Convert time between timezones" in done.stdout
    assert '"timezone": "UTC"' in done.stdout


def test_it_shows_progress(cli):
    done = run(cli.endpoint, *COUNT_TO_THREE, token=cli.token)

    assert done.stderr.splitlines() == ["  progress: 1", "  progress: 2", "  progress: 3"]
    assert "counted to 3" in done.stdout


def test_it_takes_the_token_from_a_file(cli):
    assert run(cli.endpoint, "--token-file", str(cli.data / "demo" / "token")).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("http://127.0.0.1:1/mcp",), 1, "Error: no answer: "),
        (("ftp://somewhere/",), 2, "is no http:// or https:// URL"),
    ],
)
def test_what_goes_wrong_before_the_server_is_one_line(arguments, code, said):
    done = run(*arguments)

    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "good_token", "code", "said"),
    [
        ((), False, 1, "HTTP 401 (the token is missing, expired or revoked)"),
        (("--tool", "nothing"), True, 2, "tools/call: error -32602"),
        (("--tool", "time__get_current_time", "--args", '{"timezone": "Mars"}'), True, 2, "reports an error"),
        (("--tool", "time__get_current_time", "--args", "["), True, 2, "Error: "),
    ],
)
def test_what_the_server_refuses_is_one_line(cli, arguments, good_token, code, said):
    done = run(cli.endpoint, *arguments, token=cli.token if good_token else "")

    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
