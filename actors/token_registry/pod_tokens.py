"""Kubernetes' projected service-account tokens as a gateway's credential: JWTs (RFC 7519) of the cluster's own issuer.

The keys come from the issuer's discovery document (OpenID Connect Discovery 1.0, section 4). They are kept: while the
issuer is down, tokens of known keys are accepted, all others refused.
"""

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import structlog
from pydantic import BaseModel, ValidationError

from mcpctl import __version__
from mcpctl.actors.token_registry.rows import Clock
from mcpctl.bus.errors import Unauthenticated
from mcpctl.bus.http1 import HttpError, Pool
from mcpctl.bus.http_head import Url, header_lines
from mcpctl.bus.nats_url import demand_encrypted, trust_also

log = structlog.get_logger()

ALGORITHMS = ("RS256", "ES256")
"""What Kubernetes signs with. Never `none`, and nothing with a shared secret."""

LEEWAY_SECONDS = 10
"""For clocks that differ, at `nbf` and `iat`. `exp` has none: nats-server admits nobody past it."""

LONGEST = 8192
"""Characters of a token. One of Kubernetes has about 1,000."""

LARGEST_DOCUMENT = 256 * 1024
MOST_KEYS = 64

ASK_SECONDS = 2.0
"""For both documents together: nats-server waits three seconds for the callout's answer."""

AGAIN_SECONDS = 10.0
"""Between two questions to the issuer, however many tokens name a key that is not known."""

STALE_SECONDS = 600.0
"""After which keys are asked for again, so that one that was withdrawn is not believed for ever."""

DISCOVERY = "/.well-known/openid-configuration"
SUBJECT = "system:serviceaccount:"

UNFIT = "its claims are not what they must be"
REASONS: dict[type[Exception], str] = {
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is of another issuer",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
}


@dataclass(frozen=True)
class Trusted:
    """Whose tokens are accepted.

    `accounts` are `namespace/name` of service accounts; `ca` is a PEM file of CAs that are believed beside the
    system's, `token_file` holds the bearer with which the issuer is asked, where it answers nobody without one.
    """

    issuer: str
    audience: str
    accounts: tuple[str, ...]
    ca: Path | None = None
    token_file: Path | None = None


@dataclass(frozen=True)
class Pod:
    """Who a token stands for (`namespace/name` of the service account, the pod's name), and its end (ms since 1970)."""

    account: str
    name: str
    expires_at: int


class _Discovery(BaseModel):
    issuer: str
    jwks_uri: str


class _Keys(BaseModel):
    keys: list[dict[str, Any]]


@dataclass
class Issuer:
    """The keys of an issuer, as far as they are known."""

    trusted: Trusted
    _keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    _read_at: float = float("-inf")
    _asked_at: float = float("-inf")
    _fault: str = ""
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def key(self, kid: str) -> jwt.PyJWK:
        """Return a key. Raises `Unauthenticated` where it is not known, and says what is wrong with the issuer."""
        async with self._asking:
            stale = time.monotonic() - self._read_at > STALE_SECONDS
            if (stale or kid not in self._keys) and time.monotonic() - self._asked_at > AGAIN_SECONDS:
                await self._refresh()
                self._asked_at = time.monotonic()
        found = self._keys.get(kid)
        if found is None:
            reason = f"; the issuer's keys cannot be read: {self._fault}" if self._fault else ""
            raise Unauthenticated(f"pod token: its key is not one of {self.trusted.issuer}{reason}")
        return found

    async def _refresh(self) -> None:
        before = self._fault
        try:
            async with asyncio.timeout(ASK_SECONDS):
                self._keys = await self._read()
        except TimeoutError:
            self._fault = f"no answer within {ASK_SECONDS:g} s"
        except (HttpError, OSError, ValueError) as error:
            text = "not the document that was expected" if isinstance(error, ValidationError) else str(error)
            self._fault = " ".join(text.split())
        else:
            self._read_at, self._fault = time.monotonic(), ""
            log.info("keys of the pods' issuer read", issuer=self.trusted.issuer, keys=sorted(self._keys))
        if self._fault and self._fault != before:
            known = len(self._keys)
            log.warning("the pods' issuer cannot be asked", issuer=self.trusted.issuer, reason=self._fault, known=known)

    async def _read(self) -> dict[str, jwt.PyJWK]:
        issuer = self.trusted.issuer
        tls = trust_also(str(self.trusted.ca)) if self.trusted.ca is not None else None
        found = _Discovery.model_validate_json(await self._get(issuer.rstrip("/") + DISCOVERY, tls))
        if found.issuer != issuer:
            raise ValueError("its discovery document names another issuer")
        demand_encrypted(found.jwks_uri)
        keys: dict[str, jwt.PyJWK] = {}
        for raw in _Keys.model_validate_json(await self._get(found.jwks_uri, tls)).keys[:MOST_KEYS]:
            try:
                key = jwt.PyJWK(raw)
            except (jwt.PyJWTError, ValueError):
                continue  # of a kind that is none of ours
            if key.key_id and key.algorithm_name in ALGORITHMS and raw.get("use", "sig") == "sig":
                keys[key.key_id] = key
        if not keys:
            raise ValueError(f"it has no key for {' or '.join(ALGORITHMS)}")
        return keys

    async def _get(self, address: str, tls: ssl.SSLContext | None) -> bytes:
        url = Url.parse(address)
        headers = {"User-Agent": f"mcpctl/{__version__}", "Accept": "application/json"}
        if self.trusted.token_file is not None:
            headers["Authorization"] = f"Bearer {self.trusted.token_file.read_text().strip()}"
        head = (
            f"GET {url.target} HTTP/1.1\r\nHost: {url.authority}\r\nAccept-Encoding: identity\r\nConnection: close\r\n"
        )
        pool = Pool(url, connect_timeout=ASK_SECONDS, max_body=LARGEST_DOCUMENT, tls=tls)
        try:
            deadline = asyncio.get_running_loop().time() + ASK_SECONDS
            response = await pool.exchange(head.encode() + header_lines(headers) + b"\r\n", deadline)
        finally:
            await pool.close()
        if response.status != 200 or response.stream is not None:
            raise ValueError(f"{url.authority} answers HTTP {response.status}")
        return response.body


class PodTokens:
    """Checks the tokens of gateways' pods."""

    def __init__(self, trusted: Trusted, clock: Clock) -> None:
        self._trusted, self._clock = trusted, clock
        self._issuer = Issuer(trusted)

    async def check(self, token: str) -> Pod:
        """Return whose token this is. Raises `Unauthenticated` with the reason, which repeats nothing of the token."""
        if len(token) > LONGEST:
            raise Unauthenticated(f"pod token: it is longer than {LONGEST} characters")
        try:
            head = jwt.get_unverified_header(token)
            unverified = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, ValueError):
            raise Unauthenticated("pod token: it is no JWT") from None
        if head.get("alg") not in ALGORITHMS:
            raise Unauthenticated(f"pod token: it is not signed with {' or '.join(ALGORITHMS)}")
        if unverified.get("iss") != self._trusted.issuer:  # before the issuer is asked for anything
            raise Unauthenticated(f"pod token: {REASONS[jwt.InvalidIssuerError]}")
        key = await self._issuer.key(str(head.get("kid", "")))
        if key.algorithm_name != head["alg"]:
            raise Unauthenticated("pod token: it is signed in another way than its key is for")
        return self._pod(self._claims(token, key))

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        wanted = {"require": ["aud", "exp", "iat", "iss", "sub"], "verify_exp": False}
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._trusted.audience,
                issuer=self._trusted.issuer,
                leeway=LEEWAY_SECONDS,
                options=wanted,  # type: ignore[arg-type]  # a TypedDict that differs between versions
            )
        except jwt.MissingRequiredClaimError as error:
            raise Unauthenticated(f"pod token: it has no claim {error.claim}") from None
        except (jwt.PyJWTError, ValueError) as error:
            reason = REASONS.get(type(error), UNFIT)
            raise Unauthenticated(f"pod token: {reason}") from None

    def _pod(self, claims: dict[str, Any]) -> Pod:
        expires = claims["exp"]
        if type(expires) is not int:
            raise Unauthenticated(f"pod token: {UNFIT}")
        if expires * 1000 <= self._clock():
            raise Unauthenticated(f"pod token: {REASONS[jwt.ExpiredSignatureError]}")
        account = str(claims["sub"]).removeprefix(SUBJECT).replace(":", "/", 1)
        if not str(claims["sub"]).startswith(SUBJECT) or account not in self._trusted.accounts:
            raise Unauthenticated("pod token: its service account is none of MCPCTL_POD_ACCOUNTS")
        bound = claims.get("kubernetes.io")
        pod = bound.get("pod") if isinstance(bound, dict) else None
        return Pod(account, str(pod.get("name", "")) if isinstance(pod, dict) else "", expires * 1000)
