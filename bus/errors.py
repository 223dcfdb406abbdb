"""What may go wrong between two parts, one class a fact.

BusError
├── BadRequest        400  the request cannot be understood
├── Unauthenticated   401  no known, live bearer
├── Forbidden         403  a known caller without the right
├── NotFound          404
├── Conflict          409  the state of things forbids it
├── TooLarge          413
├── TooManyRequests   429  a quota is used up
├── Cancelled         499  ended by the one who asked
├── Internal          500  a bug; the log has the traceback, the caller has nothing
├── BadGateway        502  an upstream server cannot be reached, or does not speak MCP
├── Unavailable       503  the bus or a part of it is away; nothing was done
└── DeadlineExceeded  504  no answer in the time allowed; it may have been done
"""

from typing import ClassVar


class BusError(Exception):
    """An error that crosses the bus: `code` is its name on the wire, the text is written for its reader."""

    code: ClassVar[str]
    http_status: ClassVar[int]
    by_code: ClassVar[dict[str, type["BusError"]]] = {}
    rule: str | None = None
    """What refused, for the audit; it does not cross the bus."""
    retry_after: float | None = None
    """Seconds after which it is worth asking again, where that is known."""

    def __init_subclass__(cls, *, code: str, http_status: int) -> None:
        cls.code, cls.http_status = code, http_status
        BusError.by_code[code] = cls

    @staticmethod
    def of(code: str, text: str) -> "BusError":
        """Rebuild an error from the wire; a code of a newer version becomes `Internal`."""
        return BusError.by_code.get(code, Internal)(text)


class BadRequest(BusError, code="bad_request", http_status=400): ...


class Unauthenticated(BusError, code="unauthenticated", http_status=401):
    """The text is `expired` or `revoked` for a bearer that was real once, and `unknown` for all others."""


class Forbidden(BusError, code="forbidden", http_status=403): ...


class NotFound(BusError, code="not_found", http_status=404): ...


class Conflict(BusError, code="conflict", http_status=409): ...


class TooLarge(BusError, code="too_large", http_status=413): ...


class TooManyRequests(BusError, code="too_many_requests", http_status=429): ...


class Cancelled(BusError, code="cancelled", http_status=499): ...


class Internal(BusError, code="internal", http_status=500): ...


class BadGateway(BusError, code="bad_gateway", http_status=502): ...


class Unavailable(BusError, code="unavailable", http_status=503):
    """`final` where asking again does not help: what is there is not what it must be."""

    final = False


class DeadlineExceeded(BusError, code="deadline_exceeded", http_status=504): ...
