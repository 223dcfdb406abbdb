"""What an operator may ask the routers themselves."""

from typing import Literal

from pydantic import Field

from mcpctl.bus.contract import Authorized, Call, Message, Need
from mcpctl.bus.names import Label


class ReadLog(Authorized):
    """Show what a stdio server wrote to stderr, as far as this router has it.

    Every router answers with its newest `limit` lines: ask by `Bus.ask_everyone`. Who follows a log asks again each
    second; `after` holds for each router, by its id, the number of the last line that is known already.
    """

    name: Label
    after: dict[str, int] = Field(default_factory=dict)
    limit: int = Field(200, ge=1, le=2000)


class LogLine(Message):
    """One line; `seq` counts the lines of this server at this router, `at` is in milliseconds since 1970."""

    seq: int
    at: int
    text: str


class ServerLog(Message):
    """The newest lines that one router has; `known` tells whether it has started the server at all.

    `sites` are the logs of routers of sites: they are not asked by operators, whose bearers they are not to hear.
    """

    router: str
    known: bool
    lines: tuple[LogLine, ...] = ()
    sites: tuple["ServerLog", ...] = ()


class GetServerStates(Authorized):
    """Show whether this router reaches the upstream servers: one, or all.

    Every router answers for itself: ask by `Bus.ask_everyone`. A server is connected to when it is first used.
    """

    name: Label | None = None


class ServerState(Message):
    """One server, as a router reaches it: a `reason` says why it does not, or not on all connections.

    `unused` is one that was not asked for, or not for long. `versions` are the revisions of MCP that are spoken on its
    connections, the newest first; `since` is in milliseconds since 1970. While its `breaker` is not closed, calls to it
    are refused for the `cause`; `retry_at` (as `since`) is the next probe. `failures` are those in a row, `running` the
    requests at hand, `refused` those that were not passed on since this router was first asked for it.
    """

    server: str
    state: Literal["reached", "away", "unused"]
    versions: tuple[str, ...] = ()
    connections: int = 0
    reason: str | None = None
    since: int | None = None
    breaker: Literal["closed", "open", "half-open"] = "closed"
    cause: Literal["away", "slow", "credentials"] | None = None
    retry_at: int | None = None
    failures: int = 0
    running: int = 0
    refused: int = 0


class SiteRouter(Message):
    """A router of a site, as another router last heard of it (milliseconds since 1970), and whether it is there."""

    router: str
    site: str
    heard_at: int
    present: bool
    servers: tuple[ServerState, ...] = ()


class ServerStates(Message):
    """The servers that one router has been asked for; of a server that is missing it knows nothing.

    `sites` are the routers of sites that it has heard of: they tell of the servers that are placed there.
    """

    router: str
    servers: tuple[ServerState, ...] = ()
    sites: tuple[SiteRouter, ...] = ()


read_log = Call(
    "router.read_log",
    ReadLog,
    ServerLog,
    callers=("operator",),
    needs=Need.to_operate("logs"),
    everyone=True,
)

server_states = Call(
    "router.server_states",
    GetServerStates,
    ServerStates,
    callers=("operator",),
    needs=Need("view", "servers"),
    http=("GET /server-states",),
    everyone=True,
)
