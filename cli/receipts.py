"""What the operator is told once something was taken away: who acts on it everywhere, or who has not confirmed that."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from mcpctl.bus.contract import Committed, Feed, Receipt
from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.cli.errors import UNAVAILABLE, CliError
from mcpctl.cli.output import note
from mcpctl.cli.session import Session

FEEDS: dict[str, Feed] = {feed.actor: feed for feed in (token.feed, rbac.feed, catalog.feed)}

WAIT_MS = 2000
"""How long a confirmation is waited for: every replica asks once a second, also where it heard nothing."""


async def confirm(opened: Session, committed: Sequence[Committed]) -> None:
    """Tell who acts on changes, once everybody does or the time is over.

    Raises `BusError`, and `CliError` that names who has not confirmed.
    """
    for made in committed:
        note(_told(await opened.ask(FEEDS[made.actor].receipt, committed=made, wait_ms=WAIT_MS)))


def _told(found: Receipt) -> str:
    """Return a receipt in words. Raises `CliError` that names who has not confirmed."""
    silent = [follower for follower in found.followers if not follower.confirmed]
    if silent:
        until = datetime.now(UTC) + timedelta(milliseconds=max(follower.lease_ms for follower in silent) + 999)
        names = ", ".join(f"{follower.caller} ({follower.host})" for follower in silent)
        raise CliError(
            f"done, but not confirmed by {names}: what it still knows is void at {until:%H:%M:%S} UTC, when its lease "
            "has run out",
            UNAVAILABLE,
        )
    # A call runs at a gateway and at a router; what only routers follow, they alone have counted.
    edge = [follower for follower in found.followers if follower.caller.startswith("gateway")]
    ended = sum(follower.ended for follower in edge or found.followers)
    replicas = len(found.followers)
    return (
        f"confirmed by {replicas} {'replica' if replicas == 1 else 'replicas'} in {found.ms} ms, "
        f"{ended} {'call or stream' if ended == 1 else 'calls and streams'} ended"
    )
