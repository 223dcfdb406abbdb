"""The calls about pinned tools: routers tell what servers say, operators approve."""

from sqlmodel import Session

from mcpctl.actors.catalog import pins as pinned
from mcpctl.actors.catalog import runtime, servers
from mcpctl.actors.catalog.prompt_calls import Asker
from mcpctl.actors.changes import ChangeFeed, Changing
from mcpctl.actors.storage import Store
from mcpctl.bus.actor import Caller, event_of, handles
from mcpctl.bus.context import traceparent
from mcpctl.bus.contracts import pins, token
from mcpctl.bus.identity import site_of


class PinCalls:
    """Pins what servers say of their tools; a router's word can begin a quarantine, and never end one."""

    def __init__(self, asker: Asker, store: Store, feed: ChangeFeed) -> None:
        self._asker, self._store, self._feed = asker, store, feed

    @handles(pins.find_pins)
    async def find_pins(self, request: pins.FindPins, _caller: Caller) -> pins.Pins:
        await self._asker.demand_access(request.bearer, request.project)

        def found(session: Session) -> pins.Pins:
            pinned.demand_member(session, request.project, request.server)
            return pinned.found(session, request.server)

        return await self._store.read(found)

    @handles(pins.report_tools)
    async def report_tools(self, request: pins.ReportTools, caller: Caller) -> pins.Pins:
        await self._asker.demand_access(request.bearer, request.project)
        site = site_of(caller.name)

        def take(changing: Changing) -> tuple[dict[str, tuple[str, ...]], pins.Pins]:
            pinned.demand_member(changing.session, request.project, request.server)
            runtime.demand_placed(servers.spec_of(servers.find(changing.session, request.server)), site)
            begun = pinned.take(changing, request.server, request.definitions)
            return begun, pinned.found(changing.session, request.server)

        begun, found = await self._feed.write(take)
        if begun:
            await self._tell(request, begun)
        return found

    async def _tell(self, request: pins.ReportTools, begun: dict[str, tuple[str, ...]]) -> None:
        """Leave an event for each quarantine that begins."""
        resolved = await self._asker.bus.call(token.resolve, token.ResolveBearer(bearer=request.bearer))
        event: dict[str, object] = resolved.principal.audit_fields | {
            "kind": "catalog.quarantine",
            "outcome": "deny",
            "project": request.project,
            "server": request.server,
            "rule": "the definition is not the pinned one",
            "trace": traceparent(),
        }
        for tool, lines in begun.items():
            last = self._asker.audit.append(event | {"name": tool, "detail": "; ".join(lines)})
        await last

    @handles(pins.list_tools)
    async def list_tools(self, request: pins.ListTools, _caller: Caller) -> pins.Tools:
        return pins.Tools(items=await self._store.read(lambda session: pinned.list_of(session, request.name)))

    @handles(pins.approve_tools)
    async def approve_tools(self, request: pins.ApproveTools, caller: Caller) -> pins.Tools:
        verdict = caller.authority
        items = await self._feed.write(
            lambda changing: pinned.approve(changing, request.name, request.approvals, verdict.label)
        )
        for item in items:
            event = {"kind": "catalog.approve_tool", "outcome": "allow", "server": item.server, "name": item.tool}
            detail = {"rule": verdict.reason, "detail": f"definition {item.digest}", "trace": traceparent()}
            await self._asker.audit.append(event_of(verdict) | event | detail)
        return pins.Tools(items=items)
