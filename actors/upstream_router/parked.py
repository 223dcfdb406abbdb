"""Calls of servers of a handshake revision that ask their client something: parked between two requests on the bus.

On the bus a server's request is an `input_required` result, which ends the request (2026-07-28, basic/utilities/mrtr).
The upstream call goes on here meanwhile, until the client's next request brings the answers.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from mcpctl.actors.upstream_router.call import Call
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import Unavailable
from mcpctl.bus.mcp_client import Answer, McpSessionLost, McpTransportError
from mcpctl.bus.mcp_messages import (
    CLIENT_ERROR,
    INTERNAL_ERROR,
    Fields,
    decode_fields,
    encode,
    error_body,
    raw,
    response,
)

PARKED_SECONDS = 300.0
"""How long a client may take over its answers; then the upstream call is cancelled."""

PARKED_CALLS = 4096
"""Calls that are parked at once at the most."""

BACKLOG = 256
"""Notifications that are kept of a call while its client is away: the newest."""

ASKED = frozenset({"sampling/createMessage", "elicitation/create", "roots/list"})
"""What a server may ask of a client."""

SWEEP = 5.0


class Asker(Protocol):
    """The connection on which the server asked, and is answered."""

    async def respond(self, message: bytes) -> None:
        """Send a whole JSON-RPC response."""


class ParkedCall:
    """One upstream call, and the requests of its server that wait for the client."""

    def __init__(self, calls: "ParkedCalls", call: Call) -> None:
        self.id = secrets.token_hex(16)
        self.head = call.head
        self.principal = call.principal
        self.idle_since: float | None = None
        self._calls = calls
        self._token = call.progress_token
        self._call: Call | None = None
        self._task: asyncio.Task[Answer] | None = None
        self._turn = asyncio.Event()
        self._backlog: list[tuple[str, bytes]] = []
        self._asked: dict[str, tuple[Asker, bytes, Fields]] = {}
        self._count = 0

    def start(self, work: Coroutine[Any, Any, Answer]) -> None:
        """Begin the upstream call."""
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Answer]") -> None:
        self._turn.set()
        if not task.cancelled():
            task.exception()  # it is looked at here, whether or not anybody comes back for it

    # --- what the upstream says ---

    def notify(self, method: str, message: bytes) -> None:
        """Pass a notification on to the request at hand, or keep it for the next one."""
        if self._call is None:
            self._backlog = [*self._backlog[1 - BACKLOG :], (method, message)]
        else:
            self._call.notify(method, self._with_token(method, message, self._call.progress_token))

    def _with_token(self, method: str, message: bytes, token: bytes | None) -> bytes:
        """Put the token of the request at hand in the place of the first one's."""
        if method != "notifications/progress" or token is None or token == self._token:
            return message
        fields = decode_fields(message)
        params = decode_fields(fields["params"])
        params["progressToken"] = msgspec.Raw(token)
        fields["params"] = raw(params)
        return encode(fields)

    def ask(self, asker: Asker, method: str, message: bytes) -> bool:
        """Take a request of the server; False refuses it."""
        if method not in ASKED or len(self._asked) >= BACKLOG:
            return False
        fields = decode_fields(message)
        self._count += 1
        request: Fields = {"method": fields["method"]}
        if "params" in fields:
            request["params"] = fields["params"]
        self._asked[f"{method.partition('/')[0]}-{self._count}"] = (asker, bytes(fields["id"]), request)
        self._turn.set()
        return True

    # --- what the client's requests do ---

    async def leg(self, call: Call, timeout: float) -> Answer | None:
        """Wait on behalf of one request: return the answer, or None where the server asks something first.

        Raises `TimeoutError` after `timeout` seconds, and what the upstream call raises.
        """
        if self._task is None:
            raise AssertionError("the upstream call has not begun")
        self._call, self.idle_since = call, None
        for method, message in self._backlog:
            self.notify(method, message)
        self._backlog = []
        try:
            async with asyncio.timeout(timeout):
                await self._turn.wait()
        except (TimeoutError, asyncio.CancelledError):
            self.end()
            raise
        finally:
            self._call = None
        if self._task.done():
            self._calls.forget(self)
            if self._task.cancelled():
                raise Unavailable("the call was ended meanwhile")
            return self._task.result()
        self.idle_since = time.monotonic()
        return None

    def input_required(self, state: str) -> Answer:
        """Return the result that asks the client."""
        asked = {key: raw(request) for key, (_, _, request) in self._asked.items()}
        result = {"resultType": "input_required", "inputRequests": asked, "requestState": state}
        return Answer(result=encode(result), error=None)

    async def answer(self, responses: Fields) -> list[str]:
        """Send the client's answers to the server; return the keys of requests that were left unanswered."""
        for key in [key for key in self._asked if key in responses]:
            asker, request_id, _ = self._asked.pop(key)
            with suppress(McpTransportError, McpSessionLost):  # then the upstream call fails by itself
                await asker.respond(_response(request_id, bytes(responses[key])))
        if not self._asked and self._task is not None and not self._task.done():
            self._turn.clear()
        return list(self._asked)

    def end(self) -> None:
        """Cancel the upstream call."""
        self._calls.forget(self)
        if self._task is not None:
            self._task.cancel()


def _response(request_id: bytes, answer: bytes) -> bytes:
    if CLIENT_ERROR.encode() in answer:
        meta = decode_fields(decode_fields(answer).get("_meta", msgspec.Raw(b"{}")))
        if CLIENT_ERROR in meta:
            return response(request_id, error=bytes(meta[CLIENT_ERROR]))
    if not answer.startswith(b"{"):
        return response(request_id, error=error_body(INTERNAL_ERROR, "the client's answer is not an object"))
    return response(request_id, result=answer)


class ParkedCalls:
    """All parked calls of this router."""

    def __init__(self) -> None:
        self._calls: dict[str, ParkedCall] = {}

    @property
    def count(self) -> int:
        return len(self._calls)

    def new(self, call: Call) -> ParkedCall:
        """Make the place of a call that may ask its client. Raises `Unavailable` where there are too many."""
        if len(self._calls) >= PARKED_CALLS:
            raise Unavailable("the router is at its limit of calls that may ask their client")
        parked = ParkedCall(self, call)
        self._calls[parked.id] = parked
        return parked

    def find(self, parked_id: str, principal: Principal | None) -> ParkedCall | None:
        """Return a parked call of this principal that no request is waiting on."""
        parked = self._calls.get(parked_id)
        if parked is None or parked.idle_since is None or principal is None or parked.principal is None:
            return None
        return parked if parked.principal.sha == principal.sha else None

    def forget(self, parked: ParkedCall) -> None:
        self._calls.pop(parked.id, None)

    def end_where(self, concerns: Callable[[ParkedCall], bool]) -> None:
        """Cancel the calls that nobody waits on just now (the others end with the request that does)."""
        for parked in list(self._calls.values()):
            if parked.idle_since is not None and concerns(parked):
                parked.end()

    async def sweep(self) -> None:
        """For ever: cancel what no client came back for."""
        while True:
            await asyncio.sleep(SWEEP)
            self.end_where(lambda parked: time.monotonic() - (parked.idle_since or 0.0) > PARKED_SECONDS)

    def close(self) -> None:
        for parked in list(self._calls.values()):
            parked.end()
