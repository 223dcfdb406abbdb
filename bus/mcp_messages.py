"""MCP messages as bytes: what is read of them, and how they are put together again without re-modelling.

Only the members that a decision needs are decoded; all others stay the bytes they were (`msgspec.Raw`), so
numbers, key order and unknown fields pass through untouched.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

import mcpctl
from mcpctl.bus.bearer import masked

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""The handshake revisions, newest first."""

META = "io.modelcontextprotocol/"
PROTOCOL_VERSION = f"{META}protocolVersion"
CLIENT_INFO = f"{META}clientInfo"
CLIENT_CAPABILITIES = f"{META}clientCapabilities"
LOG_LEVEL = f"{META}logLevel"
SERVER_INFO = f"{META}serverInfo"
MODERN_META = (PROTOCOL_VERSION, CLIENT_INFO, CLIENT_CAPABILITIES, LOG_LEVEL)

CLIENT_ERROR = "mcpctl/error"
"""In the `_meta` of an answer in `inputResponses`: the JSON-RPC error with which a handshake client answered."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022

IMPLEMENTATION = msgspec.json.encode({"name": "mcpctl", "version": mcpctl.__version__})
"""How the gateway and the router name themselves to clients and upstreams: a raw `Implementation` object."""

MODERN_MEMBERS = (
    f'"{PROTOCOL_VERSION}":"{MODERN}","{CLIENT_CAPABILITIES}":{{}},"{CLIENT_INFO}":{IMPLEMENTATION.decode()}'.encode()
)
"""The raw members of `_meta` with which the router speaks for itself."""

CACHEABLE = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)
"""Methods whose results carry `ttlMs` and `cacheScope` (2026-07-28, server/utilities/caching)."""


class Envelope(msgspec.Struct):
    """A JSON-RPC message, one level deep."""

    jsonrpc: str | UnsetType = UNSET
    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class Meta(msgspec.Struct):
    """What a decision needs of a request's `_meta`."""

    version: str | UnsetType = msgspec.field(name=PROTOCOL_VERSION, default=UNSET)
    capabilities: Raw | UnsetType = msgspec.field(name=CLIENT_CAPABILITIES, default=UNSET)
    client: Raw | UnsetType = msgspec.field(name=CLIENT_INFO, default=UNSET)
    progress: Raw | UnsetType = msgspec.field(name="progressToken", default=UNSET)
    log_level: str | UnsetType = msgspec.field(name=LOG_LEVEL, default=UNSET)


class Params(msgspec.Struct):
    """What a decision needs of a request's `params`."""

    meta: Meta | UnsetType = msgspec.field(name="_meta", default=UNSET)
    name: str | UnsetType = UNSET
    uri: str | UnsetType = UNSET
    arguments: Raw | UnsetType = UNSET
    state: str | UnsetType = msgspec.field(name="requestState", default=UNSET)
    responses: Raw | UnsetType = msgspec.field(name="inputResponses", default=UNSET)


class LogMessage(msgspec.Struct):
    """What a decision needs of `notifications/message`."""

    params: "LogParams"


class LogParams(msgspec.Struct):
    level: str = ""


class ToolResult(msgspec.Struct):
    """What a decision needs of a tool's result."""

    is_error: bool = msgspec.field(name="isError", default=False)


Fields = dict[str, Raw]

decode_envelope = msgspec.json.Decoder(Envelope).decode
decode_params = msgspec.json.Decoder(Params).decode
decode_fields = msgspec.json.Decoder(Fields).decode
decode_items = msgspec.json.Decoder(list[Raw]).decode
decode_value = msgspec.json.Decoder().decode
encode = msgspec.json.Encoder().encode
_decode_tool_result = msgspec.json.Decoder(ToolResult).decode


def tool_failed(result: bytes) -> bool:
    """Tell whether a tool's result says `isError`."""
    try:
        return _decode_tool_result(result).is_error
    except msgspec.DecodeError:
        return False


def raw(value: Any) -> Raw:
    """Return a value as a raw member."""
    return Raw(encode(value))


def error_body(code: int, message: str, data: Any = None) -> bytes:
    """Return a JSON-RPC error object (the member `error`, not the message); no bearer is in it."""
    body: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return masked(encode(body))


def response(request_id: bytes, *, result: bytes | None = None, error: bytes | None = None) -> bytes:
    """Put a JSON-RPC response together from raw members."""
    if error is not None:
        return b'{"jsonrpc":"2.0","id":' + request_id + b',"error":' + error + b"}"
    return b'{"jsonrpc":"2.0","id":' + request_id + b',"result":' + (result or b"{}") + b"}"


LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""The levels of log messages, the least severe first (RFC 5424)."""

_decode_log_message = msgspec.json.Decoder(LogMessage).decode


def reaches(level: str, message: bytes) -> bool:
    """Tell whether a raw `notifications/message` is at least as severe as `level`."""
    try:
        return LEVELS.index(_decode_log_message(message).params.level) >= LEVELS.index(level)
    except (msgspec.DecodeError, ValueError):
        return False


class Progress(msgspec.Struct):
    """What a decision needs of a progress notification."""

    class Params(msgspec.Struct):
        token: Raw = msgspec.field(name="progressToken")

    params: Params


_decode_progress = msgspec.json.Decoder(Progress).decode


def is_progress_of(token: bytes | None, message: bytes) -> bool:
    """Tell whether a raw `notifications/progress` bears a token: of another request, it is not for this one."""
    if token is None:
        return False
    try:
        said = bytes(_decode_progress(message).params.token)
        return said == token or decode_value(said) == decode_value(token)
    except msgspec.DecodeError:
        return False


DECISIVE = frozenset({"name", "uri", "ref", "arguments", "_meta", "cursor", "type", "requestState", "inputResponses"})
"""Members of `params` and `ref` by which a request is decided."""

_FOLDED = frozenset(name.casefold() for name in DECISIVE)


def canonical(body: bytes) -> bytes:
    """Return a raw object with each member once, the last one as written.

    Raises `ValueError` where a member differs from a decisive one in case alone: a server that reads JSON
    without regard to case would act on another name than the one that was decided.
    """
    fields = decode_fields(body)
    for name in fields:
        if name not in DECISIVE and name.casefold() in _FOLDED:
            raise ValueError(f"the member {name!r} is too much like {name.casefold()!r}")
    return encode(fields)


def same_id(request_id: bytes) -> str:
    """Return a JSON-RPC id in the one form in which two writings of it are equal."""
    if request_id.startswith(b'"'):
        return encode(decode_value(request_id)).decode()
    return bytes(request_id).decode()


def capabilities_of(info: bytes) -> dict[str, Any]:
    """Return the capabilities in a server's own words (`initialize`, `server/discover`); none where they are odd."""
    said = decode_value(info)
    offered = said.get("capabilities") if isinstance(said, dict) else None
    return offered if isinstance(offered, dict) else {}


def with_meta(params: bytes, members: bytes, *, has_meta: bool) -> bytes:
    """Return `params` with raw `members` added to its `_meta`; those win over what is there."""
    if not has_meta:
        rest = params[params.index(b"{") + 1 :]
        comma = b"" if rest.lstrip().startswith(b"}") else b","
        return b'{"_meta":{' + members + b"}" + comma + rest
    fields = decode_fields(params)
    meta = decode_fields(fields["_meta"]) | decode_fields(b"{" + members + b"}")
    fields["_meta"] = raw(meta)
    return encode(fields)


def without(body: bytes, *names: str) -> bytes:
    """Return a raw object without some of its members."""
    fields = decode_fields(body)
    for name in names:
        fields.pop(name, None)
    return encode(fields)
