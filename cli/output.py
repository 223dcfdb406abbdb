"""What the CLI prints: tables for people, JSON and YAML for programs, names for other commands."""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from mcpctl.cli.times import age, expiry


class Format(StrEnum):
    """`-o`: how the answer is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class ListFormat(StrEnum):
    """`-o` of what lists resources: `wide` is a table with more columns."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class TokenFormat(StrEnum):
    """`-o` of what issues a bearer: `token` prints it alone, so that `$(...)` takes it."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    TOKEN = "token"  # noqa: S105 - a format, not a secret


class DataFormat(StrEnum):
    """`-o` of what has no name."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def say(text: str) -> None:
    """Print a line, flushed: another program may be waiting for it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line beside the answer."""
    sys.stderr.write(f"{text}\n")


def plain(value: object) -> str:
    """Return a cell's text: on one line, and with nothing in it that a terminal would obey."""
    if value is None or value in ("", {}):
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "-"
    return "".join(c if c.isprintable() else " " for c in str(value))


def as_data(value: object) -> Any:
    """Return messages as what JSON and YAML can hold."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: as_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(item) for item in value]
    return value


def print_data(value: object, form: str) -> None:
    """Print as JSON or YAML."""
    data = as_data(value)
    if form == "json":
        say(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        from mcpctl.cli.yaml_text import dumped  # noqa: PLC0415 - 20 ms that no other output needs

        say(dumped(data).removesuffix("\n"))


def print_documents(documents: Iterable[object]) -> None:
    """Print a stream of YAML documents."""
    for number, document in enumerate(documents):
        if number:
            say("---")
        print_data(document, "yaml")


def print_table(titles: Sequence[str], rows: Iterable[Sequence[object]], *, headers: bool = True) -> None:
    """Print columns: as wide as the terminal allows, or stable and uncut where a program reads."""
    cells = [[plain(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_rich(titles, cells, headers=headers)
    else:
        GrowingTable(titles, headers=headers).add(cells)


class GrowingTable:
    """A plain table to which rows are added: as wide as its first ones need."""

    def __init__(self, titles: Sequence[str], *, headers: bool = True) -> None:
        self._titles, self._headers = titles, headers
        self._widths: list[int] = []

    def add(self, rows: Iterable[Sequence[object]]) -> None:
        """Print rows; the titles go before the first ones."""
        cells = [[plain(cell) for cell in row] for row in rows]
        lines: list[Sequence[str]] = list(cells)
        if not self._widths:
            lines = [self._titles, *cells] if self._headers else lines
            self._widths = [max(map(len, column)) for column in zip(*(lines or [self._titles]), strict=True)]
        for line in lines:
            say("   ".join(cell.ljust(width) for cell, width in zip(line, self._widths, strict=True)).rstrip())


def _print_rich(titles: Sequence[str], cells: list[list[str]], *, headers: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 - 100 ms that a pipe does not need
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0), show_header=headers)
    for index, title in enumerate(titles):
        widest = max(map(len, (title if headers else "", *(row[index] for row in cells))))
        last = index == len(titles) - 1
        table.add_column(title, overflow="ellipsis", no_wrap=True, min_width=None if last else widest)
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console(width=shutil.get_terminal_size().columns).print(table)


STYLES = {
    "active": "green",
    "allow": "green",
    "ok": "green",
    "deny": "red",
    "revoked": "red",
    "quarantined": "red",
    "error": "red",
    "missing": "red",
    "expired": "yellow",
    "disabled": "yellow",
}


def print_details(value: object) -> None:
    """Print the members of a message, or of a mapping from labels, one a line, indented where they nest."""
    for line in _details(value, 0):
        say(line)


def _details(value: object, depth: int) -> Iterable[str]:
    members = _members(value)
    width = max((len(label) for label, item in members if not _nests(item)), default=0) + 2
    for label, item in members:
        if _nests(item):
            yield "  " * depth + f"{label}:"
            yield from _nested(item, depth + 1)
        else:
            yield "  " * depth + f"{label}:".ljust(width) + _text(label, item)


def _nested(item: Any, depth: int) -> Iterable[str]:
    if isinstance(item, BaseModel | Mapping):
        yield from _details(item, depth)
    elif isinstance(item, str):
        for line in item.splitlines():
            yield ("  " * depth + "".join(c if c.isprintable() else " " for c in line)).rstrip()
    else:
        for part in item:
            yield "  " * depth + plain(part)


def _members(value: object) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(plain(name), item) for name, item in value.items()]
    if isinstance(value, BaseModel):
        return [(label(name), getattr(value, name)) for name in type(value).model_fields]
    return []


def _nests(item: object) -> bool:
    if isinstance(item, str):
        return "\n" in item.strip()
    return bool(item) and isinstance(item, BaseModel | Mapping | list | tuple)


def label(name: str) -> str:
    """Return a member's name as it is shown: `created_at` is `Created at`."""
    return name.replace("_", " ").capitalize()


def _text(label: str, item: object) -> str:
    ends = label.startswith("Expires")
    if not isinstance(item, datetime):
        return "never" if item is None and ends else plain(item)
    told = expiry(item) if ends else f"{age(item)} ago"
    return f"{item.astimezone():%Y-%m-%d %H:%M:%S} ({told})"
