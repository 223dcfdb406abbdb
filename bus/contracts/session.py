"""Sessions of MCP clients that speak a revision up to 2025-11-25, kept by the SessionGate."""

from typing import Annotated

from pydantic import Field

from mcpctl.bus.contract import Authorized, Call, Done, Feed, Message
from mcpctl.bus.names import Label

SessionId = Annotated[str, Field(repr=False, pattern=r"^[\x21-\x7e]{1,256}$")]


class Session(Message):
    """What a legacy client said at `initialize`. `key` names the session without opening it.

    `client_info` and `capabilities` are JSON texts, kept as the client wrote them; `owner` is the SHA-256 of
    the bearer that opened the session, and no other bearer may use it.
    """

    key: str
    owner: str
    project: str
    server: str | None
    version: str
    client_info: str
    capabilities: str
    log_level: str | None = None


class OpenSession(Authorized):
    """Open a session for a client that has initialized."""

    project: Label
    server: Label | None = None
    version: str
    client_info: Annotated[str, Field(max_length=16384)] = "{}"
    capabilities: Annotated[str, Field(max_length=16384)] = "{}"


class OpenedSession(Message):
    """A new session, and the id by which its client names it (`Mcp-Session-Id`)."""

    id: SessionId
    epoch: str
    seq: int
    session: Session


class FindSession(Authorized):
    """Look a session up by its id. Not found also where it belongs to another bearer."""

    id: SessionId


class FoundSession(Message):
    """The session, as it was at change `seq` of `epoch`."""

    epoch: str
    seq: int
    session: Session


class SetLogLevel(Authorized):
    """Remember the level of `logging/setLevel` for the session's later requests."""

    id: SessionId
    level: Annotated[str, Field(pattern=r"^(debug|info|notice|warning|error|critical|alert|emergency)$")]


class CloseSession(Authorized):
    """Close a session: from then on every replica answers 404 to its id."""

    id: SessionId


open_session = Call("session.open", OpenSession, OpenedSession, callers=("gateway",))
find = Call("session.find", FindSession, FoundSession, callers=("gateway",))
set_log_level = Call("session.set_log_level", SetLogLevel, Done, callers=("gateway",))
close = Call("session.close", CloseSession, Done, callers=("gateway",))

feed = Feed("session", followers=("gateway",))
