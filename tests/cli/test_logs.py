"""`logs server`: what a stdio server writes to stderr."""

import re
import signal
import subprocess
import sys

from mcpctl.bus.contracts.router import LogLine, ServerLog
from mcpctl.cli.logs import Shown
from tests.installation import PROGRAM

TALKATIVE = """
import json, sys
print("started", file=sys.stderr, flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    print("asked " + message["method"], file=sys.stderr, flush=True)
    result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
              "serverInfo": {"name": "x", "version": "1"}}
    if message["method"] == "tools/list":
        result = {"tools": []}
    if message["method"] == "server/discover":
        answer = {"error": {"code": -32601, "message": "no"}}
    else:
        answer = {"result": result}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **answer}), flush=True)
"""


def test_the_lines_of_a_server_are_shown_and_followed(cli, tmp_path):
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    cli.ok("create", "server", "talkative", "--command", f"{sys.executable} {tmp_path}/talkative.py")
    cli.ok("create", "project", "talk", "--server", "talkative")
    assert "has started server talkative yet" in cli.run("logs", "server", "talkative").stderr

    cli.ok("get", "tools", "-p", "talk")

    lines = cli.ok("logs", "server", "talkative").splitlines()
    assert lines[0] == "started"
    assert "asked tools/list" in lines
    assert cli.ok("logs", "server", "talkative", "--tail", "1").splitlines() == lines[-1:]
    assert cli.ok("logs", "server", "talkative", "--since", "1h").splitlines() == lines
    stamped = cli.ok("logs", "server", "talkative", "--timestamps", "--prefix").splitlines()[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[[^]]+\] started", stamped)
    following = subprocess.Popen(
        [*PROGRAM, "logs", "server", "talkative", "-f"], env=cli.environment, text=True, stdout=subprocess.PIPE
    )
    try:
        for _ in lines:
            following.stdout.readline()
        cli.ok("get", "tools", "-p", "talk")
        assert following.stdout.readline() == "asked tools/list\n"
        following.send_signal(signal.SIGINT)
        assert following.wait(timeout=20) == 130
    finally:
        following.kill()
        following.wait()
        following.stdout.close()


def test_what_has_no_log_is_told(cli):
    assert 'server "nowhere" not found' in cli.refused("logs", "server", "nowhere")
    assert "its log is where it runs" in cli.refused("logs", "server", "notes")
    assert "is no duration" in cli.refused("logs", "server", "time", "--since", "yesterday", code=2)


def test_it_takes_the_operation_logs(cli):
    cli.ok("create", "user", "nosy", "--password-stdin", stdin="correct horse\n")
    other = {"MCPCTL_CONFIG": str(cli.folder / "nosy.yaml")}
    url = cli.nats_url
    cli.ok("login", "--user", "nosy", "--password-stdin", "--nats-url", url, stdin="correct horse\n", **other)

    assert "operate logs" in cli.refused("logs", "server", "time", **other)
    cli.ok("create", "rbac", "nosy", "--subject", "User:nosy", "--roleBindings", "action:logs")
    cli.ok("logs", "server", "time", **other)


def log(router, *lines):
    found = tuple(LogLine(seq=seq, at=at, text=text) for seq, (at, text) in enumerate(lines, 1))
    return ServerLog(router=router, known=True, lines=found)


def test_the_lines_of_several_routers_are_merged_by_their_times():
    logs = [log("r1", (1000, "a"), (4000, "d")), log("r2", (2000, "b"), (3000, "\x1b[31mc"))]

    shown = Shown(earliest=2000, prefix=False, times=False)

    assert list(shown.lines(logs, several=True)) == ["[r2] b", "[r2]  [31mc", "[r1] d"]
    assert list(shown.lines(logs[:1], several=False)) == ["d"]
