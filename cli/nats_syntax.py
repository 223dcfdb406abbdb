"""A reader of nats-server's configuration, as far as looking at it takes: which setting has which value, and where.

What nats-server itself would refuse is not found here (`nats-server -t` does that); what it takes is read as it does: a
key is not told apart by its case, the later of two wins, and `include` stands for the file's content.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+) | (?P<comment>(?:\#|//)[^\n]*) | (?P<end>[\n,;]) | (?P<mark>[{}\[\]=])
    | "(?P<quoted>(?:[^"\\]|\\.)*)" | '(?P<raw>[^']*)' | \((?P<block>[^)]*)\n[ \t]*\)
    | (?P<colon>:) | (?P<word>[^\s,;{}\[\]="':]+(?::[^\s,;{}\[\]="']+)*)""",
    re.VERBOSE,
)
"""One piece of the text. A word may hold colons (`127.0.0.1:4222`), and ends before one that a space follows."""

DEEPEST = 16


@dataclass(frozen=True)
class Setting:
    """A value (text, a mapping by lower-case key, or a list) and where it was read."""

    value: "str | dict[str, Setting] | list[Setting]"
    file: Path
    line: int

    def get(self, *names: str) -> "Setting | None":
        """Return the setting of the first of these names that is there."""
        if isinstance(self.value, dict):
            for name in names:
                if name in self.value:
                    return self.value[name]
        return None

    def at(self, *path: str) -> "Setting | None":
        """Return a setting by its path."""
        found: Setting | None = self
        for name in path:
            found = found.get(name) if found is not None else None
        return found

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else ""

    @property
    def on(self) -> bool:
        """Whether it is switched on: anything but what nats-server takes for no."""
        return not (isinstance(self.value, str) and self.value.lower() in ("", "false", "no", "off", "disabled", "0"))

    def items(self) -> "Iterator[tuple[str, Setting]]":
        if isinstance(self.value, dict):
            yield from self.value.items()
        elif isinstance(self.value, list):
            yield from (("", item) for item in self.value)


def read(file: Path) -> Setting:
    """Read a configuration. Raises `ValueError` with file and line, `OSError` where it cannot be read."""
    return Setting(_Reader(file, 0).entries(), file, 1)


class _Reader:
    def __init__(self, file: Path, depth: int) -> None:
        if depth > DEEPEST:
            raise ValueError(f"{file}: files include each other more than {DEEPEST} deep")
        self._file, self._depth = file, depth
        self._text, self._at, self._line = file.read_text(), 0, 1

    def entries(self, end: str = "") -> dict[str, Setting]:
        """Read keys and values up to a mark, or to the end of the file."""
        found: dict[str, Setting] = {}
        while (token := self._next(skip_ends=True)) is not None:
            kind, key = token
            if (kind, key) == ("mark", end):
                return found
            if kind in ("mark", "colon", "block"):
                raise self._fault(f"{key!r} where a name should stand")
            if kind == "word" and key.lower() == "include":
                found |= _Reader(Path(f"{self._file.parent}/{self._word()}"), self._depth + 1).entries()
                continue
            line = self._line
            found[key.lower()] = Setting(self._value(), self._file, line)
        if end:
            raise self._fault(f"{end!r} is missing")
        return found

    def _value(self) -> "str | dict[str, Setting] | list[Setting]":
        token = self._next(skip_ends=False)
        while token in (("colon", ":"), ("mark", "=")):
            token = self._next(skip_ends=False)
        if token is None or token[0] == "end":
            return ""
        kind, text = token
        if (kind, text) == ("mark", "{"):
            return dict(self.entries("}"))
        if (kind, text) == ("mark", "["):
            return list(self._list())
        if kind == "mark":
            raise self._fault(f"{text!r} where a value should stand")
        return text

    def _list(self) -> Iterator[Setting]:
        while (token := self._next(skip_ends=True)) is not None:
            kind, text = token
            if (kind, text) == ("mark", "]"):
                return
            line = self._line
            if (kind, text) == ("mark", "{"):
                yield Setting(self.entries("}"), self._file, line)
            elif (kind, text) == ("mark", "["):
                yield Setting(list(self._list()), self._file, line)
            else:
                yield Setting(text, self._file, line)
        raise self._fault("']' is missing")

    def _word(self) -> str:
        token = self._next(skip_ends=False)
        if token is None or token[0] not in ("word", "quoted", "raw"):
            raise self._fault("include names no file")
        return token[1]

    def _next(self, *, skip_ends: bool) -> tuple[str, str] | None:
        while self._at < len(self._text):
            match = TOKEN.match(self._text, self._at)
            if match is None:
                raise self._fault(f"{self._text[self._at]!r} cannot be read")
            self._at = match.end()
            kind = str(match.lastgroup)
            text = match[kind]
            self._line += match[0].count("\n")
            if kind in ("space", "comment") or (kind == "end" and skip_ends):
                continue
            return kind, text
        return None

    def _fault(self, what: str) -> ValueError:
        return ValueError(f"{self._file}:{self._line}: {what}")
