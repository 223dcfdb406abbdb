"""Globs over names, and what can be said of them without trying every name."""

import re
from fnmatch import fnmatchcase


def literal_head(glob: str) -> str:
    """Return what stands before the first wildcard."""
    return re.split(r"[*?[]", glob, maxsplit=1)[0]


def demand_matching(glob: str) -> str:
    """Return a glob. Raises `ValueError` for a `[` that is never closed, and for a range that runs backwards.

    `fnmatch` takes the one for the letter and the other for nothing at all.
    """
    place = glob.find("[")
    while place != -1:
        first = place + (2 if glob[place + 1 : place + 2] == "!" else 1)
        end = glob.find("]", first + 1)
        if end == -1:
            raise ValueError(f"{glob!r} has a [ that is not closed: write [[] for the character itself")
        for low, high in re.findall(r"(?=(.)-(.))", glob[first:end]):
            if low > high:
                raise ValueError(f"{glob!r} has the range {low}-{high}, which runs backwards and matches nothing")
        place = glob.find("[", end)
    return glob


def holds_all_names(own: str | None, other: str | None) -> bool:
    """Tell whether every name that the glob `other` matches is matched by `own` (None: all names, and none)."""
    if own is None or own == other:
        return True
    if other is None:
        return False
    head = literal_head(other)
    if head == other:
        return fnmatchcase(other, own)
    return own.endswith("*") and literal_head(own) == own[:-1] and head.startswith(own[:-1])
