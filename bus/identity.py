"""How a part names itself on the bus, and how it proves it.

Actors hold a static nkey each. Gateways, operators and the routers of sites are admitted by auth callout: they present
a nonce of their own choice and, where they have one, a bearer. Their caller name follows from the nonce, so that nobody
can claim another's name without its nonce, and a reconnect keeps the name.
"""

import base64
import hashlib
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mcpctl.bus.contract import Role
from mcpctl.bus.nats_url import trust

AdmittedRole = Literal["gateway", "operator", "login", "router"]
INBOX = "_INBOX"
SERVICE_INBOX = "srv"


def caller_name(role: str, nonce: str, site: str = "") -> str:
    """Return the caller name that belongs to a nonce: `gateway-` and 80 bits of its digest in base32.

    That of a router of a site ends with the site: who hears it knows for which servers it may ask.
    """
    digest = hashlib.sha256(f"{role}:{nonce}".encode()).digest()
    return f"{role}-{base64.b32encode(digest[:10]).decode().lower()}" + (f"-{site}" if site else "")


def site_of(caller: str) -> str:
    """Return the site of a router that was admitted for one; an empty text for every other caller."""
    role, _, rest = caller.partition("-")
    return rest.partition("-")[2] if role == "router" else ""


def router_id(caller: str) -> str:
    """Return the id of a router that was admitted for a site: it follows from the name that its permissions pin."""
    return f"r{hashlib.sha256(caller.encode()).hexdigest()[:12]}"


def role_of(caller: str) -> str:
    """Return the role in which a caller was admitted, or the actor's own."""
    return caller.partition("-")[0]


def inbox_of(caller: str) -> str:
    """Return the prefix of all reply subjects of a caller: nobody else may listen there."""
    return f"{INBOX}.{caller}"


def service_inbox(caller: str) -> str:
    """Return a fresh reply subject for `$SRV` requests: the only inboxes that a gateway may answer to."""
    return f"{inbox_of(caller)}.{SERVICE_INBOX}.{secrets.token_hex(16)}"


def believing(ca: Path | None) -> dict[str, object]:
    """Return nats-py's option by which the CAs of a file alone are believed. Raises `ValueError` where it is none."""
    return {"tls": trust(str(ca))} if ca is not None else {}


@dataclass(frozen=True)
class ActorIdentity:
    """An actor: its caller name is its role, its proof the nkey seed in `keys/<user>.nk`.

    `ca` is a PEM file with the CAs whose certificates are believed; without one the system's are.
    """

    role: Role
    keys: Path
    ca: Path | None = None

    @property
    def caller(self) -> str:
        return self.role

    def options(self, user: str | None = None) -> dict[str, object]:
        """Return what nats-py needs to connect as one of this actor's users (default: the one in RPC).

        Raises `PermissionError` where others can read the seed.
        """
        user = user or self.role
        seed = self.keys / f"{user}.nk"
        if seed.exists() and seed.stat().st_mode & stat.S_IRWXO:
            raise PermissionError(f"every user of this machine may open the key {seed}: run chmod 600 {seed}")
        return {
            "nkeys_seed": str(seed),
            "inbox_prefix": inbox_of(user).encode(),
            "name": user,
            **believing(self.ca),
        }


@dataclass(frozen=True)
class AdmittedIdentity:
    """A gateway, an operator or the router of a `site`: admitted by the TokenRegistry for its bearer (empty: none).

    A bearer in `file` is read anew at each connect, and is whatever stands there then: a pod's token is replaced.
    """

    role: AdmittedRole
    bearer: str = field(default="", repr=False)
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)
    ca: Path | None = None
    site: str = ""
    file: Path | None = None

    @property
    def caller(self) -> str:
        return caller_name(self.role, self.nonce, self.site)

    def current(self) -> str:
        """Return the bearer as it is now. Raises `OSError` where its file cannot be read."""
        return self.bearer if self.file is None else self.file.read_text().strip()

    def options(self) -> dict[str, object]:
        """Return what nats-py needs to connect."""
        return {
            "user": f"{self.role}.{self.site}" if self.site else self.role,
            "password": lambda: f"{self.nonce}:{self.current()}",
            "inbox_prefix": inbox_of(self.caller).encode(),
            "name": self.caller,
            **believing(self.ca),
        }


Identity = ActorIdentity | AdmittedIdentity
