"""Audit events of what the actor's frame cannot describe: calls on many things, or on one that only its row names."""

from contextlib import suppress

from mcpctl.bus.actor import event_of
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.context import traceparent
from mcpctl.bus.contracts.rbac import Verdict
from mcpctl.bus.contracts.token import Principal
from mcpctl.bus.errors import BusError


class Notes:
    """Leaves audit events: acknowledged, or the caller is told that they are not."""

    def __init__(self, audit: AuditWriter) -> None:
        self._audit = audit

    async def done(self, kind: str, verdict: Verdict, name: str, project: str | None = None) -> None:
        """Note what was done, and by which rule."""
        await self._audit.append(_event(kind, name, project, verdict) | {"outcome": "allow"})

    async def not_allowed(self, kind: str, verdict: Verdict, name: str, project: str | None) -> None:
        """Note what was refused; where that cannot be noted, nothing changes for the caller."""
        with suppress(BusError):
            await self._audit.append(_event(kind, name, project, verdict) | {"outcome": "deny"})

    async def failed(self, kind: str, asker: Principal | None, error: BusError) -> None:
        """Note that a call on many things failed, and why."""
        outcome = "deny" if error.http_status in (401, 403) else "error"
        event = _event(kind, None, None, None) | (asker.audit_fields if asker is not None else {})
        with suppress(BusError):
            await self._audit.append(event | {"outcome": outcome, "detail": str(error)})


def _event(kind: str, name: str | None, project: str | None, verdict: Verdict | None) -> dict[str, object]:
    rule = verdict.reason if verdict is not None else None
    what = {"kind": kind, "name": name, "project": project, "rule": rule, "trace": traceparent()}
    return event_of(verdict) | what
