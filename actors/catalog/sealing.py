"""Sealing secrets with AES-256-GCM, under keys that are kept apart from the database.

A sealed value is a nonce of 96 bits and the ciphertext with its tag. The secret's name is authenticated with
it, so that a row's value cannot be moved to another name.
"""

import base64
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mcpctl.bus.errors import Unavailable

NONCE_BYTES = 12


class KeyringRefused(OSError):
    """The keyring is missing where it must not be, is readable for others, or is no keyring."""


class _Keys(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    current: str
    keys: dict[str, str] = Field(repr=False)


class Keyring:
    """The sealing keys by their ids; new values are sealed under the current one."""

    def __init__(self, current: str, keys: dict[str, bytes]) -> None:
        self.current = current
        self._keys = keys

    @classmethod
    def open(cls, path: Path, *, create: bool) -> Self:
        """Read the keyring file, making one with a fresh key if there is none and `create` allows it.

        Raises `KeyringRefused`.
        """
        if not path.exists():
            if not create:
                raise KeyringRefused(
                    f"there are sealed secrets, but no keyring {path}: bring back the one that sealed them"
                )
            _write_new(path)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise KeyringRefused(f"others than its owner may open the keyring {path}: set its mode to 0600")
            return cls._parse(file.read(), path)

    @classmethod
    def _parse(cls, text: bytes, path: Path) -> Self:
        try:
            held = _Keys.model_validate_json(text)
            keys = {key_id: base64.b64decode(key, validate=True) for key_id, key in held.keys.items()}
        except (ValidationError, ValueError):
            raise KeyringRefused(f"{path} is no keyring") from None  # the cause could show a key
        if held.current not in keys or any(len(key) != 32 for key in keys.values()):
            raise KeyringRefused(f"the keyring {path} lacks its current key, or has one that is not of 256 bits")
        return cls(held.current, keys)

    def seal(self, name: str, value: str) -> tuple[str, bytes]:
        """Return the key's id, and the nonce with the ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return self.current, nonce + AESGCM(self._keys[self.current]).encrypt(nonce, value.encode(), name.encode())

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def unseal(self, name: str, key_id: str, sealed: bytes) -> str:
        """Return the value. Raises `Unavailable` where the key is missing or the row was tampered with."""
        key = self._keys.get(key_id)
        if key is None:
            raise Unavailable(f"secret {name} is sealed with key {key_id}, which the keyring does not hold")
        try:
            return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], name.encode()).decode()
        except (InvalidTag, ValueError):  # a nonce that is too short, for one
            raise Unavailable(f"secret {name} cannot be unsealed: its row or its key was changed") from None


def _write_new(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key_id = secrets.token_hex(4)
    text = _Keys(current=key_id, keys={key_id: base64.b64encode(os.urandom(32)).decode()}).model_dump_json()
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        path.hardlink_to(draft)  # of two replicas that start at once, both use the first one's keyring
    draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
