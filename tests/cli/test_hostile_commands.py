"""What a command does with secrets in the wrong place, and what is left where it is killed."""

import json
import os
import signal
import subprocess
import time

import pytest

from mcpctl.bus.bearer import kind_of, mint
from mcpctl.cli.edit import with_changes
from mcpctl.cli.errors import CliError
from mcpctl.cli.private_file import read_private
from tests.installation import PROGRAM


def test_a_bearer_on_the_command_line_is_refused_and_not_repeated(cli):
    bearer = mint("pat")

    for command in (("call", "tool", "x", "-p", "demo"), ("test", "mcp", "http://127.0.0.1:9/"), ("mcp", "-p", "demo")):
        said = cli.refused(*command, "--token", bearer, code=2)
        assert "does not belong on the command line" in said
        assert bearer not in said
    assert bearer not in cli.refused("delete", "user", bearer)


def test_a_secret_of_a_server_is_not_taken_in_clear(cli):
    secret, url = "hunter2-hunter2", "http://127.0.0.1:9/"
    document = f"kind: server\nname: clear\nurl: '{url}'\nheaders: {{Authorization: {secret}}}\n"
    files = ("apply", "-f", "-")

    for said in (
        cli.refused("create", "server", "clear", "--url", url, "--header", f"Authorization={secret}", code=2),
        cli.refused(*files, stdin=f"kind: project\nname: beside\n---\n{document}", code=2),
    ):
        assert "Authorization of server clear looks like a secret in clear" in said
        assert secret not in said
    assert "stdin, line 4: " in said
    assert cli.ok(*files, "--dry-run", "--plain", "Authorization", stdin=document) == "server/clear created (dry run)\n"


def test_a_file_of_secrets_must_be_ones_own_and_private_also_behind_a_link(tmp_path):
    file, link = tmp_path / "token", tmp_path / "link"
    file.write_text("a bearer")
    link.symlink_to(file)

    file.chmod(0o600)
    assert read_private(link) == "a bearer"
    file.chmod(0o644)
    for name in (file, link):
        with pytest.raises(CliError, match=f"can be read by others: run chmod 600 {name}"):
            read_private(name)
    file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
        with pytest.raises(CliError, match=f"{link} belongs to another user"):
            read_private(link)


def test_an_edit_does_not_take_a_secret_in_clear_from_the_command_line():
    server = {"kind": "server", "name": "a", "url": "http://a/", "headers": {"X-Team": "core"}}

    with pytest.raises(CliError, match="looks like a secret") as refused:
        with_changes(server, ["headers.Authorization=hunter2"])

    assert "hunter2" not in str(refused.value)
    assert with_changes(server, ["headers.Authorization=secret:key"])["headers"]["Authorization"] == "secret:key"


def test_a_create_that_is_killed_leaves_one_token_at_the_most_and_its_event(cli):
    """At some moments of the command's life; the name keeps a repeated command from making a second one."""
    create = ("create", "mcptoken", "--bind", "role:run,resource:servers", "-p", "demo", "-o", "token")
    began = time.monotonic()
    cli.ok(*create, "killed-0")
    whole = time.monotonic() - began
    killed = [f"killed-{number}" for number in range(1, 5)]
    for number, name in enumerate(killed):
        process = subprocess.Popen(
            [*PROGRAM, *create, name], env=cli.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(whole * (0.55 + 0.1 * number))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT if number % 2 else signal.SIGKILL)
        process.wait(20)

    events = json.loads(cli.ok("audit", "get", "--kind", "token.issue", "-o", "json", "--limit", "1000"))["items"]
    told = [e["event"]["name"] for e in events if e["event"]["outcome"] == "allow"]
    there = [item["name"] for item in json.loads(cli.ok("get", "mcptokens", "-p", "demo", "-o", "json"))["items"]]
    for name in killed:
        assert there.count(name) <= 1
        assert told.count(name) == there.count(name)
        again = cli.run(*create, name)
        if name in there:
            assert f"has an active mcptoken {name} already" in again.stderr
            again = cli.run(*create, name, "--force")
        assert kind_of(again.stdout.strip()) == "pat", again.stderr
