"""Globs over names, and what can be said of them without trying every name."""

import re
from fnmatch import fnmatchcase


def literal_head(glob: str) -> str:
    """Return what stands before the first wildcard."""
    return re.split(r"[*?[]", glob, maxsplit=1)[0]


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
