"""Who may come in: the right host, a bearer that stands for somebody, and the project that is theirs."""

from dataclasses import dataclass

from aiohttp import web

from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.bearer import digest, kind_of
from mcpctl.bus.contracts.session import Session
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError, Forbidden, Unauthenticated
from mcpctl.bus.mcp_messages import INVALID_REQUEST
from mcpctl.bus.names import is_label
from mcpctl.bus.principals import Principals
from mcpctl.gateway.addresses import Addresses
from mcpctl.gateway.authorization import Refused, bearer_of, refusal_of
from mcpctl.gateway.hosts import Hosts
from mcpctl.gateway.refusals import Refusals
from mcpctl.gateway.wire import NO_ID, Fault, fault_of


@dataclass(slots=True)
class Exchange:
    """One admitted HTTP request: who asks, where, and (once it is known) in which session."""

    http: web.Request
    bearer: str
    principal: Principal
    project: str
    server: str | None
    request_id: bytes = NO_ID
    session: Session | None = None
    session_id: str = ""
    param_headers: dict[str, str] | None = None
    stream: str = ""
    """Names a stream of notifications, whichever router it comes from."""

    @property
    def is_legacy(self) -> bool:
        return self.session is not None


class Admission:
    """Checks what comes before any message is read; refusals of real bearers are audited."""

    def __init__(
        self,
        hosts: Hosts,
        addresses: Addresses,
        refusals: Refusals,
        principals: Principals,
        audit: AuditWriter,
        gateway: str,
    ) -> None:
        self._hosts, self._addresses, self._refusals = hosts, addresses, refusals
        self._principals, self._audit, self._gateway = principals, audit, gateway

    async def admit(self, request: web.Request) -> Exchange:
        """Let a request of a project in. Raises `Fault` for the wrong host, bearer or project."""
        self.check_host(request)
        project, server = request.match_info["project"], request.match_info.get("server")
        try:
            bearer, principal = await self.identify(request, project)
        except (Refused, BusError) as error:
            raise fault_of(error) from error
        if not is_label(project) or principal.project not in (None, project):
            self.note_denial(principal, project, "the token belongs to another project")
            raise fault_of(Forbidden(f"no access to project {project}"))
        if server is not None and not is_label(server):
            raise fault_of(Forbidden(f"no access to server {server} of project {project}"))
        return Exchange(request, bearer, principal, project, server)

    def check_host(self, request: web.Request) -> None:
        """Raise `Fault` for a request that is addressed to somebody else, or comes from another's page."""
        headers = request.headers
        if not self._hosts.admits(headers.get("Host", "")):
            raise Fault(421, INVALID_REQUEST, "the Host header names no host of this gateway (MCPCTL_ALLOWED_HOSTS)")
        origin = headers.get("Origin")
        if origin is not None and not self._hosts.admits_origin(origin):
            raise Fault(403, INVALID_REQUEST, "the Origin header names no host of this gateway (MCPCTL_ALLOWED_HOSTS)")

    async def identify(self, request: web.Request, project: str | None) -> tuple[str, Principal]:
        """Return the bearer of a request, and whom it stands for.

        Raises `Refused`, `BusError`, and `Fault` (429) where too many bearers of its address were refused.
        """
        try:
            bearer = bearer_of(request)
            return bearer, self._principals.peek(digest(bearer)) or await self._resolve(request, bearer)
        except Refused as refused:
            self._note_refusal(refused, project)
            raise

    async def _resolve(self, request: web.BaseRequest, bearer: str) -> Principal:
        address = self._addresses.of(request)
        if self._refusals.exhausted(address) and not self._principals.knew(bearer):
            fault = await self._refusals.turn_away(address)
            if fault.headers.get("Connection") == "close":
                request.protocol.close()
            raise fault
        try:
            if kind_of(bearer) is None:
                raise Refused(401, "the token is not valid", "invalid_token")
            return await self._principals.of(bearer)
        except Refused:
            self._refusals.note(address)
            raise
        except Unauthenticated as error:
            self._refusals.note(address)
            raise refusal_of(error) from error

    def _note_refusal(self, refused: Refused, project: str | None) -> None:
        cause = refused.__cause__
        if isinstance(cause, Unauthenticated):  # what has not even the form of a bearer costs the bus nothing
            self._append(project, f"bearer {cause}", {})

    def note_denial(self, principal: Principal, project: str | None, rule: str) -> None:
        """Leave the audit event of a token that asked for what is not its own."""
        self._append(project, rule, principal.audit_fields)

    def _append(self, project: str | None, rule: str, who: dict[str, object]) -> None:
        where = {"project": project if project and is_label(project) else None, "gateway": self._gateway}
        self._audit.append_later({"kind": "edge", "outcome": "deny", "rule": rule, **where, **who})
