"""Audit events of what the actor's frame cannot describe: calls on many things, or on one that only its row names."""

from contextlib import suppress

from mcpctl.bus.actor import event_of
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.context import traceparent
from mcpctl.bus.contracts.rbac import Verdict
from mcpctl.bus.errors import BusError


class Notes:
    """Leaves audit events: acknowledged, or the caller is told that they are not."""

    def __init__(self, audit: AuditWriter) -> None:
        self._audit = audit

    async def done(self, kind: str, verdict: Verdict | None, name: str, project: str | None = None) -> None:
        await self._audit.append(_event(kind, verdict, name, project) | {"outcome": "allow"})

    async def refused(
        self, kind: str, verdict: Verdict | None, error: BusError, name: str | None = None, project: str | None = None
    ) -> None:
        """Note a failure; one that cannot be noted changes nothing for the caller."""
        denied = error.http_status in (401, 403) or (verdict is not None and not verdict.allowed)
        outcome = {"outcome": "deny" if denied else "error", "detail": str(error)}
        with suppress(BusError):
            await self._audit.append(_event(kind, verdict, name, project) | outcome)


def _event(kind: str, verdict: Verdict | None, name: str | None, project: str | None) -> dict[str, object]:
    rule = verdict.reason if verdict is not None else None
    return event_of(verdict) | {"kind": kind, "name": name, "project": project, "rule": rule, "trace": traceparent()}
