"""Our credentials, taken out of what a server sends: an error page or a debug line may repeat what it was sent."""

import base64
import json
import re
from collections.abc import Iterator

from mcpctl.bus.contracts.catalog import Connection

SHORTEST = 8
"""Bytes; a shorter secret is not looked for: it would be found in what has nothing to do with it."""

REDACTED = b"[redacted]"

_NAMES_ONE = re.compile(r"auth|cookie|credential|key|passw|secret|token", re.IGNORECASE)
"""Headers and variables whose values are credentials, also where they stand in the definition itself."""


class Redaction:
    """Takes the credentials of one connection out of bytes and texts; false where it has none."""

    def __init__(self, connection: Connection) -> None:
        self._needles = sorted(set(_needles(connection)), key=len, reverse=True)

    def __bool__(self) -> bool:
        return bool(self._needles)

    def of_bytes(self, data: bytes) -> bytes:
        """Return a message, or a text in UTF-8, without them."""
        for needle in self._needles:
            if needle in data:
                data = data.replace(needle, REDACTED)
        return data

    def of_text(self, text: str) -> str:
        """Return a text without them."""
        return self.of_bytes(text.encode(errors="replace")).decode() if self._needles else text


def _needles(connection: Connection) -> Iterator[bytes]:
    named = ((name, value) for given in (connection.headers, connection.env) for name, value in given.items())
    for value in {*connection.secrets, *(value for name, value in named if _NAMES_ONE.search(name))}:
        for credential in _credentials(value):
            if len(credential.encode()) >= SHORTEST:
                yield from _forms(credential)


def _credentials(value: str) -> Iterator[str]:
    """Yield what is secret of a value: of `Bearer x` it is x, of `Basic x` what is encoded in it too (RFC 7617)."""
    scheme, _, rest = value.partition(" ")
    yield rest.strip() if scheme.isalpha() and rest else value
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(rest.strip(), validate=True).decode()
        except ValueError:
            return
        yield decoded
        yield decoded.partition(":")[2]


def _forms(credential: str) -> Iterator[bytes]:
    """Yield a credential as it may stand in JSON, and as a part of what is encoded in base64."""
    raw = credential.encode()
    yield raw
    plain = json.dumps(credential)[1:-1]
    yield from {
        plain.encode(),
        plain.replace("/", "\\/").encode(),
        json.dumps(credential, ensure_ascii=False)[1:-1].encode(),
    }
    for offset in range(3):  # bytes before it in a group of three
        first, last = -(-offset * 8 // 6), (offset + len(raw)) * 8 // 6  # digits that it alone decides
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * offset + raw)[first:last]
