"""Child processes that are kept running: started, watched, started again, and stopped in order.

A child leads a session of its own, so that a Ctrl-C in the terminal reaches the supervisor alone, and Linux ends
it should the supervisor be killed.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mcpctl.bus.process import die_with_parent
from mcpctl.cli.errors import CliError

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a child that ended is started again; doubled each time."""

SETTLED = 30.0
"""Seconds of life after which an end counts as the first again."""

START_PATIENCE = 30.0
LAST_LINES = 1.0
"""Seconds to copy what an ended part has written; a child of its own may hold the pipe open for longer."""

LOG_LIMIT = 16 * 1024 * 1024
"""Bytes from which a log is put aside at the next start of its part."""


@dataclass
class Part:
    """One process. It is ready when `probe` says so; without one, when it writes to `MCPCTL_READY_FD`."""

    name: str
    argv: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] | None = None
    """None: that of this process"""
    probe: Callable[[], Awaitable[bool]] | None = None
    grace: float = 15.0
    """seconds between SIGTERM and SIGKILL"""
    inherited: tuple[int, ...] = ()
    """descriptors that stay open in the child"""
    echo: bool = False
    """whether its output goes to stderr too"""

    process: asyncio.subprocess.Process | None = field(default=None, init=False)
    started_at: float = field(default=0.0, init=False)
    _prepared: IO[bytes] | None = field(default=None, init=False)
    """while it is held back: where it will say that it is ready"""
    _hold: IO[bytes] | None = field(default=None, init=False)
    """what is closed to let it begin"""
    _copying: asyncio.Task[None] | None = field(default=None, init=False)

    async def prepare(self) -> None:
        """Let it load its program, which takes longest; it begins with `start`, which also tells what went wrong."""
        held, hold = os.pipe()
        self._hold = os.fdopen(hold, "wb", 0)
        try:
            self._prepared = await self._launch(held)
        except OSError:
            self._let_go()
        finally:
            os.close(held)

    def _let_go(self) -> None:
        for pipe in filter(None, (self._hold, self._prepared)):
            pipe.close()
        self._hold = self._prepared = None

    async def start(self) -> None:
        """Start it, and return when it is ready. Raises `CliError` with its last words where it ends before."""
        try:
            async with asyncio.timeout(START_PATIENCE):
                ready = await self._start()
        except TimeoutError as error:
            raise CliError(f"{self.name} is not ready after {START_PATIENCE:.0f} s: see {self.log}") from error
        except OSError as error:
            raise CliError(f"{self.name} cannot be started: {error.strerror} ({error.filename})") from error
        if not ready and self.process is not None:
            await self.process.wait()
            raise CliError(f"{self.name} did not start: {_last_words(self.log)} (log: {self.log})")

    async def _start(self) -> bool:
        """Return true once it is ready, false where it never will be."""
        pipe, self._prepared = self._prepared or await self._launch(), None
        self._let_go()
        with pipe:
            return await (self._probed(self.probe) if self.probe else _said(pipe))

    async def _launch(self, held: int | None = None) -> IO[bytes]:
        """Start the process, and return the pipe in which it says that it is ready."""
        _put_aside(self.log)
        reading, writing = os.pipe()
        pipe = os.fdopen(reading, "rb", 0)
        try:
            with self.log.open("ab") as log:
                self.process = await self._spawn(log, writing, held)
        except OSError:
            pipe.close()
            raise
        finally:
            os.close(writing)
        self.started_at = time.monotonic()
        if self.process.stdout is not None:
            self._copying = asyncio.create_task(_copy(self.process.stdout, self.name, self.log))
        return pipe

    async def _spawn(self, log: IO[bytes], writing: int, held: int | None) -> asyncio.subprocess.Process:
        environment = os.environ if self.environment is None else self.environment
        descriptors = {"MCPCTL_READY_FD": writing} | ({} if held is None else {"MCPCTL_START_FD": held})
        return await asyncio.create_subprocess_exec(
            *self.argv,
            env={**environment, **{name: str(number) for name, number in descriptors.items()}},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if self.echo else log,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
            pass_fds=(*descriptors.values(), *self.inherited),
        )

    async def _probed(self, probe: Callable[[], Awaitable[bool]]) -> bool:
        while not await probe():
            if self.process is None or self.process.returncode is not None:
                return False
            await asyncio.sleep(0.02)
        return True

    async def stop(self) -> None:
        """Ask it to end, and return when it has: killed, if it takes longer than its grace."""
        if self.process is not None and self.process.returncode is None:
            await self._end(self.process)
        self._let_go()
        if self._copying is not None:
            await asyncio.wait({self._copying}, timeout=LAST_LINES)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self.grace):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """End it and the children in its process group at once."""
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class Supervisor:
    """Keeps parts running until `stop`. `tell` gets one line for each that had to be started again."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._parts: list[Part] = []
        self._watches: list[asyncio.Task[None]] = []

    async def prepare(self, *parts: Part) -> None:
        """Let parts load their programs side by side, before it is their turn to start."""
        self._parts += parts
        await asyncio.gather(*(part.prepare() for part in parts))

    async def start(self, *parts: Part) -> None:
        """Start parts side by side and watch them from then on. Raises `CliError` for the first that does not start."""
        self._parts = [*(part for part in self._parts if part not in parts), *parts]
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(part.start())
        except* CliError as failures:
            raise failures.exceptions[0] from None
        self._watches += [asyncio.create_task(self._watch(part)) for part in parts]

    async def stop(self) -> None:
        """Stop all parts, the last one first."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for part in reversed(self._parts):
            await part.stop()

    def kill(self) -> None:
        """End all parts at once."""
        for part in self._parts:
            part.kill()

    async def _watch(self, part: Part) -> None:
        pause = FIRST_PAUSE
        while part.process is not None:
            code = await part.process.wait()
            if time.monotonic() - part.started_at > SETTLED:
                pause = FIRST_PAUSE
            self._tell(f"{part.name} ended ({_manner(code)}): starting it again")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                await part.start()
                self._tell(f"{part.name} is back")
            except CliError as error:
                part.kill()
                self._tell(str(error))


async def _said(pipe: IO[bytes]) -> bool:
    """Wait for a line on a pipe; false where it was closed without one."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    try:
        return bool(await reader.readline())
    finally:
        transport.close()


async def _copy(output: asyncio.StreamReader, name: str, log: Path) -> None:
    with log.open("ab") as file:
        async for line in output:
            file.write(line)
            file.flush()
            sys.stderr.write(f"{name} | {line.decode(errors='replace')}")
            sys.stderr.flush()


def _manner(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _last_words(log: Path) -> str:
    with suppress(OSError, IndexError):
        return log.read_text(errors="replace").strip().splitlines()[-1].strip()
    return "it said nothing"


def _put_aside(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
