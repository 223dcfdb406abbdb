"""Characters that a reader does not see and a model reads: taken out of what servers say to models about themselves.

That is: control characters (ANSI sequences begin with one), marks that turn the direction of text, zero-width
characters, and the invisible tags (Unicode Technical Report 36, section 3; CVE-2021-42574). Results of calls are not
touched: they are data. What can be read is not judged.
"""

import json
import re

import msgspec

_LITERAL = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?', re.DOTALL)
"""A string in JSON, and the colon that makes a key of it."""

_ESCAPES = (b"\\u", b"\\b", b"\\f")
"""Of these a string can have what is not seen; a control character itself is no JSON, but for DEL."""

_NAMES = ("name", "uri", "uriTemplate")

_HIDDEN = (
    "\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\U000e0100-\U000e01ef"
)
_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_JOINERS = "\u200c\u200d"  # in emoji and many scripts: they stay where they join two characters beyond ASCII
_VISIBLE = f"[^\x00-\x7f{_HIDDEN}{_CONTROL}{_JOINERS}\ufe0f]\ufe0f?"
_FOUND = re.compile(
    f"[{_HIDDEN}{_CONTROL}]|[{_JOINERS}](?!{_VISIBLE})|(?<![^\x00-\x7f{_HIDDEN}{_CONTROL}{_JOINERS}])[{_JOINERS}]"
)


def readable(text: str) -> str:
    """Return a text without them."""
    return text if text.isascii() and text.isprintable() else _FOUND.sub("", text)


def readable_item(item: bytes) -> bytes | None:
    """Return a listed tool, prompt or resource without them; all else in it stays the bytes that it was.

    None where a name, a URI or a key has one: the item could not be used by another.
    """
    if not any(escape in item for escape in _ESCAPES):
        if item.isascii() and b"\x7f" not in item:
            return item
        if _FOUND.search(item.decode(errors="replace")) is None:
            return item
    key = ""

    def seen(found: re.Match[str]) -> str:
        nonlocal key
        literal, colon = found.groups()
        text = json.loads(literal, strict=False)
        shown = readable(text)
        if shown != text and (colon or key in _NAMES):
            raise ValueError("a name has a character that is not seen")
        if colon:
            key = text
        return found[0] if shown == text else json.dumps(shown)

    try:
        return _LITERAL.sub(seen, item.decode()).encode()
    except ValueError:  # also where it is not UTF-8, or no JSON
        return None


def readable_items(items: list[msgspec.Raw]) -> list[msgspec.Raw]:
    """Return the items of a list without them, and without those that are not readable at all."""
    shown = (readable_item(bytes(item)) for item in items)
    return [msgspec.Raw(item) for item in shown if item is not None]
