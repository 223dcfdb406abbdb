"""How long an mcptoken lasts: as asked, within what its project allows."""

from datetime import datetime
from typing import Protocol

from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import catalog, token
from mcpctl.bus.errors import BadRequest, Forbidden, NotFound

DEFAULT_MS = token.DEFAULT_TTL_SECONDS * 1000

UNITS = ((7 * 86400, "w"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


class Asked(Protocol):
    """What a request says about the time: at most one of these."""

    @property
    def ttl_seconds(self) -> int | None: ...

    @property
    def expires_at(self) -> datetime | None: ...

    @property
    def never_expires(self) -> bool: ...


class Terms:
    """Asks the Catalog on what terms a project's mcptokens may be issued."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def longest_ms(self, bearer: str, project: str) -> int | None:
        """Return the longest life of a project's mcptokens in milliseconds. Raises `NotFound` for no such project."""
        try:
            terms = await self._bus.call(catalog.token_terms, catalog.GetTokenTerms(bearer=bearer, project=project))
        except NotFound as error:
            raise NotFound(f"there is no project {project}: create it first") from error
        return None if terms.max_ttl_seconds is None else terms.max_ttl_seconds * 1000


def expiry_of(asked: Asked, now: int, *, default_ms: int | None, longest_ms: int | None) -> int | None:
    """Return when a new mcptoken expires (milliseconds since 1970; None: never).

    Raises `BadRequest` where more than one time is given, or one that is past, and `Forbidden` where a given one is
    longer than the project allows; the default is cut to that.
    """
    life = _given_ms(asked, now)
    if life is not None:
        if longest_ms is not None and life > longest_ms:
            raise _too_long(longest_ms)
        return now + life
    if asked.never_expires:
        if longest_ms is not None:
            raise _too_long(longest_ms)
        return None
    lengths = [length for length in (default_ms, longest_ms) if length is not None]
    return now + min(lengths) if lengths else None


def _too_long(longest_ms: int) -> Forbidden:
    return Forbidden(f"the project lets its mcptokens last {in_words(longest_ms // 1000)} at the most")


def _given_ms(asked: Asked, now: int) -> int | None:
    if (asked.ttl_seconds is not None) + (asked.expires_at is not None) + asked.never_expires > 1:
        raise BadRequest("give at most one of ttl_seconds, expires_at and never_expires")
    if asked.ttl_seconds is not None:
        return asked.ttl_seconds * 1000
    if asked.expires_at is None:
        return None
    life = int(asked.expires_at.timestamp() * 1000) - now
    if life <= 0:
        raise BadRequest(f"expires_at is {asked.expires_at.isoformat()}, which is past: give a time to come")
    return life


def in_words(seconds: int) -> str:
    """Return a length of time in its largest whole unit: `2w`, `36h`."""
    size, unit = next((size, unit) for size, unit in UNITS if seconds % size == 0)
    return f"{seconds // size}{unit}"
