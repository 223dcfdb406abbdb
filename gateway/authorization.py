"""The `Authorization` header, and how a bearer is refused (RFC 6750)."""

import re

from aiohttp import web

from mcpctl.bus.errors import Unauthenticated

_BEARER = re.compile(r"bearer +([A-Za-z0-9\-._~+/]+=*)\Z", re.IGNORECASE)


class Refused(Exception):
    """A bearer that does not let its holder in: the status and challenge of RFC 6750, section 3."""

    def __init__(self, status: int, text: str, error: str | None = None) -> None:
        super().__init__(text)
        self.status = status
        described = f', error="{error}", error_description="{text}"' if error is not None else ""
        self.challenge = f'Bearer realm="mcpctl"{described}'


def bearer_of(request: web.BaseRequest) -> str:
    """Return the bearer of a request. Raises `Refused`: 401 without one, 400 for what is no bearer header."""
    if "access_token" in request.raw_path or "mcpctl_" in request.raw_path:
        raise Refused(400, "a bearer in the URL is not accepted: use the Authorization header", "invalid_request")
    given = request.headers.getall("Authorization", ())
    if not given:
        raise Refused(401, "a bearer token is required")
    scheme = given[0].partition(" ")[0].lower()
    if len(given) > 1 or scheme == "bearer":
        match = _BEARER.match(given[0])
        if len(given) == 1 and not given[0].isascii():  # it would be a credential, were it one of ours
            raise Refused(401, "the token is not valid", "invalid_token")
        if len(given) > 1 or match is None:
            raise Refused(400, "the Authorization header is malformed", "invalid_request")
        return match[1]
    raise Refused(401, "a bearer token is required")


def refusal_of(error: Unauthenticated) -> Refused:
    """Return the 401 for a bearer that was real once (it is told why), or never was (it is told nothing)."""
    why = str(error)
    text = f"the token is {why}" if why in ("expired", "revoked") else "the token is not valid"
    return Refused(401, text, "invalid_token")
