"""What a router starts, and what becomes of a process that will not behave: real processes."""

import asyncio
import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.upstream_router.era import NOTHING
from mcpctl.actors.upstream_router.server_logs import ServerLogs
from mcpctl.actors.upstream_router.stdio import SAID_AT_ONCE, SAID_PAUSE, StdioClient
from mcpctl.actors.upstream_router.stdio_rules import StdioRules
from mcpctl.actors.upstream_router.upstreams import Upstreams
from mcpctl.bus.contracts.catalog import Connection, UpstreamServer
from mcpctl.bus.errors import BadGateway
from mcpctl.bus.mcp_client import McpTransportError

SERVER = UpstreamServer(name="s", slug="s", revision="1", transport="stdio", isolation="shared")
ENDED_WITHIN = 5.0
"""Seconds that a process of a server may still run after the connection was closed."""

REFUSED_VARIABLES = """LD_PRELOAD ld_library_path DYLD_INSERT_LIBRARIES PYTHONPATH PYTHONSTARTUP PATH HOME NODE_OPTIONS
NODE_PATH GIT_SSH_COMMAND BASH_ENV ENV npm_config_registry PERL5OPT UV_INDEX_URL PIP_INDEX_URL _JAVA_OPTIONS
JAVA_TOOL_OPTIONS RUBYOPT GLIBC_TUNABLES"""

HANDSHAKE = """
import json, os, signal, subprocess, sys, time

def answer(message, result):
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)

def read():
    line = sys.stdin.readline()
    return json.loads(line) if line else None

def shake():
    message = read()
    assert message["method"] == "initialize", message
    answer(message, {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}})
    read()

def say(what):
    print(what, file=sys.stderr, flush=True)

def sleeper(**options):
    return subprocess.Popen([sys.executable, "-c", "import signal, time; "
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], **options).pid
"""


def allowing(*commands, **more):
    return StdioRules(commands, **({"memory": 0, "files": 1024, "longest": 8 << 20} | more))


def refused(rules, *command, **env):
    with pytest.raises(McpTransportError) as error:
        rules.program(command, env)
    assert not error.value.sent
    return str(error.value)


def client_of(program, rules=None, **env):
    said = []
    client = StdioClient((sys.executable, "-c", HANDSHAKE + program), env, said.append, rules or allowing("*"))
    return client, said


def alive(pid):
    """Tell whether a process runs: one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def gone(*pids):
    deadline = time.monotonic() + ENDED_WITHIN
    while any(map(alive, pids)) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not any(map(alive, pids))


def descriptors():
    return {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)}


def _is_open(name):
    with suppress(OSError):
        return bool(os.readlink(f"/proc/self/fd/{name}"))


def test_only_a_command_of_the_list_is_started(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("served", "other"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    (tools / "alias").symlink_to(tools / "served")
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    served, sh = str(tools / "served"), shutil.which("sh")

    by_name, by_path, begun = allowing("served"), allowing(served), allowing("served --read-only", f"{sh} -x")
    for rules in (by_name, by_path, allowing("*")):
        assert rules.program(("served", "--any"), {}) == served
        assert (
            rules.program((served,), {"API_KEY": "k", "GITHUB_TOKEN": "t", "NODE_ENV": "x", "LDAP_URL": "x"}) == served
        )
    assert begun.program(("served", "--read-only", "more"), {}) == served
    assert begun.program(("sh", "-x"), {}) == sh

    not_in = "it is not in MCPCTL_STDIO_COMMANDS"
    for rules in (by_name, by_path, allowing()):
        for command in (
            ("sh", "-c", "id"),
            (sh, "-c", "id"),
            ("other",),
            ("alias",),
            (str(tools / "alias"),),
            ("none",),
        ):
            assert refused(rules, *command) == f"{command[0]} is not started: {not_in}"
    for command in (("served",), ("served", "more", "--read-only"), ("sh",), ("sh", "-c", "-x")):
        assert not_in in refused(begun, *command)
    for name in ("served; id", "served\n", "$(id)", "served id", "", "*"):
        assert not_in in refused(by_name, name)
    for name in (
        "./tools/served",
        "tools/served",
        "~/served",
        f"{tools}/../tools/served",
        f"{tools}//served",
        "/",
        f"{served}/",
    ):
        for rules in (by_name, by_path, allowing("*")):
            assert refused(rules, name).startswith(f"{name} ")
    assert refused(allowing("*"), "none") == "none cannot be started: there is no such program"

    for variable in REFUSED_VARIABLES.split():
        said = refused(by_name, "served", **{variable: "x"})
        assert said == f"served is not started: the variable {variable} could make it run another program"
        assert allowing("*").program(("served",), {variable: "x"}) == served  # any program may be started anyway


async def test_a_router_that_was_told_of_no_command_starts_nothing(tmp_path):
    marker = tmp_path / "started"
    for settings, command in (
        ({}, ("sh", "-c", f"touch {marker}")),
        ({"stdio_commands": "cat, /bin/echo"}, ("sh", "-c", f"touch {marker}")),
        ({"stdio_commands": "*"}, ("./sh", "-c", f"touch {marker}")),
    ):

        async def unseal(_server, _authority, command=command):
            return Connection(revision="1", command=command)

        upstreams = Upstreams(ActorSettings(**settings), unseal, ServerLogs("r1", None))
        upstream = upstreams.get(SERVER, "", ("bearer", "project"), "modern", NOTHING)
        with pytest.raises(BadGateway, match=r"^server s: \S*sh is not started: ") as error:
            await upstream.connected()
        assert upstream.trouble is not None
        assert upstream.trouble.reason == str(error.value)
        await upstreams.close()
    assert not marker.exists()


async def test_a_process_has_a_session_of_its_own_and_three_descriptors_and_limits():
    program = """
import resource
limits = [resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in ("CORE", "NOFILE", "DATA")]
leads = os.getsid(0) == os.getpid() == os.getpgid(0)
say(json.dumps([limits, leads, sorted(os.listdir("/proc/self/fd")), sorted(os.environ)]))
try:
    bytearray(300 << 20)
except MemoryError:
    say("no room")
shake()
time.sleep(600)
"""
    read, write = os.pipe()
    os.set_inheritable(write, True)  # as a lock that `mcpctl up` hands down
    client, said = client_of(program, allowing("*", memory=256 << 20, files=64), OWN="1")
    try:
        await client.connect(timeout=20, era="legacy")
        limits, leads, files, variables = json.loads(said[0])
        assert limits == [[0, 0], [64, 64], [256 << 20, 256 << 20]]
        assert leads
        assert files == ["0", "1", "2", "3"]  # the last is the folder that is being read
        kept = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER", "SYSTEMROOT"}
        assert {*variables} - kept - {"LC_CTYPE"} == {"OWN", "MCPCTL_STDIO"}
        assert said[1] == "no room"
    finally:
        await client.close()
        os.close(read)
        os.close(write)


STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
shake()
say(f"{os.getpid()} {sleeper()} {sleeper(start_new_session=True)}")
time.sleep(600)
"""

FLOOD = """
shake()
say(f"{os.getpid()} {sleeper()}")
while True:
    os.write(2, b"x\\n" * 30000)
"""

MUTE = """
shake()
say(f"{os.getpid()} {sleeper(stdout=subprocess.DEVNULL)}")
os.close(1)
time.sleep(600)
"""

LEFT_BEHIND = """
shake()
say(f"{os.getpid()} {sleeper()} {sleeper()}")
read()
os._exit(7)
"""

ENDLESS = """
shake()
say(f"{os.getpid()} {sleeper()}")
read()
while True:
    os.write(1, b"x" * 65536)
"""

GREEDY = """
shake()
say(f"{os.getpid()} {sleeper()}")
number = 0
while True:
    number += 1
    os.write(1, json.dumps({"jsonrpc": "2.0", "id": number, "method": "ping"}).encode() + b"\\n")
"""


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        pytest.param(STUBBORN, None, id="it and its children ignore SIGTERM, one child left its group"),
        pytest.param(FLOOD, None, id="it floods stderr"),
        pytest.param(MUTE, "the process was ended: it closed its output", id="it closes stdout and stays"),
        pytest.param(LEFT_BEHIND, r"the process ended \(exit status 7\)", id="it ends and its children keep its pipes"),
        pytest.param(ENDLESS, "a line of its output is longer than 1048576 bytes", id="its line never ends"),
        pytest.param(GREEDY, "it sends more requests than it takes answers", id="it asks and does not read"),
    ],
)
async def test_a_process_that_will_not_behave_is_killed_with_all_that_it_started(program, fault):
    open_before = descriptors()
    client, said = client_of(program, allowing("*", longest=1 << 20))
    await client.connect(timeout=20, era="legacy")
    async with asyncio.timeout(20):
        while not said:
            await asyncio.sleep(0.01)
    pids = [int(pid) for pid in said[0].split()]
    asked = asyncio.create_task(client.request("tools/list", b"{}", timeout=30))
    if fault is not None:
        with pytest.raises(McpTransportError, match=fault):  # long before the timeout
            await asyncio.wait_for(asked, 15)
    else:
        await asyncio.sleep(0)
        asked.cancel()
    began = time.monotonic()
    await client.close()

    assert await gone(*pids)
    assert time.monotonic() - began < ENDED_WITHIN + 2  # of which nothing is waited for but the killed
    assert not client.alive
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.1)  # asyncio closes what it opened in its next turns
    assert descriptors().keys() <= open_before.keys()
    assert len(said) < (time.monotonic() - began + 1) / SAID_PAUSE * SAID_AT_ONCE
