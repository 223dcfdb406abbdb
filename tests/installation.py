"""One `mcpctl up` as its user has it: the process, its output, and the CLI beside it."""

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests import forked
from tests.postgres import database_url

START_SECONDS = 30
READY = "Stop with Ctrl-C."
PROGRAM = (sys.executable, "-m", "mcpctl.cli.main")


class Installation:
    """`mcpctl up` on a folder of its own. `lines` is what it has said so far."""

    def __init__(self, folder: Path, http_port: int, *options: str) -> None:
        self.folder, self.data = folder, folder / "data"
        self.url = f"http://127.0.0.1:{http_port}"
        self.options = ("--data", str(self.data), "--http-port", str(http_port), *options)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("MCPCTL_")}
        self.environment["MCPCTL_CONFIG"] = str(folder / "config.yaml")
        database = database_url()
        if database is not None:
            self.environment["MCPCTL_DATABASE_URL"] = database
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None

    @property
    def program(self) -> str:
        """How a shell runs the CLI."""
        return shlex.join(PROGRAM)

    @property
    def endpoint(self) -> str:
        return f"{self.url}/projects/demo/mcp"

    @property
    def nats_url(self) -> str:
        return str(yaml.safe_load((self.folder / "config.yaml").read_text())["contexts"]["local"]["nats_url"])

    @property
    def token(self) -> str:
        """The demo's mcptoken."""
        return (self.data / "demo" / "token").read_text().strip()

    def start(self) -> None:
        """Start, and return when it says that it is ready."""
        self.launch()
        self.wait_for(READY)

    def launch(self) -> None:
        """Start, and do not wait."""
        self._said: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [*PROGRAM, "up", *self.options],
            env=self.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,))
        self._reader.start()

    def _read(self, process):
        for line in process.stdout:
            self._said.put(line.rstrip("\n"))
        self._said.put(None)

    def wait_for(self, text: str, seconds: float = START_SECONDS) -> str:
        """Return the next line of its output that has `text` in it."""
        while True:
            line = self._said.get(timeout=seconds)
            assert line is not None, f"mcpctl up ended without saying {text!r}:\n" + "\n".join(self.lines)
            self.lines.append(line)
            if text in line:
                return line

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it, and return its exit code when it has ended."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(timeout=30)
        self._reader.join()
        self.process.stdout.close()
        return code

    def close(self) -> None:
        """Stop it if it runs, whatever state a test left it in."""
        if self.process is not None and not self.process.stdout.closed:
            self.stop()

    def children(self) -> dict[str, int]:
        """Return the process ids of its direct children by the name of their part."""
        found = {}
        for pid in processes():
            if parent_of(pid) == self.process.pid:
                found[_part(_command(pid))] = pid
        return found

    def run(self, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a CLI command against it."""
        return forked.run(list(arguments), self.environment | environment, stdin, seconds=60)

    def background(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command that does not end by itself."""
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*PROGRAM, *arguments], env=self.environment | environment, text=True, **quiet)

    def ok(self, *arguments: str, stdin: str = "", **environment: str) -> str:
        """Run a CLI command that must succeed, and return what it prints."""
        done = self.run(*arguments, stdin=stdin, **environment)
        assert done.returncode == 0, f"{arguments}: exit code {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout

    def refused(self, *arguments: str, code: int = 1, stdin: str = "", **environment: str) -> str:
        """Run a CLI command that must fail with one line, and return that line."""
        done = self.run(*arguments, stdin=stdin, **environment)
        assert done.returncode == code, f"{arguments}: exit code {done.returncode}: {done.stderr}{done.stdout}"
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("Error: "), done.stderr
        return lines[0]


@contextmanager
def running(installation: Installation):
    """Start it for a while; nothing of it is left afterwards."""
    try:
        installation.start()
        yield installation
    finally:
        installation.close()


def processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def holders_of(path: Path) -> list[int]:
    """Return the processes that have a file open: the lock of the data folder is open in every child."""
    found = []
    for pid in processes():
        try:
            files = [descriptor.readlink() for descriptor in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        if path in files:
            found.append(pid)
    return found


def mentioning(path: Path) -> list[int]:
    """Return the processes on whose command line or in whose environment a folder occurs."""
    found = []
    for pid in processes():
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(path) in text and pid != os.getpid():
            found.append(pid)
    return found


def parent_of(pid: int) -> int | None:
    """Return the parent of a process; None where it is gone or only waits to be reaped."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else int(parent)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def _part(command: str) -> str:
    for text, name in (
        ("nats-server", "nats-server"),
        ("mcpctl.gateway", "gateway"),
        ("mcpctl.cli.demo_server", "demo-notes"),
        ("mcpctl.actors router", "router"),
        ("mcpctl.actors", "actors"),
    ):
        if text in command:
            return name
    return command
