"""Bearer tokens as text: their three kinds, their checksum, their digest.

A bearer is a prefix, 43 base62 characters (256 random bits) and 6 base62 characters of CRC32 over all
that stands before. The checksum lets the edge refuse a typo without asking anybody.
"""

import hashlib
import re
import secrets
import zlib
from typing import Literal

BearerKind = Literal["pat", "ses", "sa"]
"""`pat`: an mcptoken. `ses`: a user's login session. `sa`: a service account."""

PATTERN = re.compile(r"mcpctl_(pat|ses|sa)_[0-9A-Za-z]{49}\Z")
_ANYWHERE = re.compile(rb"(mcpctl_(?:pat|ses|sa)_[0-9A-Za-z]{4})[0-9A-Za-z]{8,}")
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, rest = divmod(number, 62)
        digits.append(_DIGITS[rest])
    return "".join(reversed(digits))


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), 6)


def mint(kind: BearerKind) -> str:
    """Make a new bearer of 256 random bits."""
    text = f"mcpctl_{kind}_{_base62(secrets.randbits(256), 43)}"
    return text + _checksum(text)


def kind_of(bearer: str) -> BearerKind | None:
    """Return the kind of a well-formed bearer, or None where the form or the checksum is wrong."""
    match = PATTERN.match(bearer)
    if match is None or _checksum(bearer[:-6]) != bearer[-6:]:
        return None
    return match[1]  # type: ignore[return-value]  # the pattern admits the three kinds only


def digest(bearer: str) -> str:
    """Return the SHA-256 of a bearer in hex: the only form in which one is stored or named."""
    return hashlib.sha256(bearer.encode()).hexdigest()


def prefix(bearer: str) -> str:
    """Return the part of a bearer that may be shown: enough to recognize it, too little to use it."""
    return bearer[: bearer.rindex("_") + 5]


def masked(text: bytes) -> bytes:
    """Return a text in which each bearer, whole or cut, is only what may be shown of it.

    For whatever repeats words of a client: people put bearers into URLs, names and forms.
    """
    return _ANYWHERE.sub(rb"\1...", text) if b"mcpctl_" in text else text
