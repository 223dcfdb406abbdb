"""Sealing secrets with AES-256-GCM, under keys that are kept apart from the database.

A sealed value is a nonce of 96 bits and the ciphertext with its tag. The secret's name is authenticated with
it, so that a row's value cannot be moved to another name.
"""

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcpctl.actors.keyring import KeyringFile, KeyringRefused
from mcpctl.bus.errors import Unavailable

NONCE_BYTES = 12


class Keyring(KeyringFile):
    """The sealing keys by their ids; new values are sealed under the current one."""

    needed_for = "sealed secrets"

    def seal(self, name: str, value: str) -> tuple[str, bytes]:
        """Return the key's id, and the nonce with the ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return self.current, nonce + AESGCM(self._keys[self.current]).encrypt(nonce, value.encode(), name.encode())

    def unseal(self, name: str, key_id: str, sealed: bytes) -> str:
        """Return the value. Raises `Unavailable` where the key is missing or the row was tampered with."""
        key = self._keys.get(key_id)
        if key is None:
            raise Unavailable(f"secret {name} is sealed with key {key_id}, which the keyring does not hold")
        try:
            return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode()).decode()
        except (InvalidTag, ValueError):  # a nonce that is too short, for one
            raise Unavailable(f"secret {name} cannot be unsealed: its row or its key was changed") from None


__all__ = ["Keyring", "KeyringRefused"]
