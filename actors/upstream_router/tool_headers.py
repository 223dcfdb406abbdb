"""`x-mcp-header`: arguments that a tool wants repeated in headers (2026-07-28, streamable-http, "Schema Extension").

A tool whose annotations are invalid must not be listed by a client of its server, which the router is.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import structlog

from mcpctl.actors.upstream_router.upstreams import Upstream
from mcpctl.bus.mcp_messages import decode_fields, decode_value

log = structlog.get_logger()

KEY = "x-mcp-header"
MARK = KEY.encode()
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A field name (RFC 9110, 5.6.2)."""

PRIMITIVE = ("string", "integer", "boolean")

# Where JSON Schema 2020-12 has schemas in schemas, beside `properties`: all else is data.
ONE = frozenset(
    {
        "items",
        "contains",
        "unevaluatedItems",
        "additionalProperties",
        "propertyNames",
        "unevaluatedProperties",
        "not",
        "if",
        "then",
        "else",
        "contentSchema",
    }
)
SEVERAL = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
NAMED = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})

Path = tuple[str, ...]


def admitted(upstream: Upstream, tools: Sequence[msgspec.Raw]) -> list[msgspec.Raw]:
    """Return the tools that may be listed, and note at the upstream which headers they declare.

    Only for a stateless server over HTTP: all others know no such headers.
    """
    known = upstream.param_headers
    if upstream.era != "modern" or upstream.server.transport != "http":
        return list(tools)
    kept = []
    for tool in tools:
        marked = MARK in bytes(tool)
        if not marked and not known:
            kept.append(tool)
            continue
        fields = decode_fields(tool)
        name = str(decode_value(fields["name"]))
        known.pop(name, None)
        if marked:
            try:
                found = declared(decode_value(fields.get("inputSchema", b"{}")))
            except ValueError as error:
                log.warning("tool left out", server=upstream.server.name, tool=name, reason=str(error))
                continue
            if found:
                known[name] = found
        kept.append(tool)
    return kept


def declared(schema: Any) -> dict[str, Path]:
    """Return the headers that a tool's schema declares, and where in the arguments each value is.

    Raises `ValueError` where an annotation is none.
    """
    found: dict[str, Path] = {}
    for path, node in _schemas(schema):
        if KEY not in node:
            continue
        header, kind = node[KEY], node.get("type")
        where = ".".join(path or ())
        if not path:
            raise ValueError(f"{KEY} is where no argument can be read: it belongs to properties alone")
        if not isinstance(header, str) or not TOKEN.fullmatch(header):
            raise ValueError(f"{KEY} of {where} is no name of a header")
        if kind not in PRIMITIVE:
            raise ValueError(f"{KEY} of {where} is on what is neither string, integer nor boolean")
        if header.lower() in {other.lower() for other in found}:
            raise ValueError(f"{KEY} of {where} is that of another property too")
        found[header] = path
    return found


def _schemas(root: Any) -> Iterator[tuple[Path | None, dict[str, Any]]]:
    """Yield every schema in a schema, with its path where `properties` alone lead there."""
    waiting: list[tuple[Path | None, Any]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for key, value in node.items():
            if key == "properties" and isinstance(value, dict):
                waiting += [(None if path is None else (*path, name), inner) for name, inner in value.items()]
            elif key in ONE:
                waiting.append((None, value))
            elif key in SEVERAL and isinstance(value, list):
                waiting += [(None, inner) for inner in value]
            elif key in NAMED and isinstance(value, dict):
                waiting += [(None, inner) for inner in value.values()]
