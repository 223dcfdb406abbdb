"""Who may send to the routers next. What is too much waits here, the projects in turn, and not in a router's queue.

Requests that no router has reacted to yet are on their way; a slow upstream does not count, since a router says after
50 ms that it has a call. How many may be on their way follows from what the routers say: one that was late to begin
marks its answers. So the queue is short where it is one for all, and long where each project has its own.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from mcpctl.bus.errors import Unavailable
from mcpctl.bus.places import Places

FEWEST, FIRST, MOST = 16, 64, 4096
"""Requests on their way: at least, at first, and at the most."""

CUT_EVERY = 0.1
"""Seconds between two cuts: a mark tells of the queue as it was before the last one."""

CALM_AFTER = 1.0
"""Seconds without a mark after which the number grows with each answer."""

TOO_LONG = 2.0
"""Seconds that the first of a project's queue may have waited; past that the queue takes no more."""

PATIENCE = 3.0
"""Seconds that a request waits for its turn, where none is taken at all."""


@dataclass(slots=True, eq=False)
class _Turn:
    """One that waits, since `since`."""

    since: float
    come: "asyncio.Future[None]"


class Turns:
    """Lets requests go to the routers; `waiting` may wait for it, of one project half as many."""

    def __init__(self, waiting: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._places = Places(waiting)
        self._queues: OrderedDict[str, deque[_Turn]] = OrderedDict()
        self._on_way = 0
        self._window = float(FIRST)
        self._cut_at = -math.inf

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._places.taken

    def has_room(self, project: str) -> bool:
        """Tell whether a request of a project may be sent, or wait at least."""
        queue = self._queues.get(project)
        return queue is None or (self._now() - queue[0].since <= TOO_LONG and self._places.has_room(project))

    async def take(self, project: str) -> None:
        """Return when a request may be sent. Raises `Unavailable`."""
        if self._on_way < self._window and not self._queues:
            self._on_way += 1
            return
        if not self.has_room(project):
            raise too_busy()
        turn = _Turn(self._now(), asyncio.get_running_loop().create_future())
        self._queues.setdefault(project, deque()).append(turn)
        self._places.take(project)
        try:
            await turn.come
        except asyncio.CancelledError:
            if turn.come.done() and not turn.come.cancelled() and turn.come.exception() is None:  # its turn had come
                self.leave()
            raise
        finally:
            self._places.leave(project)

    def drop_late(self) -> None:
        """Refuse those that have waited for too long. To be called from time to time."""
        late = self._now() - PATIENCE
        for project, queue in list(self._queues.items()):
            while queue and queue[0].since < late:
                turn = queue.popleft()
                if not turn.come.done():
                    turn.come.set_exception(Unavailable("the routers do not keep up"))
            if not queue:
                del self._queues[project]

    def leave(self, *, late: bool = False) -> None:
        """Note that a request is not on its way any more; `late`: its router was late to begin with it."""
        self._on_way -= 1
        if late or self._queues:
            self._adapt(late=late)
        while self._queues and self._on_way < self._window:
            project, queue = self._queues.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._queues[project] = queue
            if not turn.come.done():
                turn.come.set_result(None)
                self._on_way += 1

    def _adapt(self, *, late: bool) -> None:
        now = self._now()
        if not late:
            calm = now - self._cut_at > CALM_AFTER
            self._window = min(MOST, self._window + (1.0 if calm else 1 / self._window))
        elif now - self._cut_at > CUT_EVERY:
            self._window, self._cut_at = max(FEWEST, self._window * 0.7), now


def too_busy() -> Unavailable:
    """Return what is told to a request that may not even wait."""
    return Unavailable("too many requests are waiting: the routers do not keep up")
