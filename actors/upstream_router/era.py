"""Upstreams that speak a handshake revision, translated: on the bus there is only 2026-07-28."""

from functools import lru_cache

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import (
    CACHEABLE,
    INVALID_PARAMS,
    MODERN_META,
    Fields,
    decode_fields,
    decode_value,
    encode,
    raw,
)


class _Error(msgspec.Struct):
    code: Raw = Raw()


_decode_error = msgspec.json.Decoder(_Error).decode


class _Result(msgspec.Struct):
    kind: Raw | UnsetType = msgspec.field(name="resultType", default=UNSET)


_decode_result = msgspec.json.Decoder(_Result).decode

TTL_LIMIT_MS = 60_000
"""Longest time for which a client may believe a list: rights and servers change."""

NOTHING = b"{}"
"""The capabilities of a client that can nothing but ask."""

TASKS = "io.modelcontextprotocol/tasks"
"""The extension that is not relayed."""

LEGACY_NOT_FOUND = b"-32002"
"""What the handshake revisions say of a resource that is not there (2025-11-25, server/resources)."""


@lru_cache(256)
def capabilities_for_legacy(declared: bytes) -> bytes:
    """Return a client's capabilities as they are told to a server of a handshake revision, in one form."""
    try:
        fields = decode_fields(declared)
    except msgspec.DecodeError:
        return NOTHING
    known = {name: decode_value(fields[name]) for name in ("elicitation", "roots", "sampling") if name in fields}
    return msgspec.json.encode(known, order="deterministic")


def params_for_legacy(params: bytes) -> bytes:
    """Return a modern request's params without what only the modern era knows."""
    fields = decode_fields(params)
    fields.pop("inputResponses", None)
    fields.pop("requestState", None)
    if "_meta" in fields:
        meta = decode_fields(fields["_meta"])
        for name in MODERN_META:
            meta.pop(name, None)
        if meta:
            fields["_meta"] = raw(meta)
        else:
            del fields["_meta"]
    return encode(fields)


def complete(result: Fields, method: str) -> Fields:
    """Give a result what every result of the modern era has; what is there stays."""
    result.setdefault("resultType", raw("complete"))
    if method in CACHEABLE and bytes(result["resultType"]) == b'"complete"':
        result.setdefault("ttlMs", raw(0))
        result["cacheScope"] = raw("private")  # what is listed depends on who asks
    return result


def result_for_bus(result: bytes, method: str) -> bytes:
    """Return an upstream's result as one of the modern era, without touching what is one already."""
    if method not in CACHEABLE and _decode_result(result).kind is not UNSET:
        return result
    return encode(complete(decode_fields(result), method))


def answer_for_bus(answer: Answer, method: str, params: bytes) -> Answer:
    """Return the answer of a server of a handshake revision as one of the modern era."""
    if answer.result is not None:
        return Answer(result=result_for_bus(answer.result, method), error=None)
    error = answer.error or b"{}"
    if method == "resources/read" and bytes(_decode_error(error).code) == LEGACY_NOT_FOUND:
        fields = decode_fields(error)
        fields["code"] = raw(INVALID_PARAMS)
        fields.setdefault("data", raw({"uri": decode_value(decode_fields(params)["uri"])}))
        return Answer(result=None, error=encode(fields))
    return answer
