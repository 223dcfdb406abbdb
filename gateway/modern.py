"""The stateless wire, 2026-07-28: what a request must say, in its body and again in its headers."""

import base64
import binascii

from aiohttp import web
from msgspec import UNSET, Raw

from mcpctl.bus.mcp_messages import (
    CLIENT_CAPABILITIES,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MODERN,
    PROTOCOL_VERSION,
    UNSUPPORTED_VERSION,
    Params,
    decode_fields,
    decode_value,
    encode,
    raw,
    without,
)
from mcpctl.gateway.legacy import TASKS
from mcpctl.gateway.wire import EVENT_STREAM, JSON, Fault, accepts

METHODS = frozenset(
    {
        "server/discover",
        "tools/list",
        "tools/call",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "completion/complete",
        "subscriptions/listen",
    }
)
"""What is served of the revision's methods."""

PARAM = "mcp-param-"
PARAMS = 64
PARAMS_LENGTH = 32768
"""How many `Mcp-Param-*` headers are handed on, and how many characters of them."""

NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose `Mcp-Name` header repeats a parameter."""


def check(request: web.BaseRequest, method: str, request_id: bytes, params: Params) -> None:
    """Check a request's envelope, headers, version and method, in this order. Raises `Fault`."""
    try:
        _check_version(request, params)
        _check_headers(request, method, params)
        if method not in METHODS:
            raise Fault(404, METHOD_NOT_FOUND, f"Method not found: {method}")
        if not accepts(request, EVENT_STREAM) and (method == "subscriptions/listen" or not accepts(request, JSON)):
            raise Fault(406, INVALID_REQUEST, "Accept must admit application/json and text/event-stream")
    except Fault as fault:
        fault.request_id = request_id
        raise


def param_headers(request: web.BaseRequest, request_id: bytes) -> dict[str, str]:
    """Return a request's `Mcp-Param-*` headers, which repeat arguments of its tool. Raises `Fault` for too many.

    Whether they say the same as the arguments is decided where the tool's schema is known.
    """
    found = {name: value for name, value in request.headers.items() if name[:10].lower() == PARAM}
    if found and (len(found) > PARAMS or sum(map(len, found.values())) > PARAMS_LENGTH):
        text = f"more than {PARAMS} Mcp-Param-* headers, or {PARAMS_LENGTH} characters in them"
        raise Fault(400, HEADER_MISMATCH, text, request_id=request_id)
    return found


def without_tasks(params: bytes) -> bytes:
    """Return params whose `_meta` does not declare the tasks extension, which is not relayed."""
    if b'/tasks"' not in params:
        return params
    fields = decode_fields(params)
    meta = decode_fields(fields.get("_meta", Raw(b"{}")))
    capabilities = decode_value(meta.get(CLIENT_CAPABILITIES, Raw(b"{}")))
    extensions = capabilities.get("extensions") if isinstance(capabilities, dict) else None
    if not isinstance(extensions, dict) or TASKS not in extensions:
        return params
    capabilities = decode_fields(meta[CLIENT_CAPABILITIES])
    capabilities["extensions"] = Raw(without(bytes(capabilities["extensions"]), TASKS))
    meta[CLIENT_CAPABILITIES] = raw(capabilities)
    fields["_meta"] = raw(meta)
    return encode(fields)


def _check_version(request: web.BaseRequest, params: Params) -> None:
    meta = params.meta
    if not meta or meta.version is UNSET or not bytes(meta.capabilities or b"").startswith(b"{"):
        wanted = f"{PROTOCOL_VERSION} (a text) and {CLIENT_CAPABILITIES} (an object)"
        raise Fault(400, INVALID_PARAMS, f"params._meta must have {wanted}")
    version = _only(request, "MCP-Protocol-Version")
    if version != meta.version:
        text = "the header MCP-Protocol-Version must repeat the version in params._meta"
        raise Fault(400, HEADER_MISMATCH, text)
    if version != MODERN:
        data = {"supported": [MODERN], "requested": version}
        raise Fault(400, UNSUPPORTED_VERSION, f"revision {version} is not served", data=data)


def _check_headers(request: web.BaseRequest, method: str, params: Params) -> None:
    if _only(request, "Mcp-Method") != method:
        raise Fault(400, HEADER_MISMATCH, "the header Mcp-Method must repeat the method")
    named = NAMED.get(method)
    if named is None:
        return
    value = params.name if named == "name" else params.uri
    if value is UNSET:
        raise Fault(400, INVALID_PARAMS, f"params.{named} is missing")
    if _decoded(_only(request, "Mcp-Name")) != value:
        raise Fault(400, HEADER_MISMATCH, f"the header Mcp-Name must repeat params.{named}")


def _only(request: web.BaseRequest, name: str) -> str | None:
    """Return a header's value; None where it is missing, or there twice: who is in front may have read the other."""
    values = request.headers.getall(name, ())
    return values[0] if len(values) == 1 else None


def _decoded(value: str | None) -> str | None:
    """Return a header's value, decoded where it is `=?base64?...?=`; None where that is broken."""
    if value is None:
        return None
    value = value.strip(" \t")
    if not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
