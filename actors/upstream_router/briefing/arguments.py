"""What the arguments of a tool call say about the task: their names, and their short texts."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from mcpctl.actors.upstream_router.briefing.words import words_of_name

READ = 16_384
"""Bytes; larger arguments are not looked into."""

DEPTH = 4
TEXTS = 200
SHORT = 256
"""Characters; a longer value is a document, not a hint at what is to be done."""

_PRIVATE = frozenset({"auth", "authorization", "credential", "key", "passwd", "password", "secret", "token"})


def texts_of(arguments: bytes | None) -> list[str]:
    """Return the words of names, and short texts, as they come, at most `TEXTS`; none of what is no JSON object.

    What is named like a secret is left out: the texts may be sent to a model.
    """
    if arguments is None or len(arguments) > READ:
        return []
    try:
        read = msgspec.json.decode(arguments)
    except (ValueError, RecursionError):
        return []
    if not isinstance(read, dict):
        return []
    return list(islice(_texts(read, DEPTH), TEXTS))


def _texts(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str) and len(value) <= SHORT:
        yield value
    if depth == 0:
        return
    if isinstance(value, list):
        for each in value:
            yield from _texts(each, depth - 1)
    if isinstance(value, dict):
        for name, each in value.items():
            words = words_of_name(name[:SHORT])
            if words:
                yield " ".join(words.values())
            if _PRIVATE.isdisjoint(words):
                yield from _texts(each, depth - 1)
