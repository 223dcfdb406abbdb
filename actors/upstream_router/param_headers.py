"""`Mcp-Param-*`: headers that repeat the arguments of a tool call (2026-07-28, streamable-http, "Custom Headers").

A stateless client sends them, and they are checked here and passed on as they came. For a client of a handshake
revision, which does not know them, they are made from the arguments.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from mcpctl.bus.mcp_messages import decode_value
from mcpctl.bus.mcp_wire import encode_value

PREFIX = "mcp-param-"
_VISIBLE = re.compile(r"[\x20-\x7e\t]*\Z")
_INTEGER = re.compile(r"-?[0-9]+(\.0+)?\Z")

Declared = Mapping[str, tuple[str, ...]]
"""By the name that the schema gives (`Region`): where in the arguments the value is."""


def make(declared: Declared, arguments: bytes) -> dict[str, str]:
    """Return the headers of a call with these arguments."""
    values = decode_value(arguments)
    found = {name: _text(_at(values, path)) for name, path in declared.items()}
    return {f"Mcp-Param-{name}": encode_value(text) for name, text in found.items() if text is not None}


def why_not(declared: Declared, arguments: bytes, sent: Mapping[str, str]) -> str | None:
    """Return what is wrong with the headers that a client sent for these arguments, or None."""
    given = {name.lower(): value for name, value in sent.items()}
    values = decode_value(arguments)
    for name, path in declared.items():
        header = given.get(PREFIX + name.lower())
        value = _at(values, path)
        expected = _text(value)
        where = ".".join(path)
        if header is None:
            if expected is not None:
                return f"the header Mcp-Param-{name} must repeat the argument {where}"
            continue
        text = _decoded(header)
        if text is None:
            return f"the header Mcp-Param-{name} cannot be decoded"
        if expected is None or not _same(value, expected, text):
            return f"the header Mcp-Param-{name} does not match the argument {where}"
    return None


def _at(values: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        if not isinstance(values, dict):
            return None
        values = values.get(step)
    return values


def _text(value: Any) -> str | None:
    """Return a value as a header has it; None for one that is not there, or that no header can carry."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return None


def _same(value: Any, expected: str, text: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return bool(_INTEGER.match(text)) and text.partition(".")[0] == expected
    return text == expected


def _decoded(header: str) -> str | None:
    """Return a header's value, decoded where it is encoded; None where it cannot be."""
    text = header.strip(" \t")
    if not _VISIBLE.match(text):
        return None
    if not (text.startswith("=?base64?") and text.endswith("?=")):
        return text
    try:
        return base64.b64decode(text[9:-2], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
