"""How much may be asked in the name of a project or of a token: its quota."""

from math import ceil
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from mcpctl.bus.contract import Message

Most = Annotated[int, Field(ge=0, le=1_000_000)]
Rate = Annotated[float, Field(gt=0, le=1_000_000)]


class Quota(Message):
    """What may be asked at the most, over all replicas together; what is not given has no limit.

    `requests_per_second` is kept over time, `burst` are the requests that may come at once (a second's worth where it
    is not given). `concurrent_calls` are requests that run at the same time, `streams` those of notifications that are
    open at the same time.
    """

    requests_per_second: Rate | None = None
    burst: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    concurrent_calls: Most | None = None
    streams: Most | None = None

    @model_validator(mode="after")
    def _has_a_rate_for_its_burst(self) -> "Quota":
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError("burst without requests_per_second: a burst is what may come at once of a rate")
        return self

    def __str__(self) -> str:
        """Return it in a few words: `50/s, burst 100, calls 20, streams 10`."""
        rate = None if self.requests_per_second is None else f"{self.requests_per_second:.10g}/s"
        rest = {"burst": self.burst, "calls": self.concurrent_calls, "streams": self.streams}
        return ", ".join(
            [*([rate] if rate else []), *(f"{of} {most}" for of, most in rest.items() if most is not None)]
        )

    @property
    def at_once(self) -> int:
        """Requests that may come at once."""
        return self.burst or max(1, ceil(self.requests_per_second or 0))


def _or_none(quota: Quota | None) -> Quota | None:
    return None if quota == Quota() else quota


GivenQuota = Annotated[Quota | None, AfterValidator(_or_none)]
"""A quota as somebody gives it: one that bounds nothing is none."""


class TokenQuota(Message):
    """The quota of one mcptoken, which its children share.

    `sha` is what uses are counted under: the SHA-256 of the first bearer of that mcptoken. One that replaced it by
    rotation has the same, so that the two bearers share one quota.
    """

    sha: str
    name: str
    quota: Quota
