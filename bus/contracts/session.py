"""Sessions of MCP clients that speak a revision up to 2025-11-25, kept by the SessionGate."""

from typing import Annotated

from pydantic import Field

from mcpctl.bus.contract import ELECTION, Authorized, Call, Done, Feed, Message
from mcpctl.bus.names import Label

SessionId = Annotated[str, Field(repr=False, pattern=r"^[\x21-\x7e]{1,256}$")]

MAX_SUBSCRIPTIONS = 1000
"""Resources to which one session may subscribe."""

MAX_SUBSCRIPTION_BYTES = 256 * 1024
"""Bytes of their URIs together, in UTF-8: every change writes them all."""


class Session(Message):
    """What a legacy client said at `initialize`. `key` names the session without opening it.

    `client_info` and `capabilities` are JSON texts, kept as the client wrote them; `owner` is the SHA-256 of
    the bearer that opened the session, and no other bearer may use it. `subscriptions` are the resources of which it
    wants to hear; `stream` is the gateway that holds its GET stream, by its caller name, and `stream_number` the how
    manieth stream of the session that is: a gateway may take it from itself.
    """

    key: str
    owner: str
    project: str
    server: str | None
    version: str
    client_info: str
    capabilities: str
    log_level: str | None = None
    subscriptions: tuple[str, ...] = ()
    stream: str | None = None
    stream_number: int = 0


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


class SetSubscription(Authorized):
    """Remember (or forget) that the session subscribes to a resource, by the URI that its client uses.

    Answered with `Conflict` where the session would have more than `MAX_SUBSCRIPTIONS`, or more bytes of them than
    `MAX_SUBSCRIPTION_BYTES`.
    """

    id: SessionId
    uri: Annotated[str, Field(max_length=8192)]
    subscribed: bool


class TakeStream(Authorized):
    """Note that the asking gateway holds the session's GET stream from now on: an older one ends.

    Every time is a change, also where the same gateway asks again: its older stream is told by `stream_number`.
    """

    id: SessionId


class CloseSession(Authorized):
    """Close a session: from then on every replica answers 404 to its id."""

    id: SessionId


RouterId = Annotated[str, Field(pattern=r"^r[0-9a-f]{12}$")]

Term = Annotated[str, Field(pattern=r"^([0-9a-f]{16})?$")]
"""A lease from its beginning to its end; empty where there is none. After a gap a router has another one."""


class ClaimOwner(Authorized):
    """Make this router the owner of a caller's state at a server with `isolation: session`, unless another is.

    The state belongs to the legacy session of that key, or without one to the bearer's principal. A router's id is its
    own word, but for one that was admitted for a site: all others are one role, and no other role may ask. Answered
    with `Unavailable` where the router's lease of this term does not run, and with `NotFound` where the session is
    closed, or is not this bearer's.
    """

    router: RouterId
    term: Term
    project: Label
    server: Label
    session: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class Owner(Message):
    """Who owns the state.

    `fresh`: the claim was made just now. `lost`: a router that has ended owned it before, and the state ended with
    it; that is said again as long as the claim lasts.
    """

    router: str
    fresh: bool = False
    lost: bool = False


class KeepRouter(Message):
    """Renew (or with `stopping` give up) a router's lease: without one, all that it owns is lost.

    `term` is the one to go on with; where that has ended, or none is named, another begins.
    """

    router: RouterId
    term: Term = ""
    stopping: bool = False


class Kept(Message):
    """The lease. Where its `term` is not the one that was asked for, the router owns nothing, whatever it remembers."""

    term: Term


open_session = Call("session.open", OpenSession, OpenedSession, callers=("gateway",), timeout=ELECTION, repeatable=True)
find = Call("session.find", FindSession, FoundSession, callers=("gateway",), timeout=ELECTION, repeatable=True)
set_log_level = Call(
    "session.set_log_level", SetLogLevel, Done, callers=("gateway",), timeout=ELECTION, repeatable=True
)
set_subscription = Call(
    "session.set_subscription", SetSubscription, FoundSession, callers=("gateway",), timeout=ELECTION, repeatable=True
)
take_stream = Call("session.take_stream", TakeStream, FoundSession, callers=("gateway",), timeout=ELECTION)
close = Call("session.close", CloseSession, Done, callers=("gateway",), timeout=ELECTION, repeatable=True)
claim = Call("session.claim", ClaimOwner, Owner, callers=("router",), timeout=ELECTION)
keep = Call("session.keep", KeepRouter, Kept, callers=("router",), timeout=1.0)

ROUTER_LEASE = 5
"""Seconds from the latest `keep` after which a router has lost what it owns."""

feed = Feed("session", followers=("gateway", "router"), receipts=False)
