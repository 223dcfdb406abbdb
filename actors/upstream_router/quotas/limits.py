"""The limits that a call is under: of its project, of its token, and of the tokens above that one."""

from typing import Literal

import msgspec

from mcpctl.actors.upstream_router.access import Access
from mcpctl.bus.errors import TooManyRequests
from mcpctl.bus.quotas import Quota

Kind = Literal["requests", "calls", "streams"]


class Limit(msgspec.Struct, frozen=True, array_like=True):
    """One number of a quota.

    With `per_second` it is of a rate, and `most` what may come at once; without, `most` is what may be held at once.
    """

    key: str
    most: int
    per_second: float = 0.0


def limits_of(access: Access, *, stream: bool) -> list[Limit]:
    """Return what bounds a request; a stream of notifications is held as one, and counts as a request too."""
    quota, quotas = access.view.quota, access.principal.quotas
    if quota is None and not quotas:
        return []
    found: list[Limit] = []
    if quota is not None:
        found += _limits(f"project:{access.view.project}", quota, stream=stream)
    for each in quotas:
        found += _limits(f"token:{each.sha}", each.quota, stream=stream)
    return found


def _limits(of: str, quota: Quota, *, stream: bool) -> list[Limit]:
    found = []
    if quota.requests_per_second is not None:
        found.append(Limit(f"{of}:requests", quota.at_once, quota.requests_per_second))
    held = quota.streams if stream else quota.concurrent_calls
    if held is not None:
        found.append(Limit(f"{of}:{'streams' if stream else 'calls'}", held))
    return found


def refusal(access: Access, limit: Limit, seconds: float) -> TooManyRequests:
    """Say which quota is used up, and whose it is."""
    of, name, kind = limit.key.split(":")
    if of == "token":
        name = next((each.name for each in access.principal.quotas if each.sha == name), "above this one")
    what = {
        "requests": f"{limit.per_second:g} requests a second",
        "calls": f"{limit.most} concurrent calls",
        "streams": f"{limit.most} open streams",
    }[kind]
    error = TooManyRequests(f"{of} {name} is at its quota of {what}")
    error.rule, error.retry_after = "quota", seconds
    return error
