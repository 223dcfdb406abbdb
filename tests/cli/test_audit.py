import json
import queue
import signal
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest

from tests.cli.conftest import TIME_IN_UTC
from tests.installation import PROGRAM


@contextmanager
def tailing(cli, *options):
    """Run `audit tail`; gives a function that returns the next line that has a text in it."""
    process = subprocess.Popen(
        [*PROGRAM, "audit", "tail", *options],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: queue.Queue[str] = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line.rstrip("\n"))

    def next_with(text):
        while True:
            line = lines.get(timeout=20)
            if text in line:
                return line

    next_with.process = process
    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield next_with
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def call(cli):
    cli.ok("test", "mcp", cli.endpoint, *TIME_IN_UTC, "--no-health", MCPCTL_TOKEN=cli.token)


def entries(cli, *options):
    return json.loads(cli.ok("audit", "get", *options, "-o", "json"))["items"]


def result_is_written(cli, since):
    """Wait for the `result` of a call: it is written after the answer."""
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        if any(entry["seq"] > since for entry in entries(cli, "-p", "demo", "--kind", "result", "--limit", "1")):
            return True
    return False


def test_a_call_and_its_result_are_in_the_ledger_with_the_tokens_name(cli):
    before = entries(cli, "--limit", "1")[-1]["seq"]
    call(cli)

    assert result_is_written(cli, before)
    events = [
        e["event"] for e in entries(cli, "-p", "demo", "--tool", "time/*", "--token", "demo") if e["seq"] > before
    ]
    assert [event["kind"] for event in events] == ["call", "result"]
    assert events[0]["correlation"] == events[1]["correlation"]
    assert {"principal": "token-demo", "outcome": "allow", "name": "get_current_time"}.items() <= events[0].items()


def test_the_table_shows_who_did_what_with_what_outcome(cli):
    cli.run("test", "mcp", cli.endpoint, "--tool", "nothing", MCPCTL_TOKEN=cli.token)

    told = cli.ok("audit", "get", "-p", "demo", "--outcome", "deny", "--since", "1h", "--limit", "1").splitlines()

    assert told[0].split() == ["TIME", "OUTCOME", "KIND", "PROJECT", "WHO", "WHAT", "MS", "DETAIL"]
    assert told[1].split()[2:7] == ["deny", "call", "demo", "token-demo", "nothing"]


def test_filters_that_match_nothing_say_so(cli):
    done = cli.run("audit", "get", "--user", "nobody-at-all")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "No audit events found.\n")


def test_a_tail_shows_a_call_as_it_is_made(cli):
    with tailing(cli, "-p", "demo", "-n", "1") as next_with:
        next_with("token-demo")  # the last one there was: from here on it follows
        call(cli)

        assert "time/get_current_time" in next_with("(run on")
        assert " ms" in next_with("allow      result")


def test_a_tail_is_json_lines_for_programs(cli):
    with tailing(cli, "-p", "demo", "-n", "2", "-o", "json") as next_with:
        first, second = json.loads(next_with("{")), json.loads(next_with("{"))

    assert first["seq"] < second["seq"]
    assert "hash" in first


def test_a_tail_ends_well_on_ctrl_c(cli):
    with tailing(cli, "-n", "1") as next_with:
        next_with("")
        next_with.process.send_signal(signal.SIGINT)

        assert next_with.process.wait(timeout=10) == 0


def test_a_tail_without_the_right_is_refused(cli, tmp_path):
    environment = {"MCPCTL_CONFIG": str(tmp_path / "config.yaml")}
    cli.ok("create", "user", "eve", "--password-stdin", stdin="eves-password\n")
    cli.ok(
        "login", "--user", "eve", "--nats-url", cli.nats_url, "--password-stdin", stdin="eves-password\n", **environment
    )

    refused = cli.refused("audit", "tail", **environment)

    cli.ok("delete", "user", "eve")
    assert refused.startswith("Error: not allowed: ")


@pytest.mark.parametrize("form", ["table", "yaml"])
def test_the_ledger_can_be_read_in_every_form(cli, form):
    assert "token.login" in cli.ok("audit", "get", "--kind", "token.login", "-o", form)
