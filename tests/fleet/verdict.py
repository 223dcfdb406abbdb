"""What must be true of a fleet that had faults, once they are over."""

import re
from collections import Counter
from dataclasses import dataclass, field

from tests.fleet.changes import Changes
from tests.fleet.faults import Faults, percentile
from tests.fleet.fleet import RunningFleet
from tests.fleet.traffic import Attempt, Traffic

LONG = 15.0
"""Seconds after which a client should long have been told something: its call took half of one."""


@dataclass
class Verdict:
    """`broken` are promises that were not kept; `figures` are told to people."""

    broken: dict[str, object] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)

    def demand_none(self, promise: str, found: object) -> None:
        if found:
            self.broken[promise] = found[:5] if isinstance(found, list) else found


async def judge(fleet: RunningFleet, traffic: Traffic, changes: Changes, faults: Faults) -> Verdict:
    """Hold what clients saw against what was executed, what is stored, and what is in the ledger."""
    verdict = Verdict()
    attempts = traffic.attempts
    executed = Counter(fleet.executed.read_text().split())
    done = [a for a in attempts if a.outcome == "done"]
    verdict.demand_none("no wrong answer", [a for a in attempts if a.outcome == "wrong"])
    verdict.demand_none("no failure without a fault", [_told(a, faults) for a in faults.unexplained(attempts)])
    verdict.demand_none("what is answered was executed", [a.mark for a in done if not executed[a.mark]])
    verdict.demand_none("nothing is executed twice", [mark for mark, times in executed.items() if times > 1])
    verdict.demand_none("sessions live on", traffic.sessions_lost)
    verdict.demand_none("acknowledged changes are there", await changes.missing())
    verdict.demand_none("revoked tokens are refused", changes.got_through)
    verdict.demand_none("what was done is in the ledger, once", await _unrecorded(fleet, done))
    endless = [_told(a, faults) for a in attempts if a.ended - a.began > LONG]
    verdict.demand_none("no client waits for nothing", endless)
    proof = await fleet.mcpctl("audit", "verify")
    quiet = [a for a in done if not any(fault.concerns(a) for fault in faults.done)]
    disturbed = [a for a in done if any(fault.concerns(a) for fault in faults.done)]
    verdict.figures = {
        "calls": dict(Counter(a.outcome for a in attempts)),
        "by client": {kind: dict(found) for kind, found in _by_kind(attempts).items()},
        "executed": sum(executed.values()),
        "faults": {kind: dict(found) for kind, found in faults.counts(attempts).items()},
        "why not": dict(Counter(_reason(a) for a in attempts if a.outcome not in ("done", "wrong"))),
        "streams ended": dict(Counter(traffic.streams)),
        "tokens": f"{len(changes.issued)} issued, {len(changes.revoked)} revoked, {len(changes.unclear)} unclear",
        "p50 / p99 ms outside of faults": f"{percentile(quiet, 0.5):.0f} / {percentile(quiet, 0.99):.0f}",
        "p50 / p99 ms during faults": f"{percentile(disturbed, 0.5):.0f} / {percentile(disturbed, 0.99):.0f}",
        "verify": proof.strip().splitlines()[-1],
    }
    return verdict


async def _unrecorded(fleet: RunningFleet, done: list[Attempt]) -> list[str]:
    """Return the calls that are not in the ledger exactly once each: by their trace, where their client sent one."""
    found: Counter[str] = Counter()
    for entry in await fleet.ledger():
        event = entry.get("event", entry)
        if event["kind"] == "call" and event["outcome"] == "allow" and event.get("trace"):
            found[str(event["trace"]).split("-")[1] if "-" in str(event["trace"]) else str(event["trace"])] += 1
    return [f"{a.mark}: {found[a.trace]}" for a in done if a.kind in ("modern", "legacy") and found[a.trace] != 1]


def _reason(attempt: Attempt) -> str:
    """Return what a client was told, without what is its own."""
    said = re.search(r'"message":"([^"]*)"', attempt.detail)
    return f"{attempt.outcome}: {said[1] if said else attempt.detail}"[:120]


def _by_kind(attempts: list[Attempt]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for attempt in attempts:
        found.setdefault(attempt.kind, Counter())[attempt.outcome] += 1
    return found


def _told(attempt: Attempt, faults: Faults) -> str:
    about = [f for f in faults.done if f.began - 5 < attempt.began < f.ended or attempt.began < f.began < attempt.ended]
    near = ", ".join(f"{f.kind} {f.part} at {f.began - attempt.began:+.1f} s" for f in about)
    return f"{attempt.kind} {attempt.outcome} after {attempt.ended - attempt.began:.2f} s ({near}): {attempt.detail}"
