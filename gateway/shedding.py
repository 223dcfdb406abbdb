"""Refusing what could not even wait, before it is parsed: the answer costs a tenth of one that is worked out.

It is made for a whole MCP request in one piece, as clients send them. Everything else takes the usual way, where it is
refused as well.
"""

import re

from mcpctl.bus import measured
from mcpctl.gateway.turns import Turns, too_busy
from mcpctl.gateway.wire import JSON, fault_of

_POST = b"POST /projects/"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9}) *(?=\r\n)", re.IGNORECASE)
_CODED = re.compile(rb"\ntransfer-encoding", re.IGNORECASE)
"""What a length means beside it, who stands before this gateway may see otherwise (RFC 9112, section 6.3)."""
_FAULT = fault_of(too_busy())
_BODY = b'{"jsonrpc":"2.0","error":' + _FAULT.body + b"}"
_ANSWER = (
    f"HTTP/1.1 503 Service Unavailable\r\nContent-Type: {JSON}\r\nRetry-After: {_FAULT.headers['Retry-After']}\r\n"
    f"Content-Length: {len(_BODY)}\r\n\r\n"
).encode() + _BODY


class Shedding:
    """Answers for a gateway while requests wait for their turn; `stopping` ends it."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.stopping = False

    def answer(self, data: bytes) -> bytes | None:
        """Return the refusal of a request that came as `data`; None where it is not refused, or not here."""
        if not self._turns.waiting or self.stopping:
            return None
        project = project_of(data)
        if project is None or self._turns.has_room(project):
            return None
        measured.HTTP_REQUESTS.add(("mcp", "POST", "503"))
        measured.REFUSALS.add(("unavailable",))
        return _ANSWER


def project_of(data: bytes) -> str | None:
    """Return the project that a request is for; None where `data` is not one whole request with an answer of its own.

    What a client answers to a server's question, and its notifications (a cancellation, say), are never refused.
    """
    if not data.startswith(_POST):
        return None
    head, _, body = data.partition(b"\r\n\r\n")
    project, _, path = head[len(_POST) : head.find(b" ", len(_POST))].partition(b"/")
    lengths = _LENGTH.findall(head + b"\r\n")
    if not path.endswith(b"mcp") or len(lengths) != 1 or int(lengths[0]) != len(body) or _CODED.search(head):
        return None
    if b'"method"' not in body or b"notifications/" in body:
        return None
    return project.decode("ascii", "replace")
