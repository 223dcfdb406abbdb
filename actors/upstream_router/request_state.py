"""Sealed texts that clients carry for the routers: `requestState` of multi round-trip requests, and list cursors.

The key is the same at every router and at nobody else: it is derived (HKDF, RFC 5869) from the seed by which the
routers prove themselves to the bus, so that any of them opens what another has sealed, and a new seed voids it all.
"""

import base64
import binascii
import secrets
import time
from pathlib import Path
from typing import Self

import nkeys
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES = 12
TIME_BYTES = 8


class Seal:
    """AES-256-GCM under one key a purpose; what is sealed is valid only with the `bound` bytes it was sealed with."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._ciphers: dict[str, AESGCM] = {}

    @classmethod
    def of_routers(cls, keys: Path) -> Self:
        """Return the seal of the routers that share the seed in `keys`."""
        return cls(bytes(nkeys.from_seed((keys / "router.nk").read_bytes().strip()).seed))

    def seal(self, purpose: str, text: bytes, bound: bytes) -> str:
        """Return an opaque text (URL-safe base64) that holds `text` and the time."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        stamped = int(time.time()).to_bytes(TIME_BYTES) + text
        return _text(nonce + self._cipher(purpose).encrypt(nonce, stamped, bound))

    def unseal(self, purpose: str, sealed: str, bound: bytes, *, max_age: float | None = None) -> bytes:
        """Return what was sealed, at most `max_age` seconds ago. Raises `ValueError` for anything else."""
        try:
            raw = base64.b64decode(sealed, altchars=b"-_", validate=True)
            if _text(raw) != sealed:  # the last character holds bits that a decoder drops: one text for each seal
                raise ValueError("not canonical base64")
            stamped = self._cipher(purpose).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound)
        except (binascii.Error, InvalidTag, ValueError) as error:
            raise ValueError("it was not made here, or not for this request") from error
        if max_age is not None and time.time() - int.from_bytes(stamped[:TIME_BYTES]) > max_age:
            raise ValueError("it has expired")
        return stamped[TIME_BYTES:]

    def _cipher(self, purpose: str) -> AESGCM:
        cipher = self._ciphers.get(purpose)
        if cipher is None:
            key = HKDF(SHA256(), length=32, salt=None, info=f"mcpctl {purpose}".encode()).derive(self._secret)
            cipher = self._ciphers[purpose] = AESGCM(key)
        return cipher


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()
