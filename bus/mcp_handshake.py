"""How a session with an MCP server begins: what is said first, and what the answers mean."""

import re

import msgspec

from mcpctl.bus.mcp_messages import (
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LEGACY,
    MODERN,
    PROTOCOL_VERSION,
    UNSUPPORTED_VERSION,
)
from mcpctl.bus.mcp_wire import Answer, McpWireError, read_error, supported_versions

_SESSION = re.compile(rb"[\x21-\x7e]+")


class InitializeResult(msgspec.Struct, rename="camel"):
    protocol_version: str


class DiscoverResult(msgspec.Struct, rename="camel"):
    supported_versions: list[str]


def discover_params(client_info: bytes, capabilities: bytes) -> bytes:
    meta = (
        PROTOCOL_VERSION,
        MODERN,
        CLIENT_INFO,
        client_info.decode(),
        CLIENT_CAPABILITIES,
        capabilities.decode(),
    )
    return '{{"_meta":{{"{}":"{}","{}":{},"{}":{}}}}}'.format(*meta).encode()


def initialize_params(client_info: bytes, capabilities: bytes) -> bytes:
    return b'{"protocolVersion":"%b","capabilities":%b,"clientInfo":%b}' % (
        LEGACY[0].encode(),
        capabilities,
        client_info,
    )


def why_not_modern(answer: Answer) -> str:
    """Say why to fall back after this answer to server/discover; "" if there is no need.

    Raise McpWireError if the server names its versions and none is ours.
    """
    if answer.result is None:
        return why_refused(answer.error or b"")
    try:
        versions = msgspec.json.decode(answer.result, type=DiscoverResult).supported_versions
    except ValueError:
        return "its answer to server/discover names no versions"
    return "" if MODERN in versions else f"it supports {', '.join(versions)}"


def why_refused(error: bytes) -> str:
    fault = read_error(error)
    versions = supported_versions(fault)
    if fault.code == UNSUPPORTED_VERSION and versions and not set(versions) & set(LEGACY):
        raise McpWireError(f"no common version: the server supports {', '.join(versions)}")
    return f"{fault.code} {fault.message}"


def agreed_version(answer: Answer) -> str:
    """Return the version of an initialize result; raise McpWireError if there is none that we speak."""
    if answer.result is None:
        error = read_error(answer.error or b"")
        raise McpWireError(f"initialize was refused with {error.code}: {error.message}")
    try:
        version = msgspec.json.decode(answer.result, type=InitializeResult).protocol_version
    except ValueError as error:
        raise McpWireError(f"the initialize result is not one: {error}") from error
    if version not in LEGACY:
        raise McpWireError(f"the server wants to speak {version[:40]!r}")
    return version


def session_id(value: bytes) -> str:
    """Check a session id (2025-11-25, transports, "Session Management": 0x21 to 0x7E)."""
    if not _SESSION.fullmatch(value):
        raise McpWireError("the session id is not visible ASCII")
    return value.decode("ascii")
