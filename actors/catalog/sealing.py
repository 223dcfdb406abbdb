"""Sealing secrets with AES-256-GCM, under keys that are kept apart from the database.

A sealed value is a nonce of 96 bits and the ciphertext with its tag. The secret's name is authenticated with
it, so that a row's value cannot be moved to another name.
"""

import os
from pathlib import Path
from typing import Self

import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcpctl.actors.keyring import KeyringFile, KeyringRefused
from mcpctl.bus.errors import Unavailable

log = structlog.get_logger()

NONCE_BYTES = 12


class Keyring(KeyringFile):
    """The sealing keys by their ids; new values are sealed under the current one."""

    needed_for = "sealed secrets"

    _path: Path | None = None
    _read_at = 0

    @classmethod
    def open(cls, path: Path, *, create: bool) -> Self:
        ring = super().open(path, create=create)
        ring._path = path  # noqa: SLF001 - it is one of these
        return ring

    def _look(self) -> None:
        """Read the file again where it has changed, so that a rotation needs no restart; a bad one is not used."""
        if self._path is None:
            return
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._read_at:
                return
            found = KeyringFile.open(self._path, create=False)
        except OSError as error:
            log.warning("the keyring cannot be read again", error=str(error))
            return
        # First the keys: another thread may seal with the current one at any moment.
        self._keys, self.current, self._read_at = found._keys, found.current, changed  # noqa: SLF001 - of this class

    def __contains__(self, key_id: object) -> bool:
        self._look()
        return super().__contains__(key_id)

    def seal(self, name: str, value: str) -> tuple[str, bytes]:
        """Return the key's id, and the nonce with the ciphertext."""
        self._look()
        nonce = os.urandom(NONCE_BYTES)
        current = self.current
        return current, nonce + AESGCM(self._keys[current]).encrypt(nonce, value.encode(), name.encode())

    def unseal(self, name: str, key_id: str, sealed: bytes) -> str:
        """Return the value. Raises `Unavailable` where the key is missing or the row was tampered with."""
        self._look()
        key = self._keys.get(key_id)
        if key is None:
            raise Unavailable(f"secret {name} is sealed with key {key_id}, which the keyring does not hold")
        try:
            return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode()).decode()
        except (InvalidTag, ValueError):  # a nonce that is too short, for one
            raise Unavailable(f"secret {name} cannot be unsealed: its row or its key was changed") from None


__all__ = ["Keyring", "KeyringRefused"]
