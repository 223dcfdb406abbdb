"""What the control plane says over HTTP: a message as JSON, or an error with its code."""

import orjson
from aiohttp import web

from mcpctl.bus.bearer import masked
from mcpctl.bus.errors import BusError, Unauthenticated, Unavailable
from mcpctl.gateway.authorization import Refused, refusal_of
from mcpctl.gateway.wire import JSON, Fault

CODES = {error.http_status: error.code for error in BusError.by_code.values()} | {
    405: "method_not_allowed",
    415: "unsupported_media_type",
    421: "misdirected_request",
    429: "too_many_requests",
}
"""The code of each HTTP status: that of the bus's error, where there is one."""

RETRY_SECONDS = 1
CHALLENGE = 'Bearer realm="mcpctl"'

_ALWAYS = {"Cache-Control": "no-store"}
"""Much of this is shown once (bearers) or only to some: nothing of it is kept on the way."""


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.headers = status, headers or {}

    @property
    def code(self) -> str:
        return CODES[self.status]


def problem_of(error: BusError | Refused | Fault, *, bearer_given: bool = True) -> Problem:
    """Return how an error is told. Without a bearer (a login) a 401 is not about one, so its own text is told."""
    if isinstance(error, Unauthenticated):
        if not bearer_given:
            return Problem(401, str(error), {"WWW-Authenticate": CHALLENGE})
        error = refusal_of(error)
    if isinstance(error, Refused):
        return Problem(error.status, str(error), {"WWW-Authenticate": error.challenge})
    if isinstance(error, Fault):
        return Problem(error.status, str(error), error.headers)
    headers = {"Retry-After": str(RETRY_SECONDS)} if isinstance(error, Unavailable) else {}
    return Problem(error.http_status, str(error), headers)


def answer(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=body, content_type=JSON, headers=_ALWAYS | (headers or {}))


def empty_answer(headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=204, headers=_ALWAYS | (headers or {}))


def render(problem: Problem) -> web.Response:
    body = masked(orjson.dumps({"error": {"code": problem.code, "message": str(problem)}}))
    return answer(body, problem.status, problem.headers)
