"""Who may come in: the Host and Origin checks, the bearer in the header, the principal behind it."""

import re
from urllib.parse import urlsplit

from aiohttp import web

from mcpctl.bus.bearer import digest, kind_of
from mcpctl.bus.cache import LeasedCache, Loaded
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts import token
from mcpctl.bus.errors import Unauthenticated
from mcpctl.bus.feed import Follower
from mcpctl.gateway.settings import GatewaySettings

LOOPBACK = ("localhost", "127.0.0.1", "::1")
WILDCARDS = ("0.0.0.0", "::", "")
_BEARER = re.compile(r"bearer +([A-Za-z0-9\-._~+/]+=*)\Z", re.IGNORECASE)


class Hosts:
    """The names under which this gateway may be addressed: what DNS rebinding would have to forge.

    An entry without a port admits any port. The loopback names always count.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        names = [*LOOPBACK, *settings.allowed_hosts]
        if settings.public_url is not None:
            names.append(urlsplit(settings.public_url).netloc.rpartition("@")[2])
        if settings.http_host not in WILDCARDS:
            names.append(settings.http_host)
        self._allowed = {_split(name) for name in names}
        self._known: set[str] = set()

    def admits(self, host: str) -> bool:
        """Tell whether a `Host` header's value names this gateway."""
        if host in self._known:
            return True
        name, port = _split(host)
        good = (name, None) in self._allowed or (name, port) in self._allowed
        if good and len(self._known) < 1000:
            self._known.add(host)
        return good

    def admits_origin(self, origin: str) -> bool:
        """Tell whether an `Origin` header's value is a page that this gateway's host served."""
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and self.admits(parts.netloc)


def _split(host: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{host}" if host.count(":") < 2 or host.startswith("[") else f"//[{host}]")
        return (parts.hostname or "").lower(), parts.port
    except ValueError:
        return "", None


class Refused(Exception):
    """A bearer that does not let its holder in: the status and challenge of RFC 6750, section 3."""

    def __init__(self, status: int, text: str, error: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        described = f', error="{error}", error_description="{text}"' if error is not None else ""
        self.challenge = f'Bearer realm="mcpctl"{described}'


def bearer_of(request: web.BaseRequest) -> str:
    """Return the bearer of a request. Raises `Refused`: 401 without one, 400 for what is no bearer header."""
    given = request.headers.getall("Authorization", ())
    if not given:
        if "access_token" in request.query_string:
            raise Refused(400, "a bearer in the URL is not accepted: use the Authorization header", "invalid_request")
        raise Refused(401, "a bearer token is required")
    scheme = given[0].partition(" ")[0].lower()
    if len(given) > 1 or scheme == "bearer":
        match = _BEARER.match(given[0])
        if len(given) > 1 or match is None:
            raise Refused(400, "the Authorization header is malformed", "invalid_request")
        return match[1]
    raise Refused(401, "a bearer token is required")


class Principals:
    """Bearers as the TokenRegistry resolves them, kept under the lease of its feed."""

    def __init__(self, bus: Bus, settings: GatewaySettings) -> None:
        self.follower = Follower(bus, token.feed)
        self._bus = bus
        self._ttl = settings.token_positive_ttl_ms / 1000
        self._cache: LeasedCache[str, token.Principal] = LeasedCache(
            self.follower,
            self._load,
            refusals=(Unauthenticated,),
            refusal_ttl=settings.token_negative_ttl_ms / 1000,
            concerns=lambda _, principal, change: principal.depends_on(change.kind, change.key),
        )
        self.follower.on_change.append(self._changed)

    async def of(self, bearer: str) -> token.Principal:
        """Return the principal of a bearer. Raises `Refused` (401), `Unavailable`."""
        principal = self._cache.peek(digest(bearer))
        if principal is not None:
            return principal
        if kind_of(bearer) is None:
            raise Refused(401, "the token is not valid", "invalid_token")
        try:
            return await self._cache.get(digest(bearer), bearer)
        except Unauthenticated as error:
            raise refusal_of(error) from error

    async def _load(self, _sha: str, bearer: str) -> Loaded[token.Principal]:
        answer = await self._bus.call(token.resolve, token.ResolveBearer(bearer=bearer))
        left = answer.principal.expires_in_ms
        ttl = self._ttl if left is None else min(self._ttl, left / 1000)
        return Loaded(answer.epoch, answer.seq, answer.principal, ttl)

    def _changed(self, change: Change) -> None:
        if change.action == "created":
            self._cache.drop_refusals()
        else:
            self._cache.drop(lambda _, principal: principal.depends_on(change.kind, change.key))


def refusal_of(error: Unauthenticated) -> Refused:
    """Return the 401 for a bearer that was real once (it is told why), or never was (it is told nothing)."""
    why = str(error)
    text = f"the token is {why}" if why in ("expired", "revoked") else "the token is not valid"
    return Refused(401, text, "invalid_token")
