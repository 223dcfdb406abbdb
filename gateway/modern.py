"""The stateless wire, 2026-07-28: what a request must say, in its body and again in its headers."""

import base64
import binascii

from aiohttp import web
from msgspec import UNSET

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
)
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
    }
)
"""What is served of the revision's methods."""

NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Methods whose `Mcp-Name` header repeats a parameter."""


def check(request: web.BaseRequest, method: str, request_id: bytes, params: Params) -> None:
    """Check a request's envelope, headers, version and method, in this order. Raises `Fault`."""
    try:
        _check_version(request, params)
        _check_headers(request, method, params)
        if method not in METHODS:
            raise Fault(404, METHOD_NOT_FOUND, f"Method not found: {method}")
        if not accepts(request, JSON) and not accepts(request, EVENT_STREAM):
            raise Fault(406, INVALID_REQUEST, "Accept must admit application/json and text/event-stream")
    except Fault as fault:
        fault.request_id = request_id
        raise


def _check_version(request: web.BaseRequest, params: Params) -> None:
    meta = params.meta
    if not meta or meta.version is UNSET or not bytes(meta.capabilities or b"").startswith(b"{"):
        wanted = f"{PROTOCOL_VERSION} (a text) and {CLIENT_CAPABILITIES} (an object)"
        raise Fault(400, INVALID_PARAMS, f"params._meta must have {wanted}")
    version = request.headers.get("MCP-Protocol-Version")
    if version != meta.version:
        text = "the header MCP-Protocol-Version must repeat the version in params._meta"
        raise Fault(400, HEADER_MISMATCH, text)
    if version != MODERN:
        data = {"supported": [MODERN], "requested": version}
        raise Fault(400, UNSUPPORTED_VERSION, f"revision {version} is not served", data=data)


def _check_headers(request: web.BaseRequest, method: str, params: Params) -> None:
    if request.headers.get("Mcp-Method") != method:
        raise Fault(400, HEADER_MISMATCH, "the header Mcp-Method must repeat the method")
    named = NAMED.get(method)
    if named is None:
        return
    value = params.name if named == "name" else params.uri
    if value is UNSET:
        raise Fault(400, INVALID_PARAMS, f"params.{named} is missing")
    if _decoded(request.headers.get("Mcp-Name")) != value:
        raise Fault(400, HEADER_MISMATCH, f"the header Mcp-Name must repeat params.{named}")


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
