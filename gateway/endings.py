"""What ends when a token is revoked, a session is closed, or nobody can vouch for either any more."""

from collections.abc import Callable

from mcpctl.bus.connection import Tasks
from mcpctl.bus.contract import Change
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError, NotFound, Unauthenticated, Unavailable
from mcpctl.bus.feed import Follower
from mcpctl.gateway.dataplane import DataPlane
from mcpctl.gateway.event_log import EventLogs
from mcpctl.gateway.get_stream import GetStreams
from mcpctl.gateway.listen_stream import ListenStreams
from mcpctl.gateway.server_requests import ServerRequests


class Endings:
    """Ends calls, questions to clients, streams, and what is kept of them."""

    def __init__(
        self,
        plane: DataPlane,
        requests: ServerRequests,
        logs: EventLogs,
        streams: GetStreams,
        listens: ListenStreams,
    ) -> None:
        self._plane, self._requests, self._logs = plane, requests, logs
        self._streams, self._listens = streams, listens
        self._background = Tasks()

    def follow(self, tokens: Follower, sessions: Follower) -> None:
        tokens.on_change.append(self._token_changed)
        tokens.on_lapse.append(self._lapsed)
        sessions.on_change.append(self._session_changed)

    def _token_changed(self, change: Change) -> int:
        if change.action in ("revoked", "removed"):
            return self._end(lambda p: p.depends_on(change.kind, change.key), Unauthenticated("revoked"))
        return 0

    def _lapsed(self) -> None:
        self._end(lambda _: True, Unavailable("what the caller may do can no longer be confirmed"))

    def _end(self, concerns: Callable[[Principal], bool], failure: BusError) -> int:
        """End all that certain principals have here, and return how many calls and streams that were."""
        running = self._plane.count(concerns)
        self._streams.end_where(concerns, failure)  # first: a listen that fails without it begins anew
        self._listens.end_where(concerns, failure)
        self._logs.drop_where(lambda log: concerns(log.principal))
        self._plane.end_where(lambda call: concerns(call.principal), failure)
        self._requests.end_where(lambda waiting: concerns(waiting.principal), failure)
        return running

    def _session_changed(self, change: Change) -> None:
        if change.kind == "session" and change.action == "removed":
            key, failure = change.key, NotFound("the session is closed")
            self._plane.end_where(lambda call: call.session == key, failure)
            self._requests.end_where(lambda waiting: waiting.session.key == key, failure)
            self._background.start(self._logs.end_where(lambda log: log.session == key))

    async def close(self) -> None:
        await self._background.cancel()
