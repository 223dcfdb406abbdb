import base64
import csv
import hashlib
import io
import json
import queue
import re
import signal
import stat
import subprocess
import threading
import time
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mcpctl.bus.contracts.audit import Entry, Event
from mcpctl.cli.audit_export import csv_lines
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

    told: list[str] = []
    give_up = time.monotonic() + 10
    while not told and time.monotonic() < give_up:  # the stream has the event first, and the ledger a moment later
        told = cli.ok("audit", "get", "-p", "demo", "--outcome", "deny", "--since", "1h", "--limit", "1").splitlines()

    assert told[0].split() == ["TIME", "OUTCOME", "KIND", "PROJECT", "WHO", "WHAT", "MS", "DETAIL"]
    assert told[1].split()[2:7] == ["deny", "call", "demo", "token-demo", "nothing"]


def test_filters_that_match_nothing_say_so(cli):
    done = cli.run("audit", "get", "--user", "nobody-at-all")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "No audit events found.\n")


def test_what_is_looked_up_is_chosen_by_bearer_and_time_and_printed_as_csv(cli):
    sha = entries(cli, "--token", "demo", "--limit", "1")[0]["event"]["token_sha"]

    told = cli.run("audit", "get", "--token-sha", sha[:12], "--since", "1h", "--limit", "5", "-o", "csv")

    titles, *rows = csv.reader(io.StringIO(told.stdout, newline=""))
    assert titles[:5] == ["seq", "number", "hash", "time", "id"]
    assert {dict(zip(titles, row, strict=True))["token_sha"] for row in rows} == {sha}
    assert entries(cli, "--token-sha", sha, "--until", "1h") == []
    assert entries(cli, "--until", "2020-01-31") == []
    assert "String should match" not in cli.refused("audit", "get", "--token-sha", "demo!", code=2)
    assert "'soon' is no time" in cli.refused("audit", "get", "--until", "soon", code=2)


def test_a_text_that_a_spreadsheet_would_calculate_is_defused_in_csv():
    event = Event(
        id="1", at=0, kind="call", outcome="deny", name='=HYPERLINK("x"),\n', detail="-1+1", choices={"a": "=b"}
    )

    titles, row = csv.reader(
        io.StringIO("".join(csv_lines([Entry(seq=1, number=1, hash="h", event=event)])), newline="")
    )

    found = dict(zip(titles, row, strict=True))
    assert (found["name"], found["detail"], found["choices"]) == ('\'=HYPERLINK("x"),\n', "'-1+1", '{"a":"=b"}')
    assert (found["time"], found["ms"]) == ("1970-01-01T00:00:00.000+00:00", "")


def test_an_export_has_every_event_in_each_format_also_where_it_takes_many_answers(cli, tmp_path):
    call(cli)
    lines = [json.loads(line) for line in cli.ok("audit", "export").splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))

    done = cli.run("audit", "export", "--tool", "time/*", "--format", "ocsf", "--file", str(tmp_path / "out"))
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert done.stderr == f"{len(written)} audit events written to {tmp_path / 'out'}\n"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600
    assert {(line["class_uid"], line["type_uid"], line["api"]["service"]["name"]) for line in written} == {
        (6003, 600399, "time")
    }
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    table = list(csv.reader(io.StringIO(cli.ok("audit", "export", "-p", "demo", "--format", "csv"), newline="")))
    assert {row[table[0].index("project")] for row in table[1:]} == {"demo"}
    refused = cli.refused("audit", "export", "--file", str(tmp_path / "no" / "folder"))
    assert "no such file or directory" in refused.lower()


def test_what_is_exported_can_be_verified_without_us(cli):
    """As docs/how-to/prove-the-audit.md says how."""
    report = json.loads(cli.ok("audit", "verify", "-o", "json"))
    ends, numbers = {}, {}
    for line in cli.ok("audit", "export").splitlines():
        entry = json.loads(line)
        project = entry["event"].get("project", "_")
        text = json.dumps(entry["event"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        prev = bytes.fromhex(ends.get((project, entry["number"] - 1), "0" * 64))
        digest = hashlib.sha256(prev + entry["seq"].to_bytes(8, "big") + text.encode()).hexdigest()
        assert digest == entry["hash"], entry
        ends[project, entry["number"]], numbers[project] = digest, entry["number"]

    assert {chain["project"] for chain in report["chains"]} == set(numbers)
    for head in (chain["head"] for chain in report["chains"]):
        assert ends[head["project"], head["number"]] == head["hash"]
        signed = {name: head[name] for name in ("at", "hash", "number", "project")}
        text = b"mcpctl audit head\n" + json.dumps(signed, separators=(",", ":")).encode()
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(report["keys"][head["key"]]))
        key.verify(base64.b64decode(head["signature"]), text)


def test_the_ledger_is_verified_and_against_heads_that_were_kept(cli, tmp_path):
    heads = tmp_path / "heads.jsonl"
    told = cli.ok("audit", "verify", "--save", str(heads))
    assert re.fullmatch(r"OK: \d+ entries in \d+ chains.*, \d+ anchored heads, signed .* ago, \d+ messages .*\n", told)
    assert cli.ok("audit", "verify", "-p", "demo", "--anchor", str(heads)).startswith("OK: ")

    lines = [json.loads(line) for line in heads.read_text().splitlines()]
    heads.write_text("".join(json.dumps(line | {"number": line["number"] + 10_000}) + "\n" for line in lines))
    done = cli.run("audit", "verify", "--anchor", str(heads), "-o", "json")

    report = json.loads(done.stdout)
    assert (done.returncode, report["ok"], {fault["kind"] for fault in report["faults"]}) == (1, False, {"anchor"})
    assert done.stderr.startswith(f"Error: the audit ledger is not as it was written: {len(lines)} faults")
    heads.write_text("{}")
    assert "holds no heads" in cli.refused("audit", "verify", "--anchor", str(heads), code=2)


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


def test_a_purge_asks_first_and_says_what_it_removes(cli):
    assert "say how old" in cli.refused("audit", "purge", code=2)
    assert "repeat it with --yes" in cli.refused("audit", "purge", "-p", "demo", "--older-than", "0s", code=2)
    assert cli.ok("audit", "purge", "--older-than", "30d", "--yes") == "nothing is that old\n"

    planned = cli.ok("audit", "purge", "-p", "demo", "--before", "0s", "--dry-run")

    assert re.fullmatch(r"demo: entries 1 to (\d+) would be removed \(\1\)\n", planned)
    assert entries(cli, "-p", "demo")
