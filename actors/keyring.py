"""Keys by their ids, in a file of its own that nobody but its owner may read, apart from the database.

New work is done with the current key. Rotating is adding a key and naming it the current one; the old ones stay as
long as there is something that was done with them.
"""

import base64
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class KeyringRefused(OSError):
    """The keyring is missing where it must not be, is readable for others, or is no keyring."""


class _Keys(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    current: str
    keys: dict[str, str] = Field(repr=False)


class KeyringFile:
    """Keys of 256 bits by their ids."""

    needed_for: ClassVar[str]
    """What there is of it already, where no new keyring may be made: the words of the error."""

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
                raise KeyringRefused(f"there are {cls.needed_for}, but no keyring {path}: bring back that keyring")
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

    @property
    def newest_first(self) -> tuple[bytes, ...]:
        """The current key, and then all others."""
        return (self._keys[self.current], *(key for key_id, key in self._keys.items() if key_id != self.current))

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys


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
