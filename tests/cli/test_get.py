"""`get` in all its forms, against real actors."""

import fcntl
import json
import os
import pty
import queue
import re
import signal
import struct
import subprocess
import termios
import threading

import pytest
import yaml

from tests.installation import PROGRAM


@pytest.fixture
def projects(cli):
    for name in ("get-a", "get-b"):
        cli.ok("create", "project", name, "--server", "time", "--description", f"The {name[-1]}")
    yield
    cli.run("delete", "project", "get-a", "get-b", "get-c", "--ignore-not-found")


def test_one_document_is_what_apply_takes(cli, projects):
    text = cli.ok("get", "project", "get-a", "-o", "yaml")

    document = yaml.safe_load(text)
    assert list(document)[:2] == ["kind", "name"]
    assert document["servers"] == ["time"]
    assert set(document["status"]) == {"revision", "createdAt"}
    assert cli.ok("apply", "-f", "-", stdin=text) == "project/get-a unchanged\n"


def test_several_documents_are_a_stream_of_yaml_or_a_list_of_json(cli, projects):
    stream = cli.ok("get", "projects", "get-a", "get-b", "-o", "yaml")
    listed = json.loads(cli.ok("get", "projects", "get-b", "get-a", "-o", "json"))

    assert [document["name"] for document in yaml.safe_load_all(stream)] == ["get-a", "get-b"]
    assert stream.count("\n---\n") == 1
    assert [item["name"] for item in listed["items"]] == ["get-b", "get-a"]


def test_what_is_there_is_shown_though_another_is_missing(cli, projects):
    done = cli.run("get", "project", "get-a", "nine", "get-b", "Not_A_Name", "-o", "name")

    assert done.stdout == "project/get-a\nproject/get-b\n"
    assert done.stderr.startswith('Error: project "nine" not found\nError: name: must be 1 to 63')
    assert done.returncode == 2


def test_wide_tables_have_more_columns_and_titles_can_be_left_out(cli, projects):
    titles = cli.ok("get", "projects", "-o", "wide").splitlines()[0].split("   ")
    rows = cli.ok("get", "project", "get-a", "get-b", "--no-headers").splitlines()

    assert [title.strip() for title in titles if title.strip()] == [
        "NAME",
        "SERVERS",
        "STATE",
        "AGE",
        "DESCRIPTION",
        "NAMING",
        "GATE",
        "MAX TTL",
        "QUOTA",
        "LABELS",
    ]
    assert [row.split()[0] for row in rows] == ["get-a", "get-b"]


def test_rows_are_sorted_by_what_is_asked_for(cli, projects):
    def order(*options):
        return cli.ok("get", "project", "get-b", "get-a", "-o", "name", *options).split()

    assert order() == ["project/get-b", "project/get-a"]
    assert order("--sort-by", "NAME") == ["project/get-a", "project/get-b"]
    assert order("--sort-by", "created_at") == ["project/get-a", "project/get-b"]
    assert "write a column" in cli.refused("get", "projects", "--sort-by", "colour", code=2)


def test_the_bindings_of_mcptokens_are_hidden_among_definitions(cli):
    cli.ok("create", "mcptoken", "hidden", "-p", "demo", "--bind", "role:run,resource:servers")

    usual, every = cli.ok("get", "rbac", "-o", "name"), cli.ok("get", "rbac", "-o", "name", "--all")

    cli.ok("delete", "mcptoken", "hidden", "-p", "demo")
    assert set(usual.split()) < set(every.split())


def test_mcptokens_have_exactly_these_columns(cli):
    table = cli.ok("get", "mcptokens", "-p", "demo").splitlines()
    wide = cli.ok("get", "mcptokens", "-p", "demo", "-o", "wide").splitlines()

    assert re.split(" {3,}", table[0]) == ["NAME", "PROJECT", "PREFIX", "CREATED", "LAST USED", "EXPIRES", "STATUS"]
    assert re.split(" {3,}", wide[0])[7:] == ["OWNER", "DESCRIPTION", "QUOTA"]


def test_mcptokens_that_ended_are_not_among_what_can_be_applied(cli):
    cli.ok("create", "mcptoken", "ended", "-p", "demo")
    cli.ok("revoke", "mcptoken", "ended", "-p", "demo")

    done = cli.run("get", "mcptokens", "-p", "demo", "-o", "yaml")
    every = cli.ok("get", "mcptokens", "-p", "demo", "-o", "yaml", "--all")

    cli.ok("delete", "mcptoken", "ended", "-p", "demo")
    assert "name: ended" not in done.stdout
    assert "1 mcptokens that ended are left out: --all shows them" in done.stderr
    assert "name: ended" in every


def test_all_kinds_are_listed_at_once(cli, projects):
    told = cli.ok("get", "all")
    names = cli.ok("get", "all", "-o", "name").split()

    assert "project/get-a" in told
    assert "mcptoken/" in told
    assert {"project/get-a", "server/time", "user/admin"} <= set(names)
    kinds = {item["kind"] for item in json.loads(cli.ok("get", "all", "-o", "json"))["items"]}
    assert {"project", "server", "user", "mcptoken"} <= kinds


def test_tools_are_listed_by_project_and_server(cli):
    command = ("get", "tools", "-p", "demo", "--server", "notes")  # it runs already: a command may take its time

    names = cli.ok(*command, "-o", "name").split()
    titles, *rows = cli.ok(*command, "--sort-by", "name").splitlines()
    listed = json.loads(cli.ok(*command, "-o", "json"))["items"]

    assert "tool/notes__count" in names
    assert re.split(" {3,}", titles) == ["NAME", "PROJECT", "SERVER", "STATE", "DESCRIPTION"]
    assert [f"tool/{row.split()[0]}" for row in rows] == sorted(names)
    assert {tuple(row.split()[1:3]) for row in rows} == {("demo", "notes")}
    assert {item["kind"] for item in listed} == {"tool"}
    assert all(item["inputSchema"]["type"] == "object" for item in listed)
    refused = cli.refused("get", "tool", "time__get_current_time", "-p", "demo", code=2)
    assert refused == "Error: a tool cannot be shown by name: list them with mcpctl get tools -p PROJECT"


class Watched:
    """A `get -w`, and the lines that it has printed."""

    def __init__(self, cli, *arguments):
        self.process = subprocess.Popen(
            [*PROGRAM, "get", *arguments, "-w"],
            env=cli.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def line(self):
        return self._lines.get(timeout=20)

    def interrupt(self):
        """End it as Ctrl-C does; return its exit code and what it wrote to stderr."""
        self.process.send_signal(signal.SIGINT)
        self._reader.join(timeout=20)
        told = self.process.stderr.read()
        code = self.process.wait(timeout=20)
        self.process.stdout.close()
        self.process.stderr.close()
        return code, told


def test_a_watched_list_tells_each_change_until_it_is_interrupted(cli, projects):
    watched = Watched(cli, "projects", "-l", "!no-such-label")
    lines = [watched.line()]
    while "get-b" not in lines[-1]:
        lines.append(watched.line())
    cli.ok("create", "project", "get-c", "--description", "new")
    added = watched.line()
    while added.startswith("listed"):  # projects of other tests
        added = watched.line()
    cli.ok("edit", "project", "get-c", "--set", "description=newer")
    changed = watched.line()
    cli.ok("delete", "project", "get-c")
    deleted = watched.line()

    assert watched.interrupt() == (130, "")
    assert lines[0].split()[:2] == ["EVENT", "NAME"]
    assert lines[1].split()[0] == "listed"
    assert (added.split()[:2], added.endswith("new")) == (["added", "get-c"], True)
    assert (changed.split()[:2], changed.endswith("newer")) == (["changed", "get-c"], True)
    assert deleted.split()[:2] == ["deleted", "get-c"]


def test_a_watched_document_is_one_line_an_event(cli, projects):
    watched = Watched(cli, "project", "get-a", "-o", "json")
    first = json.loads(watched.line())
    cli.ok("label", "project", "get-a", "seen=yes")
    second = json.loads(watched.line())

    assert watched.interrupt() == (130, "")
    assert (first["event"], first["item"]["name"]) == ("listed", "get-a")
    assert (second["event"], second["item"]["labels"]) == ("changed", {"seen": "yes"})


def test_what_is_not_there_cannot_be_watched(cli):
    assert cli.refused("get", "project", "nine", "-w") == 'Error: project "nine" not found'


def on_a_terminal(cli, *arguments):
    """Return what a command writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    environment = cli.environment | {"TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([*PROGRAM, *arguments], env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    told = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        told += piece
    os.close(ours)
    assert process.wait(timeout=20) == 0
    return told.decode()


def test_colours_are_for_terminals_alone(cli):
    cli.ok("create", "mcptoken", "colour", "-p", "demo")
    command = ("get", "mcptokens", "-p", "demo")

    terminal, pipe = on_a_terminal(cli, *command), cli.ok(*command)

    cli.ok("delete", "mcptoken", "colour", "-p", "demo")
    assert "\x1b[1mNAME" in terminal
    assert "\x1b[32mactive" in terminal
    assert "\x1b" not in pipe
