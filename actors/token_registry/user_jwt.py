"""The JWTs of NATS auth callout (ADR-26): what the server asks, and the signed answer."""

import base64
import hashlib
import time
from pathlib import Path

import nkeys
import orjson
from pydantic import BaseModel, Field

from mcpctl.bus.permissions import Permissions

HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


class ConnectOptions(BaseModel):
    """What the client sent in its CONNECT."""

    user: str = ""
    password: str = Field("", alias="pass", repr=False)


class Server(BaseModel):
    id: str


class Asked(BaseModel):
    """The question of the server: who wants to connect, and with what proof."""

    user_nkey: str
    server_id: Server
    connect_opts: ConnectOptions


class _Claims(BaseModel):
    nats: Asked


def read_request(jwt: bytes) -> Asked:
    """Read the server's question. Raises `ValueError` where it is none.

    Its signature is not checked: only the server can publish in the account AUTH.
    """
    _, _, rest = jwt.partition(b".")
    payload = rest.partition(b".")[0]
    return _Claims.model_validate_json(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))).nats


class Signer:
    """Signs with the account key that the server's configuration names as the issuer."""

    def __init__(self, seed: Path) -> None:
        self._key = nkeys.from_seed(seed.read_bytes().strip())
        self._issuer = self._key.public_key.decode()

    def user(self, user_nkey: str, name: str, granted: Permissions, expires_at: int | None) -> str:
        """Return a user of the account RPC with these permissions, until `expires_at` (seconds since 1970)."""
        claims: dict[str, object] = {
            "type": "user",
            "version": 2,
            "subs": -1,
            "data": -1,
            "payload": -1,
            "pub": {"allow": granted.publish},
            "sub": {"allow": granted.subscribe},
        }
        expiry = {} if expires_at is None else {"exp": expires_at}
        return self._sign({"sub": user_nkey, "aud": "RPC", "name": name, "nats": claims, **expiry}).decode()

    def answer(self, asked: Asked, *, user: str = "", error: str = "") -> bytes:
        """Return the answer to the server: a user, or the reason why not."""
        response: dict[str, object] = {"type": "authorization_response", "version": 2}
        response |= {"error": error} if error else {"jwt": user}
        return self._sign({"sub": asked.user_nkey, "aud": asked.server_id.id, "nats": response})

    def _sign(self, claims: dict[str, object]) -> bytes:
        claims = claims | {"iat": int(time.time()), "iss": self._issuer}
        claims["jti"] = base64.b32encode(hashlib.sha256(orjson.dumps(claims)).digest()).decode().rstrip("=")
        signed = _base64(orjson.dumps(HEADER)) + b"." + _base64(orjson.dumps(claims))
        return signed + b"." + _base64(self._key.sign(signed))


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
