"""Signed heads: who can change the database, but has not the key, cannot change what it says unseen.

The end of every chain and the ledger's position in the stream are signed in the transaction that writes them, and
checked by whoever goes on from them.
"""

import base64
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import orjson
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mcpctl.actors.audit_sink.rows import ChainRow, PositionRow, PurgedRow
from mcpctl.actors.keyring import KeyringFile, KeyringRefused
from mcpctl.bus.contracts.audit import Head

log = structlog.get_logger()

HEAD, PURGED, POSITION = "head", "purged", "position"
"""What a signature is about: none of them can be taken for another."""


class HeadKeys(KeyringFile):
    """Ed25519 keys, by their seeds."""

    needed_for = "signed heads"

    def __init__(self, current: str, keys: dict[str, bytes]) -> None:
        super().__init__(current, keys)
        self._private = Ed25519PrivateKey.from_private_bytes(keys[current])
        self._public: dict[str, Ed25519PublicKey] = {
            key_id: Ed25519PrivateKey.from_private_bytes(key).public_key() for key_id, key in keys.items()
        }

    @property
    def public(self) -> dict[str, str]:
        """The public halves, Base64, by the keys' ids."""
        return {key_id: base64.b64encode(key.public_bytes_raw()).decode() for key_id, key in self._public.items()}

    def sign(self, text: bytes) -> str:
        return base64.b64encode(self._private.sign(text)).decode()

    def fault(self, key_id: str, signature: str, text: bytes) -> str | None:
        """Say what is wrong with a signature, None where it is right."""
        if not signature:
            return "it is not signed"
        key = self._public.get(key_id)
        if key is None:
            return f"it is signed with key {key_id}, which the keyring does not hold"
        try:
            key.verify(base64.b64decode(signature, validate=True), text)
        except (InvalidSignature, ValueError):
            return "its signature does not fit"
        return None


class Notary:
    """Signs, and knows the newest head of each chain that was signed: a chain that ends before it was cut.

    The keyring is read again when its file has changed, so that a rotation needs no restart.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.made_keys = not path.exists()
        """Whether there was no keyring before: only then what is not signed yet may be signed as it stands."""
        self.keys = HeadKeys.open(path, create=True)
        self._read_at = self._changed_at()
        self._newest: dict[str, tuple[int, str]] = {}
        self._position: tuple[object, ...] = ()

    def _changed_at(self) -> int:
        return self._path.stat().st_mtime_ns

    def refresh(self) -> None:
        """Read the keyring again where it has changed; one that cannot be read is not used."""
        try:
            changed_at = self._changed_at()
            if changed_at != self._read_at:
                self.keys, self._read_at = HeadKeys.open(self._path, create=False), changed_at
        except (OSError, KeyringRefused) as error:
            log.warning("the keyring of the audit heads is not read: going on with the one before", error=str(error))

    def sign(self, project: str, number: int, digest: str, *, what: str = HEAD) -> Head:
        """Return a signed head."""
        at = time.time_ns() // 1_000_000
        text = _text(what, project=project, number=number, hash=digest, at=at)
        return Head(
            project=project, number=number, hash=digest, at=at, key=self.keys.current, signature=self.keys.sign(text)
        )

    def written(self, heads: Iterable[Head]) -> None:
        """Remember heads that were committed."""
        for head in heads:
            self._newest[head.project] = head.number, head.hash

    def heard(self, heads: Iterable[Head]) -> Sequence[Head]:
        """Remember heads that somebody signed; return those that were news and are genuine."""
        news = []
        for head in heads:
            number, _ = self._newest.get(head.project, (0, ""))
            if head.number > number and self.fault(head) is None:
                self._newest[head.project] = head.number, head.hash
                news.append(head)
        return news

    def fault(self, head: Head | ChainRow | PurgedRow, *, what: str = HEAD) -> str | None:
        """Say what is wrong with the signature of a head, None where it is right."""
        text = _text(what, project=head.project, number=head.number, hash=head.hash, at=head.at)
        return self.keys.fault(head.key, head.signature, text)

    def doubt(self, project: str, row: ChainRow | None) -> str | None:
        """Say why a chain's end is not the one that was signed, None where it is."""
        number, digest = self._newest.get(project, (0, ""))
        if row is None:
            return f"the chain is gone; entry {number} of it was signed" if number else None
        if (row.number, row.hash) == (number, digest):
            return None
        if row.number < number:
            return f"the chain ends with entry {row.number}; entry {number} of it was signed"
        if row.number == number:
            return f"entry {number} has another hash than the one that was signed"
        fault = self.fault(row)
        return None if fault is None else f"the chain's end, entry {row.number}, is not genuine: {fault}"

    def sign_position(self, row: PositionRow) -> None:
        row.key = self.keys.current
        row.signature = self.keys.sign(_position_text(row))
        self._position = _position_of(row)

    def doubt_position(self, row: PositionRow) -> str | None:
        """Say why the position is not the one that was signed, None where it is."""
        return None if _position_of(row) == self._position else self.position_fault(row)

    def position_fault(self, row: PositionRow) -> str | None:
        """Say what is wrong with the signature of the position, None where it is right."""
        return self.keys.fault(row.key, row.signature, _position_text(row))


def _position_of(row: PositionRow) -> tuple[object, ...]:
    return row.stream, row.seq, row.at, row.last


def _position_text(row: PositionRow) -> bytes:
    return _text(POSITION, stream=row.stream, seq=row.seq, at=row.at, last=row.last)


def _text(what: str, **members: object) -> bytes:
    return b"mcpctl audit " + what.encode() + b"\n" + orjson.dumps(_sorted(members))


def _sorted(members: Mapping[str, object]) -> dict[str, object]:
    return dict(sorted(members.items()))
