"""Requests of servers to clients of the handshake revisions: sampling, elicitation, roots.

On the bus such a request is an `input_required` result (2026-07-28, basic/utilities/mrtr). A legacy client is sent
JSON-RPC requests instead, on the stream of the call that caused them, and posts its answers to whichever gateway it
likes: their ids name this one, and cannot be guessed.
"""

import asyncio
import re
import secrets
from collections.abc import Callable

import msgspec
from msgspec import UNSET

from mcpctl.bus.bearer import digest
from mcpctl.bus.contracts.session import Session
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError, Cancelled
from mcpctl.bus.mcp_messages import (
    CLIENT_ERROR,
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    Envelope,
    Fields,
    decode_envelope,
    decode_fields,
    decode_value,
    encode,
    raw,
)
from mcpctl.gateway.legacy import declares

SIGN_OF_LIFE = 15.0
"""Seconds of waiting after which the reader is woken all the same."""

CANCELLED = "notifications/cancelled"

ANSWER_WITHIN = 300.0
"""Seconds that a client has for its answers: as long as a router keeps the call."""

_ID = re.compile(r"(gateway-[a-z2-7]{16})\.[0-9a-f]{32}\Z")


def holder_of(response: Envelope) -> tuple[str, str] | None:
    """Return the gateway that waits for a response, and its id; None for one that nobody can wait for."""
    if response.id is UNSET:
        return None
    request_id = decode_value(response.id)
    named = _ID.match(request_id) if isinstance(request_id, str) else None
    return (named[1], named[0]) if named is not None else None


class Round:
    """What one `input_required` result asks of a client, until every answer is there."""

    def __init__(self, requests: "ServerRequests", session: Session, principal: Principal, request_id: str) -> None:
        self.session, self.principal, self.request_id = session, principal, request_id
        self.messages: list[bytes] = []
        self.withdrawn: list[bytes] = []
        """Tell the client which answers nobody waits for any more (2025-11-25, basic/utilities/cancellation)."""
        self._requests = requests
        self._open: dict[str, str] = {}
        self._answers: Fields = {}
        self._failure: BusError | None = None
        self._changed = asyncio.Event()
        self._give_up = asyncio.get_running_loop().time() + ANSWER_WITHIN

    def ask(self, gateway: str, asked: Fields) -> None:
        """Make a JSON-RPC request of each entry; what the client cannot do is answered for it."""
        for key, entry in asked.items():
            request = decode_fields(entry)
            method = str(decode_value(request.get("method", msgspec.Raw(b'""'))))
            if not declares(self.session.capabilities, method):
                self._answers[key] = _error(METHOD_NOT_FOUND, f"the client does not take {method}")
                continue
            named = f"{gateway}.{secrets.token_hex(16)}"
            self._open[named] = key
            self._requests.waiting[named] = self
            message: Fields = {"jsonrpc": raw("2.0"), "id": raw(named), "method": raw(method)}
            if "params" in request:
                message["params"] = _legacy_params(method, bytes(request["params"]), named)
            self.messages.append(encode(message))

    async def answers(self) -> Fields | None:
        """Return all answers, or None after a while in which they did not come. Raises `BusError`."""
        try:
            async with asyncio.timeout(SIGN_OF_LIFE):
                while self._open and self._failure is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            if asyncio.get_running_loop().time() < self._give_up:
                return None
            for named, key in self._open.items():
                self._answers[key] = _error(INTERNAL_ERROR, "the client did not answer in time")
                params = {"requestId": named, "reason": "no answer in time"}
                self.withdrawn.append(encode({"jsonrpc": "2.0", "method": CANCELLED, "params": params}))
        if self._failure is not None:
            raise self._failure
        return self._answers

    def take(self, named: str, response: Envelope) -> None:
        """Take the client's answer to one request."""
        key = self._open.pop(named, None)
        if key is None:
            return
        self._requests.waiting.pop(named, None)
        self._answers[key] = _client_error(response.error) if response.error else msgspec.Raw(response.result or b"{}")
        self._changed.set()

    def fail(self, failure: BusError) -> None:
        self._failure = self._failure or failure
        self._changed.set()

    @property
    def unanswered(self) -> bool:
        return bool(self._open)

    def close(self) -> None:
        for named in self._open:
            self._requests.waiting.pop(named, None)


class ServerRequests:
    """All questions to clients that this gateway waits on."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self.waiting: dict[str, Round] = {}

    def begin(self, session: Session, principal: Principal, request_id: str, asked: Fields) -> Round:
        """Ask a client."""
        begun = Round(self, session, principal, request_id)
        begun.ask(self._gateway, asked)
        return begun

    def take(self, named: str, session: str, bearer: str, body: bytes) -> None:
        """Take a response that a client has posted here or at another gateway."""
        waiting = self.waiting.get(named)
        if waiting is None or waiting.session.key != session or waiting.session.owner != digest(bearer):
            return
        try:
            waiting.take(named, decode_envelope(body))
        except msgspec.DecodeError:
            return

    def withdraw(self, session: str, request_id: str) -> None:
        """End the wait of a request that its client has cancelled."""
        self.end_where(
            lambda waiting: (waiting.session.key, waiting.request_id) == (session, request_id),
            Cancelled("the call was cancelled"),
        )

    def end_where(self, concerns: Callable[[Round], bool], failure: BusError) -> None:
        for waiting in set(self.waiting.values()):
            if concerns(waiting):
                waiting.fail(failure)


def _legacy_params(method: str, params: bytes, named: str) -> msgspec.Raw:
    """Return the params of a request as 2025-11-25 wants them: an elicitation by URL has an id there."""
    if method == "elicitation/create" and b'"url"' in params:
        fields = decode_fields(params)
        if bytes(fields.get("mode", b"")) == b'"url"':
            fields.setdefault("elicitationId", raw(named))
            return raw(fields)
    return msgspec.Raw(params)


def _error(code: int, message: str) -> msgspec.Raw:
    return raw({"_meta": {CLIENT_ERROR: {"code": code, "message": message}}})


def _client_error(error: bytes) -> msgspec.Raw:
    """Return the place holder of an error with which the client answered."""
    said = decode_value(error)
    if isinstance(said, dict) and isinstance(said.get("code"), int) and isinstance(said.get("message"), str):
        return _error(said["code"], said["message"])
    return _error(INTERNAL_ERROR, "the client answered with an error")
