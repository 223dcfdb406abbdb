"""The audit of refused calls: the first of a kind at once, the others counted, so that a flood is not one of events."""

from dataclasses import dataclass

from mcpctl.actors.upstream_router.call import Call
from mcpctl.bus.auditing import AuditWriter

KINDS = 10_000
"""Kinds counted at once at the most; of what comes then, nothing is told but the metrics."""


@dataclass(slots=True)
class _Kind:
    call: Call
    text: str
    more: int = 0


class Refused:
    """Refusals by who was refused, and what for. `tell` is to be called once a second."""

    def __init__(self, audit: AuditWriter) -> None:
        self._audit = audit
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    def note(self, call: Call, sha: str, key: str, text: str) -> None:
        """Leave the event `deny` of a refused call, or count it where there was one like it within the second."""
        kind = (call.project, sha, key)
        if kind in self._kinds:
            self._kinds[kind].more += 1
        elif len(self._kinds) < KINDS:
            self._kinds[kind] = _Kind(call, text)
            self._append(call, text)

    def tell(self) -> None:
        """Leave an event for those that were only counted."""
        kinds, self._kinds = self._kinds, {}
        for kind in kinds.values():
            if kind.more:
                self._append(kind.call, f"{kind.text}; {kind.more} more like this within a second")

    def _append(self, call: Call, text: str) -> None:
        self._audit.append_later(call.event("call", "deny", rule="quota", detail=text))
