"""Heads outside of the database: a file to which each sink adds those of every sink, and what others have kept."""

import os
from collections.abc import Iterable
from pathlib import Path

import orjson
from pydantic import ValidationError

from mcpctl.bus.contracts.audit import Head

LIMIT_BYTES = 16 * 1024 * 1024
"""Size from which the file is put aside, as the only older one, and a new one begun."""

Anchors = dict[str, dict[int, Head]]
"""Heads by project and number."""


class AnchorFile:
    """JSON lines of heads, in the order of their signing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._older = path.with_name(f"{path.stem}.1{path.suffix}")
        self._read: Anchors = {}
        self._stamp: tuple[object, ...] = ()

    def add(self, heads: Iterable[Head]) -> None:
        """Add heads. Raises `OSError`."""
        lines = b"".join(orjson.dumps(head.model_dump()) + b"\n" for head in heads)
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._size(self.path) > LIMIT_BYTES:
            last = list(self.newest())
            self.path.replace(self._older)
            lines = b"".join(orjson.dumps(head.model_dump()) + b"\n" for head in last) + lines
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, lines)
        finally:
            os.close(descriptor)

    def newest(self) -> Iterable[Head]:
        """Return the newest head of each project."""
        return [max(each.values(), key=lambda head: head.number) for each in self.read().values()]

    def read(self) -> Anchors:
        """Return all heads that are kept; a line that is none (a write was cut short) is passed over."""
        stamp = (self._size(self._older), self._size(self.path))
        if stamp != self._stamp:
            found: Anchors = {}
            for path in (self._older, self.path):
                for head in _heads(path):
                    found.setdefault(head.project, {})[head.number] = head
            self._read, self._stamp = found, stamp
        return self._read

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.stat().st_size
        except OSError:
            return 0


def joined(anchors: Anchors, more: Iterable[Head]) -> Anchors:
    """Return anchors with those that somebody else has kept."""
    found = {project: dict(heads) for project, heads in anchors.items()}
    for head in more:
        found.setdefault(head.project, {})[head.number] = head
    return found


def _heads(path: Path) -> Iterable[Head]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield Head.model_validate_json(line)
        except ValidationError:
            continue
