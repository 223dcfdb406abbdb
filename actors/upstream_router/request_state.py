"""Sealed texts that clients carry for the routers: `requestState` of multi round-trip requests, and list cursors.

The key is the same at every router and at nobody else, so that any of them opens what another has sealed. It is derived
(HKDF, RFC 5869) from the current key of their keyring; where they have none, from the seed by which they prove
themselves to the bus: no second file need be handed around before a key is rotated.
"""

import base64
import binascii
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

import nkeys
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mcpctl.actors.keyring import KeyringFile

log = structlog.get_logger()

KEYRING = "router-seals.json"
"""The routers' keyring, beside the seed by which they prove themselves."""

NONCE_BYTES = 12
TIME_BYTES = 8


class Seal:
    """AES-256-GCM under one key a purpose; what is sealed is valid only with the `bound` bytes it was sealed with.

    Keys are derived from the `seed`, and from those in `file` where there is one: then its current one seals; all open.
    """

    def __init__(self, seed: bytes, file: Path | None = None) -> None:
        self._seed = seed
        self._secrets: tuple[bytes, ...] = (seed,)
        self._file, self._read_at = file, 0
        self._ciphers: dict[tuple[str, bytes], AESGCM] = {}

    @classmethod
    def of_routers(cls, keys: Path) -> Self:
        """Return the seal of the routers that share the folder `keys`: its keyring, if any, and the seed in it."""
        return cls(bytes(nkeys.from_seed((keys / "router.nk").read_bytes().strip()).seed), keys / KEYRING)

    @classmethod
    def of_site(cls, bearer: str) -> Self:
        """Return the seal of a site's routers, which share the bearer by which they prove themselves."""
        return cls(bearer.encode())

    def seal(self, purpose: str, text: bytes, bound: bytes) -> str:
        """Return an opaque text (URL-safe base64) that holds `text` and the time."""
        self._look()
        nonce = secrets.token_bytes(NONCE_BYTES)
        stamped = int(time.time()).to_bytes(TIME_BYTES) + text
        return _text(nonce + self._cipher(purpose, self._secrets[0]).encrypt(nonce, stamped, bound))

    def unseal(self, purpose: str, sealed: str, bound: bytes, *, max_age: float | None = None) -> bytes:
        """Return what was sealed, at most `max_age` seconds ago. Raises `ValueError` for anything else."""
        self._look()
        try:
            raw = base64.b64decode(sealed, altchars=b"-_", validate=True)
            if _text(raw) != sealed:  # the last character holds bits that a decoder drops: one text for each seal
                raise ValueError("not canonical base64")
            stamped = self._opened(purpose, raw, bound)
        except (binascii.Error, ValueError) as error:
            raise ValueError("it was not made here, or not for this request") from error
        if max_age is not None and time.time() - int.from_bytes(stamped[:TIME_BYTES]) > max_age:
            raise ValueError("it has expired")
        return stamped[TIME_BYTES:]

    def _opened(self, purpose: str, raw: bytes, bound: bytes) -> bytes:
        for secret in self._secrets:
            with suppress(InvalidTag):
                return self._cipher(purpose, secret).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound)
        raise ValueError("no key opens it")

    def _look(self) -> None:
        """Read the keyring again where it has changed, so that a rotation needs no restart; a bad one is not used."""
        if self._file is None:
            return
        try:
            changed = self._file.stat().st_mtime_ns
            if changed == self._read_at:
                return
            self._secrets = (*KeyringFile.open(self._file, create=False).newest_first, self._seed)
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("the keyring cannot be read", error=str(error))
            return
        self._read_at = changed
        self._ciphers.clear()

    def _cipher(self, purpose: str, secret: bytes) -> AESGCM:
        cipher = self._ciphers.get((purpose, secret))
        if cipher is None:
            key = HKDF(SHA256(), length=32, salt=None, info=f"mcpctl {purpose}".encode()).derive(secret)
            cipher = self._ciphers[purpose, secret] = AESGCM(key)
        return cipher


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()
