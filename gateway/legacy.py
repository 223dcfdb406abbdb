"""The handshake wires, up to 2025-11-25, translated: on the bus there is only 2026-07-28."""

from functools import lru_cache
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
    Fields,
    Params,
    decode_fields,
    encode,
    raw,
    with_meta,
    without,
)

RESUMABLE = "2025-11-25"
"""The only revision whose clients know of a stream's first event, which is empty and says when to come back."""

TASKS = "io.modelcontextprotocol/tasks"
"""The extension that is not relayed."""

DEFAULT_LOG_LEVEL = "info"
"""A legacy client that set no level still hears: the handshake revisions leave the level to the server then."""

MODERN_RESULT_MEMBERS = ("resultType", "ttlMs", "cacheScope")


def negotiated(asked: object) -> str:
    """Return the revision to answer `initialize` with: the asked one, or the newest of this wire."""
    return asked if isinstance(asked, str) and asked in LEGACY else LEGACY[0]


def meta_members(session: Session | None) -> bytes:
    """Return the raw `_meta` members that a modern request has, for a legacy client."""
    if session is None:
        return _members(IMPLEMENTATION.decode(), "{}", DEFAULT_LOG_LEVEL, LEGACY[0])
    level = session.log_level or DEFAULT_LOG_LEVEL
    return _members(session.client_info, session.capabilities, level, session.version)


@lru_cache(maxsize=1024)
def _members(client: str, capabilities: str, level: str, version: str) -> bytes:
    declared = _declared(capabilities, version)
    return (
        f'"{PROTOCOL_VERSION}":"{MODERN}","{LOG_LEVEL}":"{level}","{CLIENT_CAPABILITIES}":'.encode()
        + declared
        + f',"{CLIENT_INFO}":{client}'.encode()
    )


def _declared(capabilities: str, version: str) -> bytes:
    """Return what a legacy client can do, in the words of the stateless revision."""
    said = orjson.loads(capabilities)
    if not isinstance(said, dict):
        return b"{}"
    said.pop("tasks", None)
    if isinstance(said.get("extensions"), dict):
        said["extensions"].pop(TASKS, None)
    if isinstance(said.get("roots"), dict):
        said["roots"].pop("listChanged", None)
    if version != RESUMABLE and isinstance(said.get("elicitation"), dict):
        said["elicitation"] = {}  # by a form only: URLs came with 2025-11-25
    return orjson.dumps(said)


@lru_cache(maxsize=1024)
def declares(capabilities: str, method: str) -> bool:
    """Tell whether a legacy client said at `initialize` that a server may ask this of it."""
    said = orjson.loads(capabilities)
    return isinstance(said, dict) and method.partition("/")[0] in said


def modern_params(params: bytes, read: Params, session: Session) -> bytes:
    """Return the params of a legacy request as those of a modern one."""
    if b'"task"' in params:
        params = without(params, "task")
    return with_meta(params, meta_members(session), has_meta=bool(read.meta))


def with_answers(params: bytes, answers: Fields, asked: Fields) -> bytes:
    """Return the params of the request that brings a client's answers to an `input_required` result."""
    fields = decode_fields(params)
    fields["inputResponses"] = raw(answers)
    fields.pop("requestState", None)
    if "requestState" in asked:
        fields["requestState"] = asked["requestState"]
    return encode(fields)


def legacy_result(result: bytes) -> bytes:
    """Return a modern result without what a legacy client does not know."""
    return without(result, *MODERN_RESULT_MEMBERS)


def asks_for_input(result: bytes) -> bool:
    """Tell whether a result is `input_required`: a legacy client is sent requests instead."""
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
