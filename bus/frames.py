"""The messages of the data plane: one JSON head line, a newline, and a raw body that is never re-modelled.

A request's body is the raw `params` object of an MCP 2026-07-28 request. The answer is a numbered row of
frames: `accepted` (after 50 ms, names the router), `msg` (a notification, whole), `part` (a piece of a body too
large for one message) and exactly one `end`. Or it is `moved`: another router owns what the call needs, and the same
request is to be sent to that one, whose frames are numbered from 1 again.

A router that has calls of a gateway at hand says so with one `beat` (number 0) to `<reply prefix>.beat` every two
seconds, however many calls they are.
"""

from typing import Literal

import msgspec

from mcpctl.bus.contract import PREFIX
from mcpctl.bus.errors import BadRequest

ACCEPT_AFTER = 0.05
"""Seconds after which a call that is not finished is acknowledged with `accepted`."""

LATE_AFTER = 0.003
"""Seconds that a router may take to begin with a request; past that it says so, and is sent fewer."""

FIRST_FRAME_WITHIN = 1.0
"""Seconds without any frame after which a call counts as never received."""

BEAT_EVERY = 2.0
"""Seconds between two `beat` frames of a router to a gateway of which it has calls."""

BEAT = "beat"
"""Last token of the subject of beats, in the place of a call's number."""

MOVES = 3
"""Times that a call may be sent on to another router."""

SILENCE_LIMIT = 6.5
"""Seconds without a frame after which the router of a running call counts as dead: three beats."""

EVERY_ROUTER = "all"
"""Stands in the subject of a cancel that is for whichever router has the call."""

PRESENT_EVERY = 1.0
"""Seconds between two signs of life of a router of a site."""

ABSENT_AFTER = 3.0
"""Seconds without one after which it counts as gone."""

PIECE = 4 * 1024 * 1024
"""Bytes of body in one frame at the most: half of the bus's `max_payload`."""


def mcp_subject(project: str, caller: str) -> str:
    return f"{PREFIX}.mcp.{project}.{caller}"


def router_subject(router: str, caller: str) -> str:
    """Return the subject of one router: a message with a reply subject is a request, one without a `Cancel`."""
    return f"{PREFIX}.router.{router}.{caller}"


def heard_subject(site: str, caller: str) -> str:
    """Return the subject on which the routers of one site (an empty text: the default group) tell each other."""
    return router_subject(f"heard-{site}" if site else "heard", caller)


def present_subject(site: str, caller: str) -> str:
    """Return the subject of the signs of life of a site's router."""
    return f"{PREFIX}.site.{site}.{caller}"


def quota_subject(site: str, router: str, caller: str) -> str:
    """Return the subject on which one router hears what the others of its site (or the default group) count."""
    return f"{PREFIX}.quota.{site or '_'}.{router}.{caller}"


def gateway_subject(gateway: str, caller: str) -> str:
    """Return the subject on which one gateway hears others, for streams and requests of a session that it holds."""
    return f"{PREFIX}.gateway.{gateway}.{caller}"


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """Head of a request.

    `budget` is in milliseconds (without meaning for `subscriptions/listen`), `era` is the client's; `session` and
    `request_id` (JSON text) name a legacy client's session and request, by which any gateway may cancel it. `headers`
    are a stateless client's `Mcp-Param-*`, as it sent them (None for a client that cannot know of them). `absent` is a
    router to which the request was moved and which was not there.
    """

    bearer: str
    project: str
    method: str
    budget: int
    correlation: str
    server: str | None = None
    era: Literal["legacy", "modern"] = "modern"
    session: str | None = None
    request_id: str | None = None
    trace: str | None = None
    gateway: str | None = None
    headers: dict[str, str] | None = None
    absent: str | None = None

    def __repr__(self) -> str:
        return f"Request({self.method} in {self.project})"


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Head of a frame.

    `router` is who has the call (`accepted`, `beat`) or should get it (`moved`; a body is then the JSON-RPC error to
    answer with where that router is gone). `error` marks a body that is a JSON-RPC error; `fault` a `BusError`: its
    code, then its text. With `moved` it is what to say where that router is gone and there is no body. `retry_ms` is in
    how many milliseconds it is worth asking again; `late` says that the router did not come to the request at once.
    """

    kind: Literal["accepted", "beat", "msg", "part", "end", "moved"]
    number: int
    router: str | None = None
    error: bool = False
    fault: tuple[str, str] | None = None
    retry_ms: int = 0
    late: bool = False


class Cancel(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ends a running call: by its `reply` subject at its router, or by session and request id at all of them.

    With `probe` it ends nothing, but has the router send an `end` where it has no such call: the one that it sent
    before may have been lost with a connection.
    """

    reply: str | None = None
    probe: bool = False
    session: str | None = None
    request_id: str | None = None


_encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(Request).decode
_decode_reply = msgspec.json.Decoder(Reply).decode
_decode_cancel = msgspec.json.Decoder(Cancel).decode


def encode(head: Request | Reply | Cancel, body: bytes = b"") -> bytes:
    return _encode(head) + b"\n" + body


def decode_request(data: bytes) -> tuple[Request, bytes]:
    """Split a request. Raises `BadRequest` where the head is not one."""
    line, _, body = data.partition(b"\n")
    try:
        return _decode_request(line), body
    except msgspec.DecodeError as error:
        raise BadRequest("the head of the request is not one") from error


def decode_reply(data: bytes) -> tuple[Reply, bytes]:
    """Split a frame. Raises `BadRequest` where the head is not one."""
    line, _, body = data.partition(b"\n")
    try:
        return _decode_reply(line), body
    except msgspec.DecodeError as error:
        raise BadRequest("the head of the frame is not one") from error


def decode_cancel(data: bytes) -> Cancel:
    """Read what to end. Raises `BadRequest`."""
    try:
        return _decode_cancel(data.partition(b"\n")[0])
    except msgspec.DecodeError as error:
        raise BadRequest("not a cancel") from error
