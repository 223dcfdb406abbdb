"""What a body of valid JSON may not be, whoever reads it next: nested too deeply, or with endless numbers in it."""

from itertools import accumulate

from mcpctl.bus.mcp_messages import PARSE_ERROR
from mcpctl.gateway.wire import UNKNOWN_ID, Fault

_STEPS = bytes(1 if char in b"[{" else 255 for char in range(256))  # one level down, or (as a signed byte) one up
_NO_BRACKETS = bytes(char for char in range(256) if char not in b"[]{}")
_ZEROS = bytes(ord("0") if char in b"0123456789" else ord(" ") for char in range(256))


class JsonLimits:
    """Levels of nesting, and digits in a row. An ordinary body costs two counts; the rest is for odd ones alone."""

    def __init__(self, *, depth: int, digits: int) -> None:
        self._depth, self._digits = depth, digits
        self._too_many = b"0" * (digits + 1)

    def check(self, body: bytes) -> None:
        """Raise `Fault` (-32700) for a body beyond the limits; it must have been read as JSON before."""
        if body.count(b"{") + body.count(b"[") > self._depth and _depth(body) > self._depth:
            raise _refusal(f"nested more than {self._depth} levels deep")
        if len(body) > self._digits and self._has_long_number(body):
            raise _refusal(f"a number has more than {self._digits} digits")

    def _has_long_number(self, body: bytes) -> bool:
        return self._too_many in body.translate(_ZEROS) and self._too_many in _without_texts(body).translate(_ZEROS)


def _depth(body: bytes) -> int:
    brackets = _without_texts(body).translate(_STEPS, _NO_BRACKETS)
    return max(accumulate(memoryview(brackets).cast("b")), default=0)


def _without_texts(body: bytes) -> bytes:
    """Return what stands outside of strings. A backslash stands in strings alone, before what it escapes."""
    return b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])


def _refusal(text: str) -> Fault:
    return Fault(400, PARSE_ERROR, f"the body is refused: {text}", request_id=UNKNOWN_ID)
