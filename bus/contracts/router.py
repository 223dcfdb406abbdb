"""What an operator may ask the routers themselves."""

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


read_log = Call(
    "router.read_log",
    ReadLog,
    ServerLog,
    callers=("operator",),
    needs=Need.to_operate("logs"),
    everyone=True,
)
