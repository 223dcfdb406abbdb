"""How many streams of changes one bearer may hold open at this gateway."""

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from mcpctl.bus.mcp_messages import INVALID_REQUEST
from mcpctl.gateway.admission import Exchange
from mcpctl.gateway.wire import Fault


class StreamLimit:
    """Counts listens and the GET streams of sessions; `most` 0 lets any number pass.

    Not the streams in which a call is answered: each is a request that ends, and refusing one would come after its
    call has begun.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[str, Counter[Hashable]] = {}

    @property
    def count(self) -> int:
        """How many are open."""
        return sum(streams.total() for streams in self._open.values())

    @contextmanager
    def one_more(self, exchange: Exchange, key: Hashable) -> Iterator[None]:
        """Count a stream while it is open; one with the same `key` takes its place. Raises `Fault` (429)."""
        sha = exchange.principal.sha
        streams = self._open.setdefault(sha, Counter())
        if self._most and key not in streams and len(streams) >= self._most:
            text = f"the token has {self._most} streams open at this gateway (MCPCTL_TOKEN_STREAMS): close one"
            raise Fault(429, INVALID_REQUEST, text, request_id=exchange.request_id, headers={"Retry-After": "5"})
        streams[key] += 1
        try:
            yield
        finally:
            streams[key] -= 1
            if not streams[key]:
                del streams[key]
            if not streams:
                self._open.pop(sha, None)
