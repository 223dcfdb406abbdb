"""What gateways say to each other about sessions that one of them serves: one JSON head line, a newline, a raw body.

A request of a session may arrive at any gateway while another one holds what it is about: a stream, or a question to
the client. Each goes to `frames.gateway_subject`; those with a reply subject are answered like a request to a router,
with numbered frames (`frames.Reply`), by the gateway in the place of the router.

What gives something away carries the bearer of the one who asks: the holder believes no gateway, and checks it itself.
"""

import msgspec

from mcpctl.bus.errors import BadRequest

EVERY_GATEWAY = "all"
"""Stands in the subject of what is for whichever gateway it concerns."""


class Answered(msgspec.Struct, frozen=True, tag="answered"):
    """A client's answer to a request of a server; the body is the JSON-RPC response, `id` its id."""

    session: str
    id: str
    bearer: str

    def __repr__(self) -> str:
        return f"Answered({self.session})"


class Withdrawn(msgspec.Struct, frozen=True, tag="withdrawn"):
    """A client has cancelled its request (`request_id` is JSON text): nobody waits for its answers any more."""

    session: str
    request_id: str


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    """The session's subscriptions have changed. Answered with `end` when its GET stream hears of them."""

    session: str


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """The events of a stream after number `after`, and those to come.

    Answered with a `msg` an event, whose body is its number, a newline and the message; then `end`.
    """

    session: str
    stream: str
    after: int
    bearer: str

    def __repr__(self) -> str:
        return f"Resume({self.session})"


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """Nobody reads the answer to the request with this reply subject any more."""

    reply: str


PeerFrame = Answered | Withdrawn | Renew | Resume | Leave

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(PeerFrame).decode


def encode(head: PeerFrame, body: bytes = b"") -> bytes:
    return _encode(head) + b"\n" + body


def decode(data: bytes) -> tuple[PeerFrame, bytes]:
    """Split a message. Raises `BadRequest` where the head is not one."""
    line, _, body = data.partition(b"\n")
    try:
        return _decode(line), body
    except msgspec.DecodeError as error:
        raise BadRequest("the head of the message is not one") from error
