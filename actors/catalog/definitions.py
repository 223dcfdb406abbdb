"""In which members two definitions of a tool differ, in a few lines that a person can judge."""

import json
from collections.abc import Iterator
from typing import Any

LINES = 20
"""Differences that are shown at the most."""

SHOWN = 200
"""Characters that are shown of a text."""

BEFORE = 24
"""Characters that are shown before the place where two texts begin to differ."""


def differences(old: str, new: str) -> tuple[str, ...]:
    """Return a line for each member that was added (`+`), taken away (`-`) or changed (`~`), by its path.

    What is not ASCII is escaped, so that no line can hide a character or turn the writing around.
    """
    lines = [*_walk("", json.loads(old), json.loads(new))]
    more = len(lines) - LINES
    return (*lines[:LINES], f"and {more} more") if more > 0 else tuple(lines)


def _walk(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{path}.{name}" if path else name
            if name not in new:
                yield f"- {_plain(inner)}: {_cut(_text(old[name]))}"
            elif name not in old:
                yield f"+ {_plain(inner)}: {_cut(_text(new[name]))}"
            else:
                yield from _walk(inner, old[name], new[name])
    elif _text(old) != _text(new):
        yield f"~ {_plain(path)}: {' -> '.join(_from_difference(_text(old), _text(new)))}"


def _from_difference(old: str, new: str) -> tuple[str, str]:
    """Return both texts from shortly before the place where they begin to differ."""
    pairs = enumerate(zip(old, new, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), min(len(old), len(new)))
    start = max(0, same - BEFORE)
    mark = "..." if start else ""
    return mark + _cut(old[start:]), mark + _cut(new[start:])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _plain(path: str) -> str:
    return _cut(json.dumps(path)[1:-1])


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
