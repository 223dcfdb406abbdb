"""Which servers this router reaches, and why not: for whoever may see the servers, and for the audit."""

import time
from collections import defaultdict
from collections.abc import Sequence

from mcpctl.actors.upstream_router.breaker import Breaker
from mcpctl.actors.upstream_router.sites import Sites
from mcpctl.actors.upstream_router.upstreams import Upstream, Upstreams
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.contracts import router
from mcpctl.bus.contracts.router import ServerState


class ServerStates:
    """Tells of the upstreams of one router, and of what the routers of sites say of theirs.

    Each breaker that opens or closes is an audit event.
    """

    def __init__(self, router_id: str, upstreams: Upstreams, sites: Sites, audit: AuditWriter) -> None:
        self._router, self._upstreams, self._sites, self._audit = router_id, upstreams, sites, audit
        upstreams.on_turned.append(self._note)

    @handles(router.server_states)
    async def states(self, request: router.GetServerStates, _caller: Caller) -> router.ServerStates:
        return self.all(request.name)

    def all(self, name: str | None = None) -> router.ServerStates:
        """Return the states of one server, or of all."""
        of_server: defaultdict[str, list[Upstream]] = defaultdict(list)
        for upstream in self._upstreams.all():
            if name in (None, upstream.server.name) and upstream.server.placement == self._sites.own:
                of_server[upstream.server.name].append(upstream)
        found = tuple(_state(server, upstreams) for server, upstreams in sorted(of_server.items()))
        return router.ServerStates(router=self._router, servers=found, sites=self._sites.states(name))

    def _note(self, breaker: Breaker) -> None:
        event: dict[str, object] = {"kind": "server", "outcome": "allow" if breaker.state == "closed" else "error"}
        facts = {"server": breaker.server, "router": self._router, "rule": breaker.rule, "detail": breaker.reason}
        self._audit.append_later(event | facts)


def _state(server: str, upstreams: Sequence[Upstream]) -> ServerState:
    """Put the connections to one server together: some may be there, and others not."""
    reached = [info for upstream in upstreams if upstream.trouble is None and (info := upstream.reached) is not None]
    troubles = [upstream.trouble for upstream in upstreams if upstream.trouble is not None]
    first = min(troubles, key=lambda trouble: trouble.since, default=None)
    breaker = upstreams[-1].breaker
    closed = breaker.state == "closed"
    return ServerState(
        server=server,
        state="reached" if reached and closed else "unused" if closed and first is None else "away",
        versions=tuple(sorted({info.version for info in reached}, reverse=True)),
        connections=len(reached),
        reason=breaker.reason if not closed else None if first is None else first.reason,
        since=first.since if first is not None else None if closed else _epoch_ms(breaker.since),
        breaker=breaker.state,
        cause=None if closed else breaker.cause,
        retry_at=None if closed else _epoch_ms(breaker.retry_at),
        failures=breaker.failures,
        running=breaker.running,
        refused=breaker.refused,
    )


def _epoch_ms(monotonic: float) -> int:
    return time.time_ns() // 1_000_000 + round((monotonic - time.monotonic()) * 1000)
