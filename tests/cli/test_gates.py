"""`get gates` and `gate close`: who is through, and closing behind some or all."""

import asyncio
import json
import os
import pty
import subprocess

import pytest

from mcpctl.bus.bearer import digest
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import gate
from mcpctl.bus.identity import ActorIdentity
from tests.installation import PROGRAM


@pytest.fixture
def begin(cli):
    """Let a bearer through a gate, as the router does."""

    async def open_gate(request):
        bus = await Bus.connect(cli.nats_url, ActorIdentity("router", cli.data / "nats" / "keys"))
        try:
            return await bus.call(gate.open_gate, request)
        finally:
            await bus.close()

    def opened(bearer, project="guarded", by="begin_session", **given):
        return asyncio.run(open_gate(gate.OpenGate(bearer=bearer, project=project, by=by, **given)))

    return opened


@pytest.fixture
def project(cli):
    """The project `guarded` with the mcptokens `ci` and `agent`; their bearers by name."""
    cli.ok("create", "project", "guarded")
    yield {name: cli.ok("create", "mcptoken", name, "-p", "guarded", "-o", "token").strip() for name in ("ci", "agent")}
    cli.ok("gate", "close", "-p", "guarded", "--all", "-y")
    cli.ok("delete", "project", "guarded")


def principals(cli):
    return [line.split()[0] for line in cli.ok("get", "gates", "-p", "guarded", "--no-headers").splitlines()]


def test_who_is_through_is_listed_since_when_how_and_with_what(cli, project, begin):
    begin(project["ci"], tags=("deploy", "git"), prompts=("how-to-deploy", "style"))
    begin(project["agent"], by="call")

    lines = cli.ok("get", "gates", "-p", "guarded").splitlines()
    wide = cli.ok("get", "gates", "-p", "guarded", "-o", "wide").splitlines()

    assert [cell.strip() for cell in lines[0].split("   ") if cell.strip()] == [
        *("PRINCIPAL", "PROJECT", "SINCE", "UNTIL", "OPENED BY", "TAGS", "PROMPTS")
    ]
    agent, ci = ([cell.strip() for cell in line.split("   ") if cell.strip()] for line in lines[1:])
    assert (agent[:2], agent[4:]) == (["McpToken:agent", "guarded"], ["call", "-", "0"])
    assert (ci[:2], ci[4:]) == (["McpToken:ci", "guarded"], ["begin_session", "deploy, git", "2"])
    assert ci[2].endswith("s ago")
    assert ci[3] == "in 1h"
    assert wide[0].split()[-3:] == ["PROMPT", "NAMES", "SESSION"]
    assert "how-to-deploy, style" in wide[2]


def test_programs_get_what_is_known_and_no_bearer(cli, project, begin):
    begin(project["ci"], tags=("deploy",), prompts=("style",))

    told = cli.ok("get", "gates", "-p", "guarded", "-o", "json")
    (item,) = json.loads(told)["items"]

    assert (item["kind"], item["project"], item["subject"], item["sha"]) == (
        *("gate", "guarded", "McpToken:ci"),
        digest(project["ci"]),
    )
    assert (item["openedBy"], item["tags"], item["prompts"], item["session"]) == (
        *("begin_session", ["deploy"], ["style"]),
        None,
    )
    assert project["ci"] not in told
    assert cli.ok("get", "gates", "-p", "guarded", "-o", "name") == "gate/McpToken:ci\n"
    assert "kind: gate" in cli.ok("get", "gates", "-p", "guarded", "-o", "yaml")


def test_a_gate_is_no_resource_to_apply_show_by_name_or_delete(cli, project, begin):
    begin(project["ci"])

    assert "kind: gate" not in cli.ok("get", "all", "-o", "yaml")
    assert "gate/" not in cli.ok("get", "all", "-o", "name")
    for verb, hint in (("get", "mcpctl get gates -p PROJECT"), ("delete", "mcpctl gate close -p PROJECT SUBJECT")):
        assert cli.refused(verb, "gate", "McpToken:ci", code=2).endswith(hint)


def test_nobody_through_is_said(cli, project):
    assert cli.run("get", "gates", "-p", "guarded").stderr == "No gates found in project guarded.\n"


def test_a_gate_is_closed_behind_those_that_are_named(cli, project, begin):
    for bearer in project.values():
        begin(bearer)

    done = cli.run("gate", "close", "-p", "guarded", "ci", "User:admin", "McpToken:agent")

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        'gate of project "guarded" closed behind McpToken:ci (1 passage)',
        'gate of project "guarded" closed behind McpToken:agent (1 passage)',
    ]
    assert done.stderr == 'Error: User:admin is not through the gate of project "guarded"\n'
    assert principals(cli) == []
    assert begin(project["ci"]).fresh


def test_all_is_said_twice_where_nobody_can_be_asked(cli, project, begin):
    for bearer in project.values():
        begin(bearer)

    refused = cli.refused("gate", "close", "-p", "guarded", "--all", code=2)
    assert refused.endswith("behind everybody: repeat it with --yes")
    assert principals(cli) == ["McpToken:agent", "McpToken:ci"]
    assert cli.ok("gate", "close", "-p", "guarded", "--all", "--yes") == (
        'gate of project "guarded" closed behind everybody (2 passages)\n'
    )
    assert principals(cli) == []


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 130, ["McpToken:ci"]), (b"y\n", 0, [])])
def test_on_a_terminal_all_is_asked_for(cli, project, begin, answer, code, left):
    begin(project["ci"])
    outer, inner = pty.openpty()
    try:
        os.write(outer, answer)
        done = subprocess.run(
            [*PROGRAM, "gate", "close", "-p", "guarded", "--all"],
            env=cli.environment,
            stdin=inner,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(outer)
        os.close(inner)

    assert "Close the gate of project guarded behind everybody?" in done.stdout
    assert done.returncode == code
    assert principals(cli) == left


@pytest.mark.parametrize("arguments", [(), ("ci", "--all"), ("Group:devs",), ("User:",), ("no name",)])
def test_what_names_nobody_is_a_mistake_of_the_command_line(cli, project, arguments):
    cli.refused("gate", "close", "-p", "guarded", *arguments, code=2)


def test_a_project_that_is_not_there_is_told(cli):
    assert cli.refused("gate", "close", "-p", "nowhere", "ci") == 'Error: project "nowhere" not found'
    assert cli.refused("get", "gates", "-p", "nowhere") == 'Error: project "nowhere" not found'
