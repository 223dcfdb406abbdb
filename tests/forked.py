"""CLI commands as processes of their own that begin where the program is imported already.

A test's command costs a fork instead of an interpreter's start and the imports, which were a third of all that the
tests did. How the program starts from nothing is tested where that is the subject (`tests/cli/test_program.py`).
"""

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cache

LATER = ("rich.table", "rich.console", "yaml", "nats.aio.client", "aiohttp", "argon2", "mcpctl.bus.connection")
"""What commands import once they run."""


def run(
    arguments: list[str], environment: dict[str, str], stdin: str, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run one command with this environment. Raises `subprocess.TimeoutExpired`."""
    ours, theirs = socket.socketpair()
    with ours, ExitStack() as stack:
        request, given, out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(4))
        request.write(json.dumps([arguments, environment, os.getcwd()]).encode())
        given.write(stdin.encode())
        for file in (request, given):
            file.seek(0)
        with theirs:
            socket.send_fds(_parent(), [b"."], [file.fileno() for file in (request, given, out, err, theirs)])
        pid = int(ours.recv(16))
        ours.settimeout(seconds)
        try:
            code = int(ours.recv(16))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(arguments, seconds) from None
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read().decode(), err.read().decode())


@cache
def _parent() -> socket.socket:
    """Return the socket of the process from which commands are forked; it ends with this one."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    atexit.register(_end, ours, process)
    return ours


def _end(requests: socket.socket, process: subprocess.Popen[bytes]) -> None:
    requests.close()
    process.wait()


def _serve(requests: socket.socket) -> None:
    program = importlib.import_module("mcpctl.cli.main")
    for module in (*LATER, *(command.target.partition(":")[0] for command in program.Program.table)):
        importlib.import_module(module)
    message = importlib.import_module("mcpctl.bus.contract").Message
    for kind in _below(message):
        kind.model_rebuild()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the commands
    while True:
        _, files, _, _ = socket.recv_fds(requests, 1, 5)
        if not files:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(*files, program.main)
        for file in files:
            os.close(file)


def _below(kind):
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)


def _watch(request: int, given: int, out: int, err: int, reply: int, main) -> None:
    """Fork the command itself, and tell its process id and then its exit code."""
    pid = os.fork()
    if pid == 0:
        os.close(reply)
        _become(request, given, out, err, main)
    os.write(reply, b"%16d" % pid)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(reply, b"%16d" % code)
    os._exit(0)


def _become(request: int, given: int, out: int, err: int, main) -> None:
    code = 70
    try:
        with os.fdopen(request, "rb") as file:
            arguments, environment, folder = json.load(file)
        for number, file in enumerate((given, out, err)):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv = ["mcpctl", *arguments]
        code = main(arguments)
        sys.stdout.flush()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:  # noqa: BLE001 - shown as the interpreter would
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
