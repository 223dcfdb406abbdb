"""`mcpctl up --demo`: a project with real servers, a token for it, and what to type next."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcpctl.bus.contracts import catalog, token
from mcpctl.bus.contracts.catalog import ProjectSpec, ServerSpec
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.errors import Conflict, NotFound
from mcpctl.cli import ports
from mcpctl.cli.context import Context
from mcpctl.cli.data_folder import DataFolder
from mcpctl.cli.errors import CliError
from mcpctl.cli.private_file import read_private, write_private
from mcpctl.cli.session import Session, connected
from mcpctl.cli.supervisor import Part

NAME = "demo"
BINDINGS = ("role:view,resource:servers", "role:run,resource:servers")
PACKAGES = ("mcp", "mcp_server_time", "mcp_server_git")

AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "Demo"), ("EMAIL", "demo@example.org"))
}
COMMITS = (
    ("README.md", "# Sample\n\nA small repository for the demo.\n", "Begin with a README"),
    ("greet.py", 'def greet(name: str) -> str:\n    return f"Hello, {name}!"\n', "Greet by name"),
    ("greet.py", 'def greet(name: str = "you") -> str:\n    return f"Hello, {name}!"\n', "Greet a stranger too"),
)


class Demo:
    """The demo of one data folder. Setting it up again changes only what is missing or has moved."""

    def __init__(self, folder: DataFolder) -> None:
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise CliError(f"the demo needs {', '.join(missing)}: pip install 'mcpctl-bus[demo]'")
        self._folder = folder
        self._files = folder.path / NAME
        self._token_file = self._files / "token"
        self._notes_port = ports.remembered_or_free(folder.remembered_port("notes_port"))

    def parts(self) -> list[Part]:
        """Return the processes that the demo needs beside those of mcpctl."""
        self._files.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.remember(notes_port=self._notes_port)
        notes = ("--port", str(self._notes_port), "--notes", str(self._files / "notes.json"))
        argv = (sys.executable, "-m", "mcpctl.cli.demo_server", *notes)
        return [Part("demo-notes", argv, self._folder.path / "logs" / "demo-notes.log", grace=3.0)]

    async def set_up(self, context: Context | None, gateway_url: str) -> list[str]:
        """Create what is missing, and return what to print. Without a login session all stays as it is."""
        lines: list[str] = []
        if context is None:
            lines.append("  demo     left as it is: it is checked at a start with a live login session")
        else:
            async with connected(context) as session:
                await self._define(session, lines)
                await self._issue(session)
        bearer = read_private(self._token_file)
        return lines + list(_ready_block(gateway_url, bearer.strip())) if bearer else lines

    async def _define(self, session: Session, lines: list[str]) -> None:
        servers = [
            ServerSpec(
                name="time",
                description="The time anywhere in the world",
                command=(sys.executable, "-m", "mcp_server_time"),
            ),
            ServerSpec(
                name="notes", description="Notes on this machine", url=f"http://127.0.0.1:{self._notes_port}/mcp"
            ),
        ]
        repository = self._sample_repository()
        if repository is None:
            lines.append("  demo     without the git server: there is no git on PATH")
        else:
            command = (sys.executable, "-m", "mcp_server_git", "--repository", str(repository))
            servers.insert(1, ServerSpec(name="git", description="A small sample repository", command=command))
        for spec in servers:
            await _keep_server(session, spec)
        await _keep_project(session, tuple(spec.name for spec in servers))

    async def _issue(self, session: Session) -> None:
        """Issue the demo's token, unless the one that is kept still works."""
        bearer = read_private(self._token_file)
        if bearer is not None and (await session.ask(token.introspect, bearer=bearer.strip())).active:
            return
        bindings = tuple(Binding.parse(text) for text in BINDINGS)
        wanted: dict[str, Any] = {
            "project": NAME,
            "name": NAME,
            "bindings": bindings,
            "description": "For the demo",
        }
        try:
            issued = await session.ask(token.issue, **wanted)
        except Conflict:  # one of that name lives whose bearer is lost
            await session.ask(token.delete, project=NAME, name=NAME)
            issued = await session.ask(token.issue, **wanted)
        write_private(self._token_file, issued.bearer + "\n")

    def _sample_repository(self) -> Path | None:
        git = shutil.which("git")
        target = self._files / "sample-repo"
        if git is not None and not target.exists():
            _make_repository(git, target)
        return target if git is not None else None


async def _keep_server(session: Session, spec: ServerSpec) -> None:
    try:
        found = await session.ask(catalog.get_server, name=spec.name)
    except NotFound:
        await session.ask(catalog.create_server, spec=spec)
    else:
        if found.spec != spec:
            await session.ask(catalog.edit_server, spec=spec, revision=found.revision)


async def _keep_project(session: Session, servers: tuple[str, ...]) -> None:
    try:
        found = await session.ask(catalog.get_project, name=NAME)
    except NotFound:
        spec = ProjectSpec(name=NAME, description="Three servers to try mcpctl with", servers=servers)
        await session.ask(catalog.create_project, spec=spec)
    else:
        missing = tuple(name for name in servers if name not in found.spec.servers)
        if missing:
            spec = found.spec.model_copy(update={"servers": found.spec.servers + missing})
            await session.ask(catalog.edit_project, spec=spec, revision=found.revision)


def _make_repository(git: str, target: Path) -> None:
    """Make it beside its place first: a start that is cut off leaves no half of one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | AUTHOR
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:

        def run(*arguments: str) -> None:
            command = [git, "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main", *arguments]
            subprocess.run(command, cwd=scratch, env=environment, check=True, capture_output=True)  # noqa: S603 - fixed words

        try:
            run("init", "--quiet")
            for name, text, message in COMMITS:
                Path(scratch, name).write_text(text)
                run("add", name)
                run("commit", "--quiet", "-m", message)
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise CliError(f"the demo's sample repository cannot be made: {''.join(reason)}") from error
        shutil.copytree(scratch, f"{target}.new", dirs_exist_ok=True)
    Path(f"{target}.new").rename(target)


def _ready_block(gateway_url: str, bearer: str) -> Iterator[str]:
    url = f"{gateway_url}/projects/{NAME}/mcp"
    program = "mcpctl" if shutil.which("mcpctl") else shlex.quote(str(Path(sys.executable).with_name("mcpctl")))
    yield ""
    yield "READY: an MCP endpoint with a token for it"
    yield f"  URL      {url}"
    yield f"  token    {bearer}"
    yield ""
    yield "Try it in another terminal:"
    yield f"  export MCPCTL_TOKEN={bearer}"
    yield f"  {program} test mcp {url}"
    yield f'  {program} test mcp {url} --tool time__get_current_time --args \'{{"timezone":"UTC"}}\''
    yield f"  {program} audit tail -p {NAME}"
    yield ""
