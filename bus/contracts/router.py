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
    """The newest lines that one router has; `known` tells whether it has started the server at all."""

    router: str
    known: bool
    lines: tuple[LogLine, ...] = ()


class GetServerStates(Authorized):
    """Show whether this router reaches the upstream servers: one, or all.

    Every router answers for itself: ask by `Bus.ask_everyone`. A server is connected to when it is first used.
    """

    name: Label | None = None


class ServerState(Message):
    """One server, as a router reaches it: a `reason` says why it does not, or not on all connections.

    `unused` is one that was not asked for, or not for long. `versions` are the revisions of MCP that are spoken on its
    connections, the newest first; `since` is in milliseconds since 1970.
    """

    server: str
    state: Literal["reached", "away", "unused"]
    versions: tuple[str, ...] = ()
    connections: int = 0
    reason: str | None = None
    since: int | None = None


class ServerStates(Message):
    """The servers that one router has been asked for; of a server that is missing it knows nothing."""

    router: str
    servers: tuple[ServerState, ...] = ()


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
    everyone=True,
)
