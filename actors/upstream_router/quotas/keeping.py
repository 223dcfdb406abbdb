"""Which router counts for all of a group: the oldest that is there. What they tell each other about it.

Each router says every second that it is there, and since when. Whoever is not sure asks the oldest, many calls in one
message. A router that becomes the oldest is told by the others what they hold; its buckets begin full.
"""

import time
from dataclasses import dataclass

import msgspec

from mcpctl.actors.upstream_router.quotas.counts import Refusal
from mcpctl.actors.upstream_router.quotas.limits import Limit
from mcpctl.bus.errors import BadRequest
from mcpctl.bus.frames import ABSENT_AFTER


class Here(msgspec.Struct, frozen=True, omit_defaults=True, tag="here"):
    """A sign of life. `since` is in seconds of the wall clock.

    One that is `new`, or was away, asks the others for theirs, and for what they hold if it is the keeper.
    """

    router: str
    since: float
    new: bool = False
    leaving: bool = False


class Ask(msgspec.Struct, frozen=True, omit_defaults=True, tag="ask"):
    """May these calls be carried out? Each is a thing that will be held, and its limits.

    `held` is all that the router holds, told where the keeper does not know it yet.
    """

    router: str
    number: int
    wants: list[tuple[str, list[Limit]]] = []
    held: dict[str, dict[str, int]] | None = None


class Told(msgspec.Struct, frozen=True, omit_defaults=True, tag="told"):
    """The answer to the ask of that number: which of its calls are refused, by index. `unknown`: say what you hold."""

    number: int
    refused: dict[int, Refusal] = {}
    unknown: bool = False


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A thing that is not held any more, and the keys of its limits."""

    router: str
    thing: str
    keys: list[str]


Message = Here | Ask | Told | Ended

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Message).decode


def decode(data: bytes) -> Message:
    """Read what another router says. Raises `BadRequest`."""
    try:
        said: Message = _decode(data)
    except msgspec.DecodeError as error:
        raise BadRequest("not a message about quotas") from error
    return said


@dataclass(slots=True)
class _Seen:
    since: float
    at: float


class Group:
    """The routers that count together, this one among them."""

    def __init__(self, router: str, since: float) -> None:
        self.router, self.since = router, since
        self._others: dict[str, _Seen] = {}
        self.keeper = router

    @property
    def size(self) -> int:
        """How many routers there are."""
        return len(self._others) + 1

    def heard(self, here: Here) -> None:
        """Note that a router is there, or is leaving."""
        if here.leaving:
            self._others.pop(here.router, None)
        elif here.router != self.router:
            self._others[here.router] = _Seen(here.since, time.monotonic())
        self._choose()

    def suspect(self, router: str) -> None:
        """Do without a router until it is heard again: it did not answer."""
        self._others.pop(router, None)
        self._choose()

    def drop_silent(self) -> set[str]:
        """Forget the routers that were not heard for too long, and return who they were."""
        late = time.monotonic() - ABSENT_AFTER
        gone = {router for router, seen in self._others.items() if seen.at < late}
        for router in gone:
            del self._others[router]
        self._choose()
        return gone

    def _choose(self) -> None:
        others = [(seen.since, router) for router, seen in self._others.items()]
        self.keeper = min([(self.since, self.router), *others])[1]
