"""Upstreams that speak a handshake revision, translated: on the bus there is only 2026-07-28."""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpctl.bus.mcp_messages import CACHEABLE, MODERN_META, Fields, decode_fields, encode, raw


class _Result(msgspec.Struct):
    kind: Raw | UnsetType = msgspec.field(name="resultType", default=UNSET)


_decode_result = msgspec.json.Decoder(_Result).decode

TTL_LIMIT_MS = 60_000
"""Longest time for which a client may believe a list: rights and servers change."""


def params_for_legacy(params: bytes) -> bytes:
    """Return a modern request's params without what only the modern era knows."""
    fields = decode_fields(params)
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
