"""What routers tell each other of the servers that they reach: one JSON head line, a newline, a raw body.

Every router has connections of its own. A server may announce a change on one of them alone, or be away from one router
alone, and whoever listens at another is to hear of it. It goes to every router (`frames.router_subject`); what is lost
or comes twice is a hint less, or one more.
"""

import msgspec

from mcpctl.bus.errors import BadRequest


class Heard(msgspec.Struct, frozen=True, omit_defaults=True, tag="heard"):
    """A list of a server is another one (`kind`: `tools`, `prompts` or `resources`), or a resource is.

    The body is the server's own notification about the resource.
    """

    router: str
    server: str
    revision: str
    kind: str = ""
    uri: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Heard).decode


def encode(head: Heard, body: bytes = b"") -> bytes:
    return _encode(head) + b"\n" + body


def decode(data: bytes) -> tuple[Heard, bytes]:
    """Split a message. Raises `BadRequest` where the head is not one."""
    line, _, body = data.partition(b"\n")
    try:
        return _decode(line), body
    except msgspec.DecodeError as error:
        raise BadRequest("the head of the message is not one") from error
