"""The folder in which `mcpctl up` keeps everything, and the lock that keeps a second one out."""

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from mcpctl.cli.errors import CliError
from mcpctl.cli.private_file import write_private

LEFTOVERS = 10.0
"""Seconds in which the children of a killed `mcpctl up` must have ended."""


class DataFolder:
    """The folder, locked while this object is open.

    The children inherit the lock's descriptor: after a `kill -9` of their parent the folder stays locked until
    the last of them is gone, so that no two servers ever write to the same streams.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: IO[str] | None = None
        self._state: dict[str, object] = {}

    def __enter__(self) -> Self:
        """Make and lock the folder. Raises `CliError` where it cannot be used or is in use."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = (self.path / "up.lock").open("a+")
        except OSError as error:
            raise CliError(f"cannot use {self.path} as data folder: {error.strerror}") from error
        self._take(self._lock)
        self._remember_again()
        return self

    def look(self) -> None:
        """Read what was remembered, beside the one that uses the folder. Raises `CliError` where that is not possible.

        Who may not write the folder may not do what its owner may.
        """
        if not self.path.is_dir():
            raise CliError(f"{self.path} is no data folder: name that of mcpctl up with --data")
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise CliError(f"{self.path} is not yours: run this as the user that runs mcpctl up")
        self._remember_again()

    def _remember_again(self) -> None:
        with suppress(OSError, ValueError):
            self._state = json.loads((self.path / "state.json").read_text())

    @property
    def in_use(self) -> bool:
        """Whether a `mcpctl up`, or a child that it left, uses the folder now."""
        try:
            with (self.path / "up.lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()

    def _take(self, lock: IO[str]) -> None:
        give_up = time.monotonic() + LEFTOVERS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                holder = lock.read().strip()
                if _runs(holder) or time.monotonic() > give_up:
                    lock.close()
                    raise CliError(f"another mcpctl up (pid {holder or 'unknown'}) uses {self.path}") from None
                time.sleep(0.05)
        lock.seek(0)
        lock.truncate()
        lock.write(f"{os.getpid()}\n")
        lock.flush()

    @property
    def lock_descriptor(self) -> int:
        if self._lock is None:
            raise ValueError("the folder is not locked")
        return self._lock.fileno()

    def remembered_port(self, name: str) -> int | None:
        """Return the port that was used at the last start."""
        port = self._state.get(name)
        return port if isinstance(port, int) and 0 < port < 65536 else None

    @property
    def has_admin(self) -> bool:
        """Whether the first user was created."""
        return self._state.get("admin") is True

    def remember(self, **facts: object) -> None:
        """Keep facts for the next start."""
        self._state |= facts
        write_private(self.path / "state.json", json.dumps(self._state, indent=1) + "\n")


def _runs(pid: str) -> bool:
    if not pid.isdigit():
        return True  # it holds the lock and has not written its number yet
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
