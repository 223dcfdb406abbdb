"""Characters that a reader does not see and a model reads: taken out of what servers say to models about themselves.

That is: control characters (ANSI sequences begin with one), marks that turn the direction of text, zero-width
characters, and the invisible tags (Unicode Technical Report 36, section 3; CVE-2021-42574). Results of calls are not
touched: they are data. What can be read is not judged.
"""

import re
from typing import Any

import msgspec

from mcpctl.bus.mcp_messages import decode_value, encode

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
    """Return a listed tool, prompt or resource without them.

    None where a name has one, for it could not be called by another, and where the item cannot be read or written.
    """
    if item.isascii() and b"\\u" not in item and b"\x7f" not in item:
        return item
    try:
        value = decode_value(item)
        seen = _readable(value)
        return item if seen == value else encode(seen)
    except (ValueError, OverflowError, RecursionError):  # msgspec's errors are among these
        return None


def _readable(value: Any) -> Any:
    """Raise `ValueError` where a key, or the value of a `name`, `uri` or `uriTemplate`, is not readable."""
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, list):
        return [_readable(each) for each in value]
    if not isinstance(value, dict):
        return value
    names = [*value, *(value[key] for key in ("name", "uri", "uriTemplate") if isinstance(value.get(key), str))]
    if any(readable(name) != name for name in names):
        raise ValueError("a name has a character that is not seen")
    return {key: _readable(each) for key, each in value.items()}


def readable_items(items: list[msgspec.Raw]) -> list[msgspec.Raw]:
    """Return the items of a list without them, and without those that are not readable at all."""
    shown = (readable_item(bytes(item)) for item in items)
    return [msgspec.Raw(item) for item in shown if item is not None]
