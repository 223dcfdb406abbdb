"""The options that make a quota."""

from typing import Annotated

import typer

from mcpctl.bus.quotas import Quota
from mcpctl.cli.session import checked

RequestsPerSecond = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Quota: requests a second, over all replicas (default: no limit)."),
]
Burst = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Quota: requests that may come at once (default: of a second).")
]
ConcurrentCalls = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Quota: requests that run at the same time (default: no limit).")
]
Streams = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Quota: open streams of notifications (default: no limit).")
]


def quota_of(
    requests_per_second: float | None, burst: int | None, concurrent_calls: int | None, streams: int | None
) -> Quota:
    """Return the quota that the options say. Raises `CliError` for one that cannot be."""
    return checked(
        Quota,
        requests_per_second=requests_per_second,
        burst=burst,
        concurrent_calls=concurrent_calls,
        streams=streams,
    )
