"""The handshake wires, up to 2025-11-25, translated: on the bus there is only 2026-07-28."""

from typing import Any

import msgspec
import orjson

from mcpctl.bus.contracts.session import Session
from mcpctl.bus.mcp_messages import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    IMPLEMENTATION,
    LEGACY,
    LOG_LEVEL,
    MODERN,
    PROTOCOL_VERSION,
    Params,
    decode_fields,
    encode,
    with_meta,
    without,
)

DEFAULT_LOG_LEVEL = "info"
"""A legacy client that set no level still hears: the handshake revisions leave the level to the server then."""

MODERN_RESULT_MEMBERS = ("resultType", "ttlMs", "cacheScope")


def negotiated(asked: object) -> str:
    """Return the revision to answer `initialize` with: the asked one, or the newest of this wire."""
    return asked if isinstance(asked, str) and asked in LEGACY else LEGACY[0]


def meta_members(session: Session | None) -> bytes:
    """Return the raw `_meta` members that a modern request has, for a legacy client.

    No capability is declared: a request of the server to this client cannot be carried yet.
    """
    client = session.client_info.encode() if session is not None else IMPLEMENTATION
    level = session.log_level or DEFAULT_LOG_LEVEL if session is not None else DEFAULT_LOG_LEVEL
    return (
        f'"{PROTOCOL_VERSION}":"{MODERN}","{CLIENT_CAPABILITIES}":{{}},"{LOG_LEVEL}":"{level}","{CLIENT_INFO}":'
    ).encode() + client


def modern_params(params: bytes, read: Params, session: Session) -> bytes:
    """Return the params of a legacy request as those of a modern one."""
    return with_meta(params, meta_members(session), has_meta=bool(read.meta))


def legacy_result(result: bytes) -> bytes:
    """Return a modern result without what a legacy client does not know."""
    return without(result, *MODERN_RESULT_MEMBERS)


def asks_for_input(result: bytes) -> bool:
    """Tell whether a result is `input_required`, which has no legacy form yet."""
    return b"input_required" in result and bytes(decode_fields(result).get("resultType", b"")) == b'"input_required"'


def initialize_result(discovered: bytes, version: str) -> bytes:
    """Make the result of `initialize` from that of `server/discover`."""
    found: dict[str, Any] = orjson.loads(discovered)
    result: dict[str, Any] = {
        "protocolVersion": version,
        "capabilities": found.get("capabilities", {}),
        "serverInfo": msgspec.Raw(IMPLEMENTATION),
    }
    if "instructions" in found:
        result["instructions"] = found["instructions"]
    return encode(result)
