"""What goes wrong in a fleet: one part at a time is killed, frozen or restarted, and is waited for until it is back."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from tests.fleet.traffic import Attempt

FROZEN = (0.5, 4.0)
"""Seconds that a frozen part stands still, at the least and at the most: shorter and longer than its lease."""

SETTLES = 3.5
"""Seconds after a part is back until nothing is left of its absence: the lease of what it had given."""

BACK_WITHIN = 60.0


class Part(Protocol):
    """One process of the fleet. Whatever supervises it starts it again when it has died."""

    name: str

    async def kill(self) -> None:
        """SIGKILL, and return when it is dead."""

    def freeze(self) -> None:
        """SIGSTOP."""

    def resume(self) -> None:
        """SIGCONT."""

    async def restart(self) -> None:
        """Have it stopped in good order, and started again."""

    async def healthy(self) -> None:
        """Return when its health check says that it is well."""


@dataclass(frozen=True)
class Fault:
    """What was done to which part, and from when to when anything may have come of it."""

    part: str
    kind: str
    began: float
    ended: float

    def concerns(self, attempt: Attempt) -> bool:
        return attempt.began < self.ended and attempt.ended > self.began


@dataclass
class Faults:
    """A loop of them, with a seed."""

    parts: list[Part]
    rng: random.Random
    kinds: tuple[str, ...] = ("kill", "freeze", "restart")
    done: list[Fault] = field(default_factory=list)

    async def run(self, seconds: float, *, pause: float = 2.0) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            part, kind = self.rng.choice(self.parts), self.rng.choice(self.kinds)
            await self.commit(part, kind)
            await asyncio.sleep(self.rng.uniform(0.5, pause))

    async def commit(self, part: Part, kind: str) -> Fault:
        """Do it to a part, and return once that is over."""
        began = time.monotonic()
        if kind == "kill":
            await part.kill()
        elif kind == "freeze":
            part.freeze()
            await asyncio.sleep(self.rng.uniform(*FROZEN))
            part.resume()
        else:
            await part.restart()
        async with asyncio.timeout(BACK_WITHIN):
            await part.healthy()
        fault = Fault(part.name, kind, began, time.monotonic() + SETTLES)
        self.done.append(fault)
        return fault

    def unexplained(self, attempts: list[Attempt]) -> list[Attempt]:
        """Return the failures that no fault explains; of a restart in good order none may come.

        There is one PostgreSQL, so that its restart is an interruption, however it is done.
        """
        violent = [fault for fault in self.done if fault.kind != "restart" or fault.part == "postgres"]
        return [a for a in attempts if a.outcome != "done" and not any(fault.concerns(a) for fault in violent)]

    def counts(self, attempts: list[Attempt]) -> dict[str, Counter[str]]:
        """Count what came of the attempts during each kind of fault to each kind of part."""
        found: dict[str, Counter[str]] = {}
        for fault in self.done:
            counter = found.setdefault(f"{fault.kind} {fault.part.rstrip('0123456789').rstrip('-')}", Counter())
            counter["faults"] += 1
            counter.update(a.outcome for a in attempts if fault.concerns(a))
        return found


def percentile(attempts: list[Attempt], share: float) -> float:
    """Return the milliseconds within which this share of the successful attempts was answered."""
    times = sorted(a.ended - a.began for a in attempts if a.outcome == "done")
    return times[min(len(times) - 1, int(len(times) * share))] * 1000 if times else float("nan")
