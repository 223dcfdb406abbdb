"""A process with two pipes, whose end is noticed although its children may hold the pipes open."""

import asyncio
from asyncio.subprocess import PIPE, SubprocessStreamProtocol
from collections.abc import Callable, Mapping
from typing import Any, Self, cast


class Process:
    """What `asyncio.subprocess.Process` is, but for `exited`: its `wait()` returns when the pipes are closed too."""

    def __init__(self, transport: asyncio.SubprocessTransport, protocol: "_Protocol") -> None:
        self._transport = transport
        self.exited = protocol.exited
        self.stdin = cast("asyncio.StreamWriter", protocol.stdin)
        self.stdout = cast("asyncio.StreamReader", protocol.stdout)
        self.pid = transport.get_pid()

    @classmethod
    async def start(
        cls, *command: str, stderr: int, env: Mapping[str, str], longest: int, limit: Callable[[], None]
    ) -> Self:
        """Start a program, leader of a session of its own; `longest` is a line of it in bytes. Raises `OSError`.

        `limit` is called in the process before the program.
        """
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            lambda: _Protocol(longest, loop),
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=stderr,
            env=env,
            start_new_session=True,
            preexec_fn=limit,
        )
        return cls(transport, protocol)

    @property
    def returncode(self) -> int | None:
        return self._transport.get_returncode()

    def close(self) -> None:
        """Close the pipes, whoever else has them; a process that still runs is killed."""
        self._transport.close()


class _Protocol(SubprocessStreamProtocol):
    def __init__(self, limit: int, loop: Any) -> None:
        super().__init__(limit, loop)
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()
