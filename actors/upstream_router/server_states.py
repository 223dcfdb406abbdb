"""Which servers this router reaches, and why not: for whoever may see the servers."""

from collections import defaultdict
from collections.abc import Sequence

from mcpctl.actors.upstream_router.upstreams import Upstream, Upstreams
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contracts import router
from mcpctl.bus.contracts.router import ServerState


class ServerStates:
    """Tells of the upstreams of one router."""

    def __init__(self, router_id: str, upstreams: Upstreams) -> None:
        self._router, self._upstreams = router_id, upstreams

    @handles(router.server_states)
    async def states(self, request: router.GetServerStates, _caller: Caller) -> router.ServerStates:
        of_server: defaultdict[str, list[Upstream]] = defaultdict(list)
        for upstream in self._upstreams.all():
            if request.name in (None, upstream.server.name):
                of_server[upstream.server.name].append(upstream)
        found = tuple(_state(server, upstreams) for server, upstreams in sorted(of_server.items()))
        return router.ServerStates(router=self._router, servers=found)


def _state(server: str, upstreams: Sequence[Upstream]) -> ServerState:
    """Put the connections to one server together: some may be there, and others not."""
    reached = [info for upstream in upstreams if upstream.trouble is None and (info := upstream.reached) is not None]
    troubles = [upstream.trouble for upstream in upstreams if upstream.trouble is not None]
    first = min(troubles, key=lambda trouble: trouble.since, default=None)
    return ServerState(
        server=server,
        state="reached" if reached else "away" if first is not None else "unused",
        versions=tuple(sorted({info.version for info in reached}, reverse=True)),
        connections=len(reached),
        reason=None if first is None else first.reason,
        since=None if first is None else first.since,
    )
