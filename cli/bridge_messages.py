"""What the stdio bridge must know of a message, and what it says where the gateway has no answer."""

from contextlib import suppress
from typing import Any

import orjson

from mcpctl.bus.http1 import Response
from mcpctl.bus.http_head import header_lines
from mcpctl.bus.mcp_messages import (
    HEADER_MISMATCH,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    PROTOCOL_VERSION,
    UNSUPPORTED_VERSION,
)
from mcpctl.bus.mcp_wire import method_line, name_line

NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

SERVER_ERROR = -32000

OWN_CODES = frozenset({METHOD_NOT_FOUND, HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION})
"""Errors that say all there is to say, whatever their HTTP status."""

ADVICE = {
    401: "the gateway does not accept the bearer: put a live one into $MCPCTL_TOKEN, or run mcpctl login",
    403: "this bearer may not use this project: ask for a right in it, or name another project with -p",
    404: "the gateway does not know this session any more: start again",
    502: "a server of this project does not answer as it should: see mcpctl logs server NAME",
    503: "the gateway or a part behind it is away: try again, and see mcpctl status",
    504: "it took too long: it may have been done all the same",
}


def version_of(message: dict[str, Any]) -> str | None:
    """Return the revision in the `_meta` of a stateless request."""
    params = message.get("params")
    meta = params.get("_meta") if isinstance(params, dict) else None
    version = meta.get(PROTOCOL_VERSION) if isinstance(meta, dict) else None
    return version if isinstance(version, str) else None


def stateless_head(message: dict[str, Any], version: str) -> bytes:
    """Return the header lines that mirror a stateless request. Raises `ValueError` for what no header can carry."""
    head = header_lines({"MCP-Protocol-Version": version}) + method_line(message["method"])
    named = message["params"].get(NAMED_BY.get(message["method"], ""))
    return head + (name_line(named) if isinstance(named, str) else b"")


def key_of(request_id: object) -> str:
    return f"{type(request_id).__name__}:{request_id}"


def failure(request_id: object, code: int, text: str) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}})


def answer_of(response: Response, request_id: object) -> bytes:
    """Return the JSON-RPC message that a whole response is, or stands for; a refusal with what to do about it."""
    body = None
    with suppress(orjson.JSONDecodeError):
        body = orjson.loads(response.body)
    advice = ADVICE.get(response.status, "")
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        error = body["error"]
        if advice and error.get("code") not in OWN_CODES:
            error |= {"message": f"{error.get('message')}: {advice}"}
        elif body.get("id") == request_id:
            return response.body
        return orjson.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})
    if isinstance(body, dict) and "result" in body and body.get("id") == request_id:
        return response.body
    return failure(request_id, SERVER_ERROR, advice or f"the gateway answers HTTP {response.status}")


def is_answer(data: bytes, request_id: object) -> bool:
    try:
        message = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(message, dict) and "method" not in message and message.get("id") == request_id
