"""Programs of Python as processes of their own that begin where what they import is there already.

A command, a part or an upstream of a test costs a fork instead of an interpreter's start and the imports, which were a
third of all that the tests did. How the programs start from nothing is tested where that is the subject
(`tests/cli/test_program.py`, `tests/actors/test_running.py`, everything below `mcpctl up`).
"""

import asyncio
import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from typing import IO

COMMAND, PART, UPSTREAM = "command", "part", "upstream"

IMPORTED = {
    COMMAND: ("mcpctl.cli.main", "rich.table", "rich.console", "yaml", "nats.aio.client", "aiohttp", "argon2"),
    PART: (
        *("mcpctl.gateway.app", "mcpctl.actors.settings", "uvloop", "argon2", "sqlalchemy.dialects.sqlite"),
        *(f"mcpctl.actors.{name}" for name in ("token_registry", "rbac_evaluator", "catalog", "session_gate")),
        *("mcpctl.actors.audit_sink", "mcpctl.actors.upstream_router"),
    ),
    UPSTREAM: ("mcp.server", "mcp.server.streamable_http_manager", "uvicorn", "starlette.applications"),
}
"""What a program of each kind imports, at once or later."""


class Process:
    """A program that runs, as asyncio's subprocesses are used. Its parent is another process."""

    def __init__(self, reply: socket.socket) -> None:
        self.pid = int(reply.recv(16))
        self._reply = reply
        self._code: int | None = None

    def __del__(self) -> None:
        self._reply.close()

    @property
    def returncode(self) -> int | None:
        if self._code is None:
            with suppress(BlockingIOError):
                self._end(self._reply.recv(16, socket.MSG_DONTWAIT))
        return self._code

    async def wait(self) -> int:
        if self.returncode is None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(self._reply, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self._reply)
        assert self.returncode is not None
        return self.returncode

    def wait_for(self, seconds: float) -> int:
        """Wait as long as that, and block. Raises `TimeoutError`."""
        self._reply.settimeout(seconds)
        return self._end(self._reply.recv(16))

    def _end(self, said: bytes) -> int:
        self._code = int(said)
        self._reply.close()
        return self._code

    def send_signal(self, number: int) -> None:
        if self.returncode is not None:
            raise ProcessLookupError(self.pid)
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def run(
    arguments: list[str], environment: Mapping[str, str], stdin: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run one command of the CLI with this environment. Raises `subprocess.TimeoutExpired`."""
    with ExitStack() as stack:
        given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin.encode())
        given.seek(0)
        command = start(COMMAND, ["mcpctl.cli.main", *arguments], environment, given, out, err)
        try:
            code = command.wait_for(seconds)
        except TimeoutError:
            command.kill()
            raise subprocess.TimeoutExpired(arguments, seconds) from None
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read().decode(), err.read().decode())


def start(
    kind: str, argv: Sequence[str], environment: Mapping[str, str], stdin: IO, stdout: IO, stderr: IO, *ready: int
) -> Process:
    """Start a module, or a file, with its arguments. A descriptor `ready` becomes its `MCPCTL_READY_FD`."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs, tempfile.TemporaryFile() as request:
        request.write(json.dumps([argv, dict(environment), os.getcwd()]).encode())
        request.seek(0)
        files = [theirs.fileno(), *(file.fileno() for file in (request, stdin, stdout, stderr)), *ready]
        socket.send_fds(_parent(kind), [b"."], files)
    return Process(ours)


def descriptor() -> int:
    """Return what a child has to inherit to run `command`."""
    return _parent(COMMAND).fileno()


def command() -> list[str]:
    """Return how a shell runs the CLI that way."""
    return [sys.executable, "-I", "-S", os.path.join(os.path.dirname(__file__), "forked_command.py"), str(descriptor())]


@cache
def _parent(kind: str) -> socket.socket:
    """Return the socket of the process from which programs of a kind are forked; it ends with this one."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "tests.forked", kind, str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(_end, ours, process)
    return ours


def _end(requests: socket.socket, process: subprocess.Popen[bytes]) -> None:
    requests.close()
    process.wait()


def _serve(kind: str, requests: socket.socket) -> None:
    for module in IMPORTED[kind]:
        importlib.import_module(module)
    if kind != UPSTREAM:
        _complete()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the programs
    while True:
        _, files, _, _ = socket.recv_fds(requests, 1, 6)
        if not files:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(*files)
        for file in files:
            os.close(file)


def _complete() -> None:
    """Import what commands import once they run, and complete the models."""
    main = sys.modules.get("mcpctl.cli.main")
    for command in main.Program.table if main else ():
        importlib.import_module(command.target.partition(":")[0])
    for model in _below(importlib.import_module("mcpctl.bus.contract").Message):
        model.model_rebuild()


def _below(kind):
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _watch(reply: int, *files: int) -> None:
    """Fork the program itself, and tell its process id and then its exit code."""
    pid = os.fork()
    if pid == 0:
        os.close(reply)
        _become(*files)
    for file in files:
        os.close(file)
    os.write(reply, b"%16d" % pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(reply, b"%16d" % code)
    os._exit(0)


def _become(request: int, given: int, out: int, err: int, *ready: int) -> None:
    code = 70
    try:
        with os.fdopen(request, "rb") as file:
            argv, environment, folder = json.load(file)
        for number, file in enumerate((given, out, err)):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment, **({"MCPCTL_READY_FD": str(ready[0])} if ready else {}))
        os.chdir(folder)
        code = _run(argv)
        sys.stdout.flush()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - shown as the interpreter would
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _run(argv: list[str]) -> int:
    """Run the module or the file as `__main__`."""
    sys.argv = argv
    if argv[0] == "mcpctl.cli.main":
        return sys.modules[argv[0]].main(argv[1:])
    if argv[0].endswith(".py"):
        sys.path[0] = os.path.dirname(argv[0])
        runpy.run_path(argv[0], run_name="__main__")
    else:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1], socket.socket(fileno=int(sys.argv[2])))
