"""What the MCP client knows of the wire: answers whose contents stay bytes, headers, what can go wrong."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import Raw, UnsetType

from mcpctl.bus.mcp_messages import UNSUPPORTED_VERSION, Envelope, decode_envelope

_PLAIN = re.compile(r"([\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?)?")
_METHOD = re.compile(r"[\x21-\x7e]+")


class McpTransportError(Exception):
    """No answer came.

    `sent` is whether the request may have reached the server, `status` the HTTP status if there was one.
    """

    def __init__(self, text: str, *, sent: bool, status: int = 0) -> None:
        super().__init__(text)
        self.sent = sent
        self.status = status


class McpTooLargeError(McpTransportError):
    """An answer was cut: it is larger than its reader allows."""


class McpAuthError(McpTransportError):
    """HTTP 401 or 403; `challenge` is what the server's `WWW-Authenticate` says."""

    def __init__(self, text: str, *, sent: bool, status: int = 0, challenge: str = "") -> None:
        super().__init__(text, sent=sent, status=status)
        self.challenge = challenge


class McpWireError(Exception):
    """An answer that is not MCP."""


class McpSessionLost(Exception):  # a fact that the caller acts on, not a failure
    """A legacy session was answered with 404: connect() again (2025-11-25, transports)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Exactly one of the two is set: the bytes of that member, as the server wrote them."""

    result: bytes | None
    error: bytes | None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """`result` is the raw result of server/discover (modern) or initialize (legacy)."""

    era: Literal["modern", "legacy"]
    version: str
    result: bytes


class RpcError(msgspec.Struct):
    """A JSON-RPC error object."""

    code: int
    message: str
    data: Raw = Raw()


class VersionData(msgspec.Struct):
    supported: list[str]


_rpc_error = msgspec.json.Decoder(RpcError).decode
_version_data = msgspec.json.Decoder(VersionData).decode


def open_envelope(message: bytes) -> Envelope:
    try:
        if not message.isascii():
            message.decode()  # msgspec does not look into the strings that it skips
        envelope = decode_envelope(message)
    except (ValueError, RecursionError) as error:
        raise McpWireError(f"not a JSON-RPC message: {error}") from error
    if envelope.jsonrpc != "2.0":
        raise McpWireError("not a JSON-RPC 2.0 message")
    return envelope


def member(value: Raw | UnsetType) -> bytes:
    """Return the bytes of a member, b"" for one that is not there."""
    return b"" if isinstance(value, UnsetType) else bytes(value)


def read_error(error: bytes) -> RpcError:
    try:
        return _rpc_error(error)
    except ValueError as fault:
        raise McpWireError(f"not a JSON-RPC error: {fault}") from fault


def supported_versions(error: RpcError) -> list[str]:
    """Return the versions that an UnsupportedProtocolVersionError names; none for any other error."""
    try:
        return _version_data(error.data).supported if error.code == UNSUPPORTED_VERSION else []
    except ValueError:
        return []


class PendingCall:
    """A request that waits for its answer, and who hears what comes before it."""

    __slots__ = ("_redact", "id", "on_notification", "on_request")

    def __init__(
        self,
        number: int,
        on_notification: Callable[[str, bytes], None] | None,
        on_request: Callable[[str, bytes, bytes], None] | None,
        redact: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._redact = redact
        self.id = b"%d" % number
        self.on_notification = on_notification
        self.on_request = on_request

    def take(self, message: bytes) -> Answer | None:
        """Return the answer if this message is it; otherwise pass the message on."""
        if self._redact is not None:
            message = self._redact(message)
        envelope = open_envelope(message)
        method, request_id = envelope.method, member(envelope.id)
        if isinstance(method, UnsetType):
            return self._answer(envelope, request_id)
        if not request_id:
            if self.on_notification is not None:
                self.on_notification(method, message)
        elif self.on_request is not None:
            self.on_request(method, request_id, message)
        else:
            raise McpWireError("the server sent a request, which this version of MCP forbids")
        return None

    def refusal(self, message: bytes) -> Answer | None:
        """Return the JSON-RPC error in the body of an HTTP error; None if it is something else.

        A server that could not read the request cannot repeat its id: the exchange tells whose it is.
        """
        try:
            envelope = open_envelope(message if self._redact is None else self._redact(message))
            error = member(envelope.error)
            read_error(error)
        except McpWireError:
            return None
        request_id = member(envelope.id)
        if request_id[:1].isdigit() and request_id != self.id:
            return None
        return Answer(None, error)

    def _answer(self, envelope: Envelope, request_id: bytes) -> Answer:
        result, error = member(envelope.result), member(envelope.error)
        if request_id != self.id and not (error and request_id in (b"null", b"")):
            raise McpWireError("an answer to another request")
        if result and error in (b"", b"null"):
            if not result.startswith(b"{"):
                raise McpWireError("the result is not an object")
            return Answer(result, None)
        if result or not error:
            raise McpWireError("an answer needs either a result or an error")
        read_error(error)
        return Answer(None, error)


def read_body(call: PendingCall, body: bytes) -> Answer:
    """Find the answer in a JSON body, or in one that holds a message a line, as some servers send."""
    try:
        answer = call.take(body)
    except McpWireError:
        lines = [line for line in body.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        answer = first_answer(call, lines)
    if answer is None:
        raise McpWireError("the body ended without an answer")
    return answer


def first_answer(call: PendingCall, messages: list[bytes]) -> Answer | None:
    for message in messages:
        answer = call.take(message)
        if answer is not None:
            return answer
    return None


@lru_cache(256)
def method_json(method: str) -> bytes:
    return msgspec.json.encode(method)


@lru_cache(256)
def method_line(method: str) -> bytes:
    """Render the Mcp-Method header. Raise ValueError for a name that no header can carry."""
    if not _METHOD.fullmatch(method):
        raise ValueError("a method name consists of visible ASCII characters")
    return f"Mcp-Method: {method}\r\n".encode("ascii")


@lru_cache(256)
def name_line(name: str) -> bytes:
    return f"Mcp-Name: {encode_value(name)}\r\n".encode("ascii")


def encode_value(text: str) -> str:
    """Encode the value of Mcp-Name or Mcp-Param-* (2026-07-28, streamable-http, "Value Encoding")."""
    if _PLAIN.fullmatch(text) and not (text.startswith("=?base64?") and text.endswith("?=")):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="
