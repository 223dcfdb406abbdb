"""Requests that are dropped: the answer would go where it does not belong, or the call is not for who asks.

They are told of at most once a second.

NATS checks neither whether the asker may publish to the reply subject that he names, nor whether it is his: whoever may
ask could have an actor publish for him, into another's inbox or on a change feed.
"""

import time
from collections.abc import Callable

import structlog

from mcpctl.bus.identity import inbox_of

log = structlog.get_logger()

REPLY_MISMATCH = "reply_mismatch"
CALLER_MISMATCH = "caller_mismatch"
EVERY_SECONDS = 1.0


def is_callers_own(subject: str, reply: str) -> bool:
    """Tell whether a reply subject is in the private inbox of the caller whom the request's subject names."""
    return reply.startswith(inbox_of(subject.rpartition(".")[2]) + ".")


class Misuse:
    """Counts what one connection has dropped. `tell` takes the audit fields of what is to be known of it."""

    def __init__(self) -> None:
        self.dropped = 0
        self.tell: Callable[[dict[str, object]], object] | None = None
        self._told_at = float("-inf")
        self._told_of = 0

    def note(self, subject: str, rule: str = REPLY_MISMATCH) -> None:
        """Count a dropped request, and tell of it unless that was done within the last second."""
        self.dropped += 1
        now = time.monotonic()
        if now - self._told_at < EVERY_SECONDS:
            return
        count, self._told_at, self._told_of = self.dropped - self._told_of, now, self.dropped
        log.warning("request dropped", reason=rule, subject=subject, count=count)
        if self.tell is not None:
            detail = f"{subject.rpartition('.')[2]} asked on {subject}; {count} dropped since the last event"
            self.tell({"outcome": "deny", "rule": rule, "detail": detail})


__all__ = ["CALLER_MISMATCH", "REPLY_MISMATCH", "Misuse", "is_callers_own"]
