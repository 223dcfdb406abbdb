"""Where the deployment is that is to be tried. Nothing is tried without `MCPGW_URL`, and nothing where it is silent."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import urlsplit

import pytest

PATIENCE = 15


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    text: str

    @property
    def json(self):
        return json.loads(self.text)


@dataclass(frozen=True)
class Deployment:
    """A gateway, or what stands in front of several, and a project of it."""

    url: str
    project: str
    token: str = field(repr=False)
    """an mcptoken of the project"""
    admin: str = field(repr=False)
    """a bearer that may issue mcptokens there, or nothing"""

    def endpoint(self, project: str | None = None) -> str:
        return f"{self.url}/projects/{project or self.project}/mcp"

    def ask(self, path: str, body: object = None, bearer: str = "", **headers: str) -> Answer:
        """Send one request on a connection of its own: behind a load balancer the next goes to another gateway."""
        sent = {"Connection": "close"} | {name.replace("_", "-"): value for name, value in headers.items()}
        if bearer:
            sent["Authorization"] = f"Bearer {bearer}"
        data = None
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        url = path if path.startswith("http") else self.url + path
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, sent), timeout=PATIENCE) as answer:
                return Answer(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as answer:
            with answer:
                return Answer(answer.code, answer.headers, answer.read().decode())

    def list_tools(self, bearer: str, project: str | None = None) -> Answer:
        """Ask for the tools, statelessly."""
        client = {"io.modelcontextprotocol/clientInfo": {"name": "smoke", "version": "1"}}
        version = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
        meta = client | version | {"io.modelcontextprotocol/clientCapabilities": {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
        named = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/list"}
        accepted = "application/json, text/event-stream"
        return self.ask(self.endpoint(project), body, bearer, Accept=accepted, **named)

    def mcpctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the CLI with the project's token."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MCPCTL_")}
        environment["MCPCTL_TOKEN"] = self.token
        command = [sys.executable, "-m", "mcpctl.cli.main", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="session")
def deployment():
    url = os.environ.get("MCPGW_URL", "").rstrip("/")
    if not url:
        pytest.skip("MCPGW_URL names no deployment to try")
    token = os.environ.get("MCPGW_TOKEN", "")
    if not token:
        pytest.skip("MCPGW_TOKEN has no mcptoken of the project MCPGW_PROJECT")
    tried = Deployment(url, os.environ.get("MCPGW_PROJECT", "demo"), token, os.environ.get("MCPGW_ADMIN_TOKEN", ""))
    try:
        tried.ask("/healthz")
    except OSError as error:
        pytest.skip(f"nothing answers at {urlsplit(url).netloc}: {error}")
    return tried
