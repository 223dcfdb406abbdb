import itertools
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import time

import pytest
import yaml

from mcpctl.cli.nats_server import free_port
from tests.installation import PROGRAM, Installation, holders_of, mentioning

CALL = ("--tool", "time__get_current_time", "--args", '{"timezone":"UTC"}', "--no-health")


def try_up(folder, *options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MCPCTL_")}
    environment["MCPCTL_CONFIG"] = str(folder / "config.yaml")
    return subprocess.run(
        [*PROGRAM, "up", *options], env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def only_line(done):
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_the_first_start_makes_an_admin_and_logs_the_cli_in(demo):
    config = demo.folder / "config.yaml"
    told = "\n".join(demo.lines)

    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert yaml.safe_load(config.read_text())["current"] == "local"
    assert "User admin" in demo.ok("auth", "whoami")
    assert "login    user admin" in told
    assert not (demo.data / "bootstrap-secret").exists()


def test_the_password_of_the_first_user_is_not_printed_into_a_file(demo):
    password_file = demo.data / "admin-password"

    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
    assert str(password_file) in "\n".join(demo.lines)
    assert password_file.read_text() not in "\n".join(demo.lines)


def test_the_password_of_the_first_user_opens_a_session(demo, tmp_path):
    own = {"MCPCTL_CONFIG": str(tmp_path / "config.yaml")}
    password = (demo.data / "admin-password").read_text()

    demo.ok("login", "--user", "admin", "--nats-url", demo.nats_url, "--password-stdin", stdin=password, **own)

    assert "User admin" in demo.ok("auth", "whoami", **own)


def test_the_ready_block_shows_commands_that_work(demo):
    told = "\n".join(demo.lines)
    commands = [line.strip().partition("mcpctl ")[2] for line in demo.lines if "mcpctl test mcp" in line]

    assert demo.endpoint in told
    assert demo.token in told
    assert len(commands) == 2
    for command in commands:
        done = subprocess.run(
            f"{sys.executable} -m mcpctl.cli.main {command}",
            shell=True,
            env=demo.environment | {"MCPCTL_TOKEN": demo.token},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_second_up_on_the_same_data_is_refused(demo):
    done = try_up(demo.folder, "--data", str(demo.data), "--http-port", str(free_port()))

    assert done.returncode == 1
    assert only_line(done) == f"Error: another mcpctl up (pid {demo.process.pid}) uses {demo.data}"


def test_a_taken_http_port_is_one_line_and_starts_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = try_up(tmp_path, "--data", str(tmp_path / "data"), "--http-port", str(port))

    assert done.returncode == 1
    assert only_line(done) == f"Error: port {port} on 127.0.0.1 is taken: choose another with --http-port"
    assert not (tmp_path / "data" / "nats").exists()


def test_a_taken_nats_port_is_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ("--data", str(tmp_path / "data"), "--http-port", str(free_port()), "--nats-port", str(port))
        done = try_up(tmp_path, *options)

    assert done.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in only_line(done)


def test_a_data_folder_that_cannot_be_used_is_one_line(tmp_path):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("no folder")

    done = try_up(tmp_path, "--data", str(in_the_way / "data"), "--http-port", str(free_port()))

    assert done.returncode == 1
    assert only_line(done) == f"Error: cannot use {in_the_way / 'data'} as data folder: Not a directory"


def test_an_address_of_another_machine_is_one_line(tmp_path):
    done = try_up(tmp_path, "--data", str(tmp_path / "data"), "--http-host", "192.0.2.1")

    assert done.returncode == 1
    assert only_line(done).startswith("Error: cannot listen on 192.0.2.1: ")


def test_agents_bearers_do_not_go_beyond_this_machine_in_clear(tmp_path):
    done = try_up(tmp_path, "--data", str(tmp_path / "data"), "--http-host", "0.0.0.0", "--http-port", "0")

    assert "0.0.0.0 is beyond loopback: set MCPCTL_TLS_CERT and MCPCTL_TLS_KEY, or MCPCTL_TLS=terminated" in done.stderr


def test_whatever_ends_it_nothing_is_left_behind_and_the_next_start_has_everything(own_demo):
    own_demo.start()
    own_demo.ok("create", "project", "team", "--server", "time")
    first = own_demo.token
    own_demo.ok("test", "mcp", own_demo.endpoint, *CALL, MCPCTL_TOKEN=first)
    assert set(own_demo.children()) == {"nats-server", "actors", "router", "gateway", "demo-notes"}

    assert own_demo.stop(signal.SIGTERM) == 0
    assert mentioning(own_demo.data) == []
    own_demo.lines.clear()
    own_demo.start()

    assert own_demo.token == first
    assert "project/team" in own_demo.ok("get", "projects", "-o", "name")
    assert "PASSED" in own_demo.ok("test", "mcp", own_demo.endpoint, *CALL, MCPCTL_TOKEN=first)
    assert not any("login" in line for line in own_demo.lines)

    own_demo.ok("revoke", "mcptoken", "demo", "-p", "demo")  # and is issued anew
    assert own_demo.stop(signal.SIGINT) == 0
    assert mentioning(own_demo.data) == []
    own_demo.start()

    assert own_demo.token != first
    own_demo.ok("test", "mcp", own_demo.endpoint, *CALL, MCPCTL_TOKEN=own_demo.token)

    own_demo.ok("logout")
    own_demo.stop(signal.SIGKILL)
    own_demo.lines.clear()
    own_demo.start()  # waits for the lock, which is free once the last child is gone

    assert set(holders_of(own_demo.data / "up.lock")) == {own_demo.process.pid, *own_demo.children().values()}
    own_demo.ok("test", "mcp", own_demo.endpoint, *CALL, MCPCTL_TOKEN=own_demo.token)
    assert "  CLI      the login session has ended: run mcpctl login --context local --user admin" in own_demo.lines
    assert any(line.startswith("READY") for line in own_demo.lines)
    password = (own_demo.data / "admin-password").read_text()
    own_demo.ok("login", "--user", "admin", "--password-stdin", stdin=password)
    assert "User admin" in own_demo.ok("auth", "whoami")
    own_demo.stop()
    assert mentioning(own_demo.data) == []


@pytest.mark.parametrize("part", ["router", "actors", "nats-server", "gateway", "demo-notes"])
def test_a_killed_part_comes_back_by_itself(robust_demo, part):
    before = robust_demo.children()

    os.kill(before[part], signal.SIGKILL)
    robust_demo.wait_for(f"{part} ended (killed by SIGKILL): starting it again")
    robust_demo.wait_for(f"{part} is back")

    assert recovers(robust_demo)
    after = robust_demo.children()
    assert after[part] != before[part]
    assert before.keys() == after.keys()


def test_a_revocation_that_a_frozen_gateway_has_not_confirmed_is_exit_code_3_and_names_that_gateway(robust_demo):
    gateway, give_up = robust_demo.children()["gateway"], time.monotonic() + 60
    for number in itertools.count():
        name = f"frozen-{number}"
        robust_demo.ok("create", "mcptoken", name, "-p", "demo", "--bind", "role:run,resource:servers", "-o", "token")
        os.kill(gateway, signal.SIGSTOP)
        try:
            done = robust_demo.run("revoke", "mcptoken", name, "-p", "demo")
        finally:
            os.kill(gateway, signal.SIGCONT)
        assert recovers(robust_demo)
        if done.returncode or time.monotonic() > give_up:
            break  # else it came when the gateway's lease had run out, which is as good as a confirmation

    assert done.returncode == 3, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert re.match(rf"Error: done, but not confirmed by gateway-\w+ \(\S+:{gateway}\): ", line)
    void_at = re.search(r"is void at (\d\d:\d\d:\d\d) UTC, when its lease has run out", line)
    assert void_at is not None
    found = json.loads(robust_demo.ok("get", "mcptoken", name, "-p", "demo", "-o", "json"))
    assert found["status"]["state"] == "revoked"


def recovers(installation: Installation) -> bool:
    """Tell whether a tool can be called again within some seconds, those of a lease and of a restart or two."""
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        done = installation.run("test", "mcp", installation.endpoint, *CALL, MCPCTL_TOKEN=installation.token)
        if done.returncode == 0:
            return True
    return False


def test_without_git_the_git_server_is_left_out_with_a_line(own_demo, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    own_demo.environment["PATH"] = str(tools)

    own_demo.start()

    assert any("without the git server" in line for line in own_demo.lines)
    assert own_demo.ok("get", "servers", "-o", "name").split() == ["server/notes", "server/time"]


def test_a_first_start_that_was_cut_off_is_finished_by_the_next(tmp_path):
    installation = Installation(tmp_path, free_port())
    try:
        installation.start()
        installation.stop()
        state = installation.data / "state.json"  # as it is when the user exists and nobody has written that down
        state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "admin"}))
        (tmp_path / "config.yaml").unlink()

        installation.start()

        assert "User admin" in installation.ok("auth", "whoami")
    finally:
        installation.close()


def test_a_part_that_cannot_start_is_one_line_and_stops_the_others(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "sql").write_text("in the way of the databases")

    done = try_up(tmp_path, "--data", str(data), "--http-port", str(free_port()))

    assert done.returncode == 1
    assert only_line(done).startswith("Error: actors did not start: ")
    assert mentioning(data) == []


def test_a_signal_during_the_start_ends_it_with_nothing_left(tmp_path):
    installation = Installation(tmp_path, free_port())
    try:
        installation.launch()
        while not installation.children():
            pass

        assert installation.stop(signal.SIGINT) == 0
        assert mentioning(installation.data) == []
    finally:
        installation.close()


def test_more_gateways_and_routers_join_as_separate_processes(demo):
    port = free_port()
    keys = ("--nats-keys", str(demo.data / "nats" / "keys"))
    gateway = demo.background("run", "gateway", "--nats-url", demo.nats_url, "--http-port", str(port))
    allowed = {"MCPCTL_UPSTREAM_NETWORKS": "loopback", "MCPCTL_STDIO_COMMANDS": "*"}
    command = ("run", "actor", "router", "--nats-url", demo.nats_url, *keys, "--data", str(demo.data))
    router = demo.background(*command, **allowed)
    try:
        wait_until_listening(port)
        endpoint = demo.endpoint.replace(demo.url, f"http://127.0.0.1:{port}")
        demo.ok("test", "mcp", endpoint, *CALL, MCPCTL_TOKEN=demo.token)
        give_up = time.monotonic() + 30
        while (replicas_of(demo, "gateway"), replicas_of(demo, "router")) != (2, 2):
            assert time.monotonic() < give_up, demo.ok("status")
    finally:
        for process in (gateway, router):
            process.terminate()
    assert [process.wait(timeout=20) for process in (gateway, router)] == [0, 0]


def replicas_of(installation, part):
    replicas = json.loads(installation.ok("status", "-o", "json"))["replicas"]
    return [replica["name"] for replica in replicas].count(part)


def wait_until_listening(port):
    give_up = time.monotonic() + 20
    while time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"nobody listens on {port}")


def test_a_gateway_whose_port_is_taken_ends_with_one_line(demo):
    port = demo.url.rpartition(":")[2]

    refused = demo.refused("run", "gateway", "--nats-url", demo.nats_url, "--http-port", port)

    assert "cannot listen on 127.0.0.1" in refused


def test_on_a_full_disk_changes_are_refused_with_the_reason_and_reads_go_on(robust_demo):
    """No file of the actors may grow: neither the databases nor the log. No lease is given that cannot be noted."""
    actors = robust_demo.children()["actors"]
    before = resource.prlimit(actors, resource.RLIMIT_FSIZE)
    resource.prlimit(actors, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        refused = robust_demo.refused("create", "project", "full", code=3)
        listed = robust_demo.ok("get", "projects", "-o", "name")
    finally:
        resource.prlimit(actors, resource.RLIMIT_FSIZE, before)

    assert "the database of the catalog actor does not answer" in refused
    assert "project/demo" in listed
    assert recovers(robust_demo)
    robust_demo.ok("create", "project", "full")
    assert robust_demo.children()["actors"] == actors
