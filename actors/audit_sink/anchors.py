"""Heads outside of the database: a file to which each sink adds those of every sink, and what others have kept."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import orjson
from pydantic import ValidationError

from mcpctl.bus.contracts.audit import Head

LIMIT_BYTES = 4 * 1024 * 1024
"""Size from which the file is put aside, as the only older one, and a new one begun."""

Anchors = dict[str, dict[int, Head]]
"""Heads by project and number."""


class AnchorFile:
    """JSON lines of heads, in the order of their signing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._older = path.with_name(f"{path.stem}.1{path.suffix}")
        self._found: Anchors = {}
        self._read: dict[Path, tuple[int, int]] = {}  # inode, and bytes that were read

    def add(self, heads: Iterable[Head]) -> None:
        """Add heads. Raises `OSError`."""
        lines = _lines(heads)
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if _state(self.path)[1] > LIMIT_BYTES:
            newest = _lines(self.newest())
            with suppress(OSError):  # an append-only file cannot be put aside, and grows
                self.path.replace(self._older)
                lines = newest + lines
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, lines)
        finally:
            os.close(descriptor)

    def newest(self) -> Iterable[Head]:
        """Return the newest head of each project."""
        return [max(heads.values(), key=lambda head: head.number) for heads in self.read().values()]

    def read(self) -> Anchors:
        """Return all heads that are kept; a line that is none (a write was cut short) is passed over."""
        known, size = self._read.get(self.path, (0, 0))
        now, grown = _state(self.path)
        if now == known and grown >= size and _state(self._older)[0] == self._read.get(self._older, (0, 0))[0]:
            self._take(self.path, size)
        else:
            self._found, self._read = {}, {}
            for path in (self._older, self.path):
                self._take(path, 0)
        return self._found

    def _take(self, path: Path, start: int) -> None:
        try:
            with path.open("rb") as file:
                file.seek(start)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._read[path] = _state(path)[0], start + len(whole)
        for line in whole.splitlines():
            with suppress(ValidationError):
                head = Head.model_validate_json(line)
                self._found.setdefault(head.project, {})[head.number] = head


def _lines(heads: Iterable[Head]) -> bytes:
    return b"".join(orjson.dumps(head.model_dump()) + b"\n" for head in heads)


def _state(path: Path) -> tuple[int, int]:
    """Return a file's inode and size."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size


def joined(anchors: Anchors, more: Iterable[Head]) -> Anchors:
    """Return anchors with those that somebody else has kept."""
    found = {project: dict(heads) for project, heads in anchors.items()}
    for head in more:
        found.setdefault(head.project, {})[head.number] = head
    return found
