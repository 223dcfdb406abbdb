"""What both eras have in common at the edge: a message is read, an answer or an error is written."""

from functools import lru_cache
from math import ceil

import msgspec
from aiohttp import web
from msgspec import UNSET, Raw

from mcpctl.bus.errors import BadRequest, BusError, Forbidden, TooManyRequests, Unauthenticated, Unavailable
from mcpctl.bus.mcp_messages import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    Envelope,
    Params,
    decode_envelope,
    decode_params,
    error_body,
    response,
)
from mcpctl.gateway.authorization import Refused, refusal_of

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
NO_ID = b""
"""The id of what answers no request, or one that was refused unread: its error has none."""

UNKNOWN_ID = b"null"
"""The id in the answer to what cannot be read (JSON-RPC 2.0, section 5)."""

_STATUS_OF_CODE = {
    METHOD_NOT_FOUND: 404,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
}
"""HTTP statuses of JSON-RPC errors in the modern era (2026-07-28, basic/transports/streamable-http); others are 200."""


class Fault(Exception):
    """A request that is answered with an HTTP status and a JSON-RPC error."""

    def __init__(
        self,
        status: int,
        code: int,
        text: str,
        *,
        data: object = None,
        request_id: bytes = NO_ID,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(text)
        self.status, self.request_id, self.headers = status, request_id, headers or {}
        self.body = error_body(code, text, data)


def fault_of(error: BusError | Refused, request_id: bytes = NO_ID) -> Fault:
    """Return how an error of the bus, or a refused bearer, is told to an HTTP client."""
    if isinstance(error, Unauthenticated):
        error = refusal_of(error)
    if isinstance(error, Refused):
        headers = {"WWW-Authenticate": error.challenge}
        return Fault(error.status, INVALID_REQUEST, str(error), request_id=request_id, headers=headers)
    later = error.retry_after or (1.0 if isinstance(error, Unavailable | TooManyRequests) else 0.0)
    headers = {"Retry-After": str(ceil(later))} if later else {}
    if isinstance(error, Forbidden):
        headers["WWW-Authenticate"] = 'Bearer realm="mcpctl", error="insufficient_scope"'
    code = INVALID_REQUEST if isinstance(error, Forbidden | BadRequest | TooManyRequests) else INTERNAL_ERROR
    return Fault(error.http_status, code, str(error), request_id=request_id, headers=headers)


def no_session(request_id: bytes = NO_ID) -> Fault:
    return Fault(404, INVALID_REQUEST, "no such session: initialize again", request_id=request_id)


def render(fault: Fault) -> web.Response:
    named = fault.request_id != NO_ID
    body = response(fault.request_id, error=fault.body) if named else b'{"jsonrpc":"2.0","error":' + fault.body + b"}"
    return web.Response(status=fault.status, body=body, content_type=JSON, headers=fault.headers)


def json_response(body: bytes, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type=JSON)


class _ErrorCode(msgspec.Struct):
    code: int = 0


_decode_error_code = msgspec.json.Decoder(_ErrorCode).decode


def status_of(error: bytes) -> int:
    """Return the HTTP status that belongs to a raw JSON-RPC error."""
    try:
        return _STATUS_OF_CODE.get(_decode_error_code(error).code, 200)
    except msgspec.DecodeError:
        return 200


def accepted() -> web.Response:
    return web.Response(status=202)


def read_message(body: bytes) -> tuple[Envelope, bytes | None]:
    """Read a JSON-RPC message and its id (None for a notification or a response).

    Raises `Fault`: -32700 for what is not JSON, -32600 for what is no single JSON-RPC message.
    """
    try:
        if not body.isascii():
            body.decode()  # what is passed on as bytes must be text all the same
        message = decode_envelope(body)
    except msgspec.ValidationError as error:
        raise Fault(400, INVALID_REQUEST, f"not a JSON-RPC message: {error}", request_id=UNKNOWN_ID) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Fault(400, PARSE_ERROR, f"not JSON: {error}", request_id=UNKNOWN_ID) from error
    if message.jsonrpc != "2.0":
        raise Fault(400, INVALID_REQUEST, 'not a JSON-RPC message: jsonrpc must be "2.0"', request_id=UNKNOWN_ID)
    if message.method is UNSET:
        if message.id is UNSET or (message.result is UNSET and message.error is UNSET):
            text = "not a JSON-RPC message: it has neither a method nor an answer"
            raise Fault(400, INVALID_REQUEST, text, request_id=UNKNOWN_ID)
        return message, None
    if message.id is UNSET:
        return message, None
    request_id = bytes(message.id)
    if not _is_id(request_id):
        raise Fault(400, INVALID_REQUEST, "the id of a request is a string or an integer", request_id=UNKNOWN_ID)
    if message.params is not UNSET and not bytes(message.params).startswith(b"{"):
        raise Fault(400, INVALID_PARAMS, "params must be an object", request_id=request_id)
    return message, request_id


def _is_id(text: bytes) -> bool:
    return text.startswith(b'"') or text.lstrip(b"-").isdigit()


def read_params(message: Envelope, request_id: bytes | None) -> Params:
    """Read what a decision needs of the params. Raises `Fault` (-32602)."""
    if not message.params:
        return Params()
    try:
        return decode_params(message.params)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Fault(400, INVALID_PARAMS, f"params: {error}", request_id=request_id or NO_ID) from error


def params_of(message: Envelope) -> bytes:
    return bytes(message.params) if isinstance(message.params, Raw) else b"{}"


def accepts(request: web.BaseRequest, *types: str) -> bool:
    """Tell whether the `Accept` header admits each of the media types (no header admits all)."""
    given = request.headers.get("Accept")
    return given is None or _admits(given, types)


@lru_cache(maxsize=256)
def _admits(given: str, types: tuple[str, ...]) -> bool:
    ranges = {part.partition(";")[0].strip().lower() for part in given.split(",")}
    return all({kind, f"{kind.partition('/')[0]}/*", "*/*"} & ranges for kind in types)
