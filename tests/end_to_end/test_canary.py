"""Marked bearers and a marked upstream secret go through a whole installation, its errors and crashes included.

Afterwards they are looked for wherever something is kept, logged or said.
"""

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from mcpctl.cli.nats_server import free_port
from tests.canaries import Canary, Search, bearer_canary, let_in, observing
from tests.installation import Installation
from tests.postgres import on_postgres

LEAKING = str(Path(__file__).parents[1] / "upstreams" / "leaking.py")
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
ACCOUNTS = ("RPC", "AUTH", "EVENTS", "STREAMS", "SYS")
BEARERS_TRAVEL = ("RPC", "AUTH")
"""Accounts in which bearers do travel, in payloads: calls, and what the auth callout is asked."""


class Story:
    """What happened: everything that was answered, said and heard, and the files that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installation = Installation(folder, free_port())
        self.installation.environment |= {
            "MCPCTL_LOG_LEVEL": "debug",
            "PYTHONFAULTHANDLER": "1",
            "MCPCTL_UPSTREAM_TIMEOUT_MS": "3000",
            "HOME": str(folder / "home"),
        }
        (folder / "home").mkdir()
        self.record = folder / "record"
        self.secret = f'sk/{secrets.token_hex(4)}+"%&{secrets.token_hex(16)}=='
        self.argument = secrets.token_hex(16)
        self.bearers: dict[str, str] = {}
        self.replies: list[tuple[str, bytes]] = []
        self.said: list[tuple[str, str]] = []
        self.processes: Search
        self.heard = {}

    @property
    def canaries(self) -> list[Canary]:
        secret, argument = Canary("the secret", self.secret[-30:-2]), Canary("the argument", self.argument)
        return [*(bearer_canary(name, bearer) for name, bearer in self.bearers.items()), secret, argument]

    def search(self) -> Search:
        return Search(*self.canaries)

    def cli(self, *arguments: str, stdin: str = "", **environment: str) -> str:
        """Run a command, whatever comes of it, and keep what it says."""
        done = self.installation.run(*arguments, stdin=stdin, **environment)
        self.said.append((f"mcpctl {' '.join(arguments)}", done.stdout + done.stderr))
        return done.stdout

    def shown_once(self, *arguments: str) -> str:
        return self.installation.ok(*arguments, "-o", "token").strip()

    def ask(self, bearer: str, method: str, path: str = "/projects/alpha/mcp", headers=None, **params):
        """Send one stateless MCP request, and keep the answer."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}
        named = {"Mcp-Name": params["name"]} if "name" in params else {}
        sent = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": method, **named}
        sent |= {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {bearer}"}
        return self.http("POST", path, json.dumps(body), sent | (headers or {}))

    def call(self, bearer: str, tool: str, **more):
        return self.ask(bearer, "tools/call", name=tool, arguments={"text": self.argument}, **more)

    def http(self, verb: str, path: str, body: str | None = None, headers=None):
        connection = http.client.HTTPConnection(urlsplit(self.installation.url).netloc, timeout=30)
        headers = {"Content-Type": "application/json", **(headers or {})}
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.putrequest(verb, path)
            for name, value in headers.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body.encode() if body is not None else None)
            answer = connection.getresponse()
            said = f"{answer.status} {answer.getheaders()}".encode() + answer.read()
            self.replies.append((f"{verb} {path[:40]} {(body or '')[:80]}", said))
            return answer.status
        return None

    def raw(self, text: str) -> None:
        """Send what is no HTTP, and keep the answer."""
        address = urlsplit(self.installation.url)
        with socket.create_connection((address.hostname, address.port), 10) as connection:
            connection.sendall(text.encode("latin-1"))
            connection.shutdown(socket.SHUT_WR)
            self.replies.append((f"raw {text[:30]!r}", b"".join(iter(lambda: connection.recv(65536), b""))))


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Tell it once; what is asked about it is asked of what is left."""
    told = Story(tmp_path_factory.mktemp("canary"))
    upstream = subprocess.Popen([sys.executable, LEAKING, str(told.record)], stdout=subprocess.PIPE, text=True)
    try:
        told.installation.start()
        seeds = let_in(told.installation.data / "nats", *ACCOUNTS)
        os.kill(told.installation.children()["nats-server"], signal.SIGTERM)
        told.installation.wait_for("nats-server is back")
        with observing(told.installation.nats_url, seeds) as seen:
            wait_for(lambda: told.installation.run("status").returncode == 0)
            set_up(told, int(upstream.stdout.readline()))
            agents_ask(told)
            the_control_plane_is_asked(told)
            operators_ask(told)
            told.processes = told.search()
            told.processes.running(entrusted={"leaking.py": "the secret"})
            told.live = told.search()
            told.live.files(told.installation.data)
            parts_crash(told)
            told.heard = {account: list(observer.heard) for account, observer in seen.items()}
        yield told
    finally:
        upstream.kill()
        upstream.wait()
        upstream.stdout.close()
        told.installation.close()


def set_up(told: Story, port: int) -> None:
    cli = told.installation
    cli.ok("create", "secret", "entrusted", stdin=told.secret)
    web = ("--url", f"http://127.0.0.1:{port}/mcp", "--header", "Authorization=secret:entrusted")
    cli.ok("create", "server", "web", *web)
    pipe = f"{sys.executable} {LEAKING} --stdio"
    cli.ok("create", "server", "pipe", "--command", pipe, "--env", "LEAKING=secret:entrusted")
    cli.ok("create", "project", "alpha", "--server", "web", "--server", "pipe", "--naming", "prefix")
    cli.ok("create", "project", "beta", "--server", "web")
    cli.ok("create", "serviceaccount", "robot")
    role = ("--subject", "ServiceAccount:robot", "--roleBindings", "role:view,resource:*")
    cli.ok("create", "rbac", "robots", *role)
    bind = ("--bind", "role:run,resource:servers")
    told.bearers["the mcptoken"] = told.shown_once("create", "mcptoken", "agent", "-p", "alpha", *bind)
    told.bearers["the revoked mcptoken"] = told.shown_once("create", "mcptoken", "old", "-p", "alpha", *bind)
    told.bearers["the service account's bearer"] = told.shown_once("create", "serviceaccounttoken", "robot")
    config = yaml.safe_load((told.folder / "config.yaml").read_text())
    told.bearers["the login session"] = config["contexts"]["local"]["bearer"]


def agents_ask(told: Story) -> None:
    agent, old = told.bearers["the mcptoken"], told.bearers["the revoked mcptoken"]
    assert told.ask(agent, "tools/list") == 200
    for server in ("web", "pipe"):
        assert told.call(agent, f"{server}__fine") == 200
        for tool in ("fault", "status401", "status500", "garbage", "redirect", "end", "not-there"):
            if server == "web" or tool in ("fault", "garbage", "end", "not-there"):
                told.call(agent, f"{server}__{tool}")
        told.ask(agent, "resources/list")
        told.ask(agent, "tools/list")
    told.call(agent, "web__fine", path="/projects/beta/mcp")
    running = threading.Thread(target=lambda: told.call(old, "web__slow"))
    running.start()
    wait_for(lambda: b'"slow"' in told.record.read_bytes())
    told.cli("revoke", "mcptoken", "old", "-p", "alpha")
    running.join()
    told.call(old, "web__fine")
    for value in (f"Bearer {agent} x", f"Bearer  {agent}{agent}", f"Basic {agent}", f"Bearer {agent[:-1]}?", agent):
        told.ask(agent, "tools/list", headers={"Authorization": value})
        told.ask(agent, "tools/list", headers={"Authorization": value}, path="/projects/alpha/servers/web/mcp")
    for path in (f"/projects/alpha/mcp?access_token={agent}", f"/projects/{agent}/mcp", f"/{agent}"):
        told.ask(agent, "tools/list", path=path)
        told.http("POST", path, "{}")
    told.ask(agent, "tools/list", path=f"/projects/alpha/servers/{agent}/mcp")
    told.ask(agent, "tools/list", headers={"Cookie": f"bearer={agent}", "X-Upstream-Authorization": agent})
    told.ask(agent, "tools/list", headers={"traceparent": agent, "Mcp-Session-Id": agent, "Origin": f"http://{agent}"})
    told.http("POST", "/projects/alpha/mcp", f'{{"a": "{agent}', {"Authorization": f"Bearer {agent}"})
    told.http("POST", "/projects/alpha/mcp", "x", {"Authorization": f"Bearer {agent}", "Content-Encoding": agent})
    for broken in ("Authorization : Bearer {}", "Authorization: Bearer {}\0", "Bearer {}", "X-{}", ": {}", "{}: \x01"):
        told.raw(f"POST /projects/alpha/mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n{broken.format(agent)}\r\n\r\n")
    for line in (
        "POST /{} HTTP/9.9.9",
        "POST /{}",
        "{} / HTTP/1.1",
        "GET http://{}@h:x/ HTTP/1.1",
        "GET /\0{} HTTP/1.1",
    ):
        told.raw(f"{line.format(agent)}\r\nHost: 127.0.0.1\r\nContent-Length: {agent}\r\n\r\n")
    for method in ("GET", "DELETE", "PUT"):
        told.http(method, "/projects/alpha/mcp", None, {"Authorization": f"Bearer {agent} {agent}"})
    session = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": session}
    told.http("POST", "/projects/alpha/mcp", json.dumps(opening), {"Authorization": f"Bearer {agent}", "Accept": "*/*"})


def the_control_plane_is_asked(told: Story) -> None:
    for bearer in told.bearers.values():
        sent = {"Authorization": f"Bearer {bearer}"}
        for path in (
            "projects",
            "servers",
            "servers/web",
            "secrets",
            "users",
            "audit",
            "projects/alpha/mcptokens",
            "x",
        ):
            told.http("GET", f"/api/v1/{path}", None, sent)
        told.http("GET", f"/api/v1/users/{bearer}", None, sent)
        told.http("GET", "/api/v1/projects", None, {"Authorization": f"Bearer {bearer} {bearer}"})
        told.http("GET", f"/api/v1/projects?bearer={bearer}", None, {})
        told.http("POST", "/api/v1/projects", json.dumps({"name": "x", "bearer": bearer}), sent)
        told.http("POST", "/api/v1/login", json.dumps({"user": bearer, "password": bearer}), {})
        told.http("POST", "/api/v1/login", f'{{"user": "admin", "password": "{bearer}', {})
    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/openapi.json"):
        told.http("GET", path)


def operators_ask(told: Story) -> None:
    agent, endpoint = told.bearers["the mcptoken"], f"{told.installation.url}/projects/alpha/mcp"
    loud = {"MCPCTL_DEBUG": "1", "MCPCTL_TOKEN": agent}
    told.cli("test", "mcp", endpoint, **loud)
    told.cli("test", "mcp", endpoint, "--tool", "web__fault", "--args", "{}", **loud)
    told.cli("call", "tool", "web__status401", "-p", "alpha", "--token", "-", stdin=agent, MCPCTL_DEBUG="1")
    told.cli("call", "tool", "pipe__garbage", "-p", "alpha", MCPCTL_DEBUG="1")
    told.cli("get", "servers", MCPCTL_TOKEN=f"{agent}x")
    told.cli("get", "servers", MCPCTL_CONTEXT="", MCPCTL_CONFIG=str(told.folder / "none.yaml"), **loud)
    told.cli("auth", "whoami", MCPCTL_TOKEN=told.bearers["the service account's bearer"])
    for kind in ("secrets", "servers", "serviceaccounts", "users", "rbac", "all"):
        told.cli("get", kind, "-o", "yaml")
    told.cli("get", "mcptokens", "-p", "alpha", "-o", "yaml")
    told.cli("describe", "server", "web")
    told.cli("logs", "server", "pipe")
    told.cli("status", "-o", "json")
    told.cli("config", "view")
    told.cli("audit", "get", "-o", "json", "--limit", "1000")
    told.cli("export", str(told.installation.data / "backup.json"))
    told.cli("export", "--secrets", "omit", str(told.installation.data / "backup-without.json"))
    told.cli("export", "-")


def parts_crash(told: Story) -> None:
    """Have each part die while it has all of it in its memory: aborted with a traceback, killed, and all at once."""
    for part, number in (("gateway", signal.SIGABRT), ("router", signal.SIGABRT), ("actors", signal.SIGKILL)):
        with running_call(told):
            os.kill(told.installation.children()[part], number)
            told.installation.wait_for(f"{part} is back")
    told.cli("revoke", "mcptoken", "agent", "-p", "alpha")
    told.call(told.bearers["the mcptoken"], "web__fine")
    told.installation.stop(signal.SIGKILL)  # nothing is tidied up: write-ahead logs and streams are as they were


@contextlib.contextmanager
def running_call(told: Story):
    """Have a call run at the upstream; it is tried again while a part that it needs is not back yet."""

    def begun():
        return told.record.read_bytes().count(b'"slow"')

    before, running = begun(), threading.Thread()
    give_up = time.monotonic() + 30
    while begun() == before:
        assert time.monotonic() < give_up
        if not running.is_alive():
            running = threading.Thread(target=lambda: told.call(told.bearers["the mcptoken"], "web__slow"))
            running.start()
        time.sleep(0.02)
    yield
    running.join(timeout=40)
    assert not running.is_alive()


def wait_for(true, seconds=20):
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_where_bearers_do_travel_they_are_found(story):
    search = story.search()
    for account in BEARERS_TRAVEL:
        for _, message in story.heard[account]:
            search.look(account, message)

    assert {f"{name} (plain) in RPC" for name in story.bearers} | {"the secret (plain) in RPC"} <= set(search.found)
    assert any(line.startswith("the mcptoken (base64") and line.endswith(" in AUTH") for line in search.found)


def test_nothing_is_in_any_subject_or_in_a_message_outside_the_accounts_of_calls(story):
    search = story.search()
    for account, heard in story.heard.items():
        assert heard, f"nothing was heard in {account}"
        for subject, message in heard:
            search.look(f"a subject of {account}", subject)
            if account not in BEARERS_TRAVEL or b"io.nats.micro" in message:  # that is $SRV.STATS
                search.look(f"{account}: {subject}", message)

    assert search.found == []


def test_nothing_is_in_any_file_while_it_runs_or_after_a_kill(story):
    search = story.search()
    search.files(story.folder, but=(story.folder / "config.yaml", story.record))

    assert story.live.found + search.found == []
    databases = set() if on_postgres() else {"audit.sqlite", "audit.sqlite-wal", "audit.sqlite-shm"}
    assert databases | {"gateway.log", "1.blk"} <= story.live.names
    assert {"backup.json: catalog", "backup-without.json: catalog"} <= story.live.names
    assert "Fatal Python error: Aborted" in (story.installation.data / "logs" / "gateway.log").read_text()


def test_nothing_is_on_any_command_line_or_in_the_environment_of_a_part(story):
    """The environment of a stdio server is where its secret belongs."""
    assert story.processes.looked > 10
    assert story.processes.found == []


def test_no_upstream_was_shown_a_bearer(story):
    record = story.record.read_bytes()
    search = Search(*story.canaries[: len(story.bearers)])
    search.look("what the upstream got", record)

    assert record.count(b"tools/call") > 10
    assert search.found == []


def test_no_answer_repeats_a_bearer(story):
    search = Search(*story.canaries[: len(story.bearers)])
    for asked, said in story.said + story.replies:
        search.look(asked, said)

    assert search.looked > 100
    assert search.found == []


def test_no_answer_repeats_the_secret_that_a_server_gives_away(story):
    search = story.search()
    for asked, said in story.said + story.replies:
        search.look(asked, said)

    assert [line for line in search.found if line.startswith("the secret")] == []
