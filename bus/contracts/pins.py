"""What servers say of their tools: pinned at first use by the Catalog, in quarantine where they say something else."""

import hashlib
from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from mcpctl.bus.contract import MOST, Authorized, Call, Message, Need
from mcpctl.bus.names import Label

KIND = "pin"
"""The kind of the Catalog's changes that begin or end a quarantine; the key is the server."""

LONGEST = 65_536
"""Characters of a definition at the most."""

LONGEST_NAME = 256

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""The SHA-256 of a definition."""

ToolName = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]


class Definition(Message):
    """A tool as its server describes it: canonical JSON, in ASCII, without what does not count."""

    tool: ToolName
    text: Annotated[str, Field(min_length=2, max_length=LONGEST)]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


class FindPins(Authorized):
    """Say which definitions are pinned for the tools of a server in a project that the bearer may enter."""

    project: Label
    server: Label


class ReportTools(Authorized):
    """Tell what a server says of tools: what is new is pinned, what differs from its pin is quarantined.

    The bearer is that of the caller whose request made the router ask the server.
    """

    project: Label
    server: Label
    definitions: tuple[Definition, ...] = Field(min_length=1, max_length=MOST)


class Pin(Message):
    """A tool's pinned definition; with `pending`, that of what the server says instead, the tool is in quarantine."""

    tool: str
    digest: str
    pending: str | None = None


class Pins(Message):
    """A server's pins, as they were at change `seq` of `epoch`."""

    epoch: str
    seq: int
    items: tuple[Pin, ...]


class ListTools(Authorized):
    """Show which tools of a server have been seen, and which of them are in quarantine and why."""

    name: Label


class Tool(Message):
    """A tool of a server, as pinned.

    It is `pinned` (as it was at first use), `approved` (by somebody) or `quarantined`: then `pending` is the digest of
    what its server says now, and `changes` says in which members that differs from what is pinned.
    """

    server: str
    tool: str
    state: Literal["pinned", "approved", "quarantined"]
    digest: str
    first_seen: datetime
    approved_at: datetime | None = None
    approved_by: str | None = None
    pending: str | None = None
    pending_since: datetime | None = None
    changes: tuple[str, ...] = ()


class Tools(Message):
    items: tuple[Tool, ...]


class Approval(Message):
    """The definition of a tool that is approved: the pending one, or the pinned one again."""

    tool: ToolName
    digest: Digest


class ApproveTools(Authorized):
    """Pin the definitions that somebody has looked at, and end the quarantine of their tools; all or none."""

    name: Label
    approvals: tuple[Approval, ...] = Field(min_length=1, max_length=MOST)


find_pins = Call("catalog.find_pins", FindPins, Pins, callers=("router",))
report_tools = Call("catalog.report_tools", ReportTools, Pins, callers=("router",), timeout=5.0)
list_tools = Call(
    "catalog.list_tools",
    ListTools,
    Tools,
    callers=("operator",),
    needs=Need("view", "servers"),
    http=("GET /servers/{name}/tools",),
)
approve_tools = Call(
    "catalog.approve_tools",
    ApproveTools,
    Tools,
    callers=("operator",),
    needs=Need("edit", "servers"),
    http=("POST /servers/{name}/tools/approve",),
)
