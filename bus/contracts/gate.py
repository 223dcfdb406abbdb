"""Who is through the gate of a project, kept by the SessionGate."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from mcpctl.bus.contract import ELECTION, Authorized, Call, Message, Need
from mcpctl.bus.contracts.catalog import Tag
from mcpctl.bus.names import Label

SessionKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""Names a legacy session without opening it: the SHA-256 of its id."""

Subject = Annotated[str, Field(pattern=r"^(User|ServiceAccount|McpToken):[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$")]

KIND = "gate"
"""The kind of the SessionGate's changes that are about a passage; `key` names which."""


def key(project: str, sha: str, session: str | None = None) -> str:
    """Return the key of a passage: of a bearer, or of one of its legacy sessions."""
    return f"{project}.{sha}" + (f".{session}" if session else "")


class Passage(Message):
    """That a caller is through a project's gate, and what it was given there.

    It holds for a bearer, until a moment (`session` None), or for one legacy session, as long as that lasts (`until`
    None). `sha` is the bearer's SHA-256; `kind` and `name` say whose it is. `opened_by` is what opened the gate: the
    tool `begin_session`, or the `call` of another tool that was answered with the briefing in front.
    """

    project: str
    kind: Literal["User", "ServiceAccount", "McpToken"]
    name: str
    sha: str
    session: str | None = None
    since: datetime
    until: datetime | None = None
    opened_by: Literal["begin_session", "call"]
    tags: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Tells it from all others."""
        return key(self.project, self.sha, self.session)

    @property
    def subject(self) -> str:
        """Who is through: `McpToken:ci`, `User:ann`, `ServiceAccount:build`."""
        return f"{self.kind}:{self.name}"


class FindPassage(Authorized):
    """Say whether the bearer is through the gate of a project: by itself, or for this legacy session."""

    project: Label
    session: SessionKey | None = None


class FoundPassage(Message):
    """The passage, as it was at change `seq` of `epoch`; None where the gate is closed."""

    epoch: str
    seq: int
    passage: Passage | None


class OpenGate(Authorized):
    """Let the bearer (and its legacy session) through the gate of a project, or add to what it was given there.

    The time of one that is through already does not begin anew, unless it is asked for by `begin_session`.
    """

    project: Label
    session: SessionKey | None = None
    by: Literal["begin_session", "call"]
    tags: tuple[Tag, ...] = Field((), max_length=64)
    prompts: tuple[Label, ...] = Field((), max_length=500)


class NoteReading(Authorized):
    """Add to what one was given who is through the gate; of any other nothing is remembered."""

    project: Label
    session: SessionKey | None = None
    tags: tuple[Tag, ...] = Field((), max_length=64)
    prompts: tuple[Label, ...] = Field((), max_length=500)


class OpenedGate(Message):
    """The passage. `fresh`: the gate was closed until now; of several who ask at once, one is told so."""

    fresh: bool
    passage: Passage


class ListGates(Authorized):
    """List who is through the gates, of one project or (`project` None) of all."""

    project: Label | None = None


class Gates(Message):
    items: tuple[Passage, ...]


class CloseGate(Authorized):
    """Close the gate of a project behind one principal, or behind everybody, for its legacy sessions too."""

    project: Label
    subject: Subject | None = Field(None, description="`McpToken:ci`, `User:ann`, `ServiceAccount:build`")

    @property
    def name(self) -> str | None:
        """Whose gate is closed, for the decision and the audit: an mcptoken by its name alone."""
        return None if self.subject is None else self.subject.removeprefix("McpToken:")


class ClosedGate(Message):
    """How many passages were ended, those for single sessions counted."""

    closed: int


find_passage = Call(
    "session.find_passage", FindPassage, FoundPassage, callers=("router",), timeout=ELECTION, repeatable=True
)
open_gate = Call("session.open_gate", OpenGate, OpenedGate, callers=("router",), timeout=ELECTION)
note_reading = Call("session.note_reading", NoteReading, FoundPassage, callers=("router",), timeout=ELECTION)
list_gates = Call(
    "session.list_gates",
    ListGates,
    Gates,
    callers=("operator",),
    needs=Need("view", "mcptokens"),
    timeout=10.0,
    http=("GET /gates",),
)
close_gate = Call(
    "session.close_gate",
    CloseGate,
    ClosedGate,
    callers=("operator",),
    needs=Need("delete", "mcptokens"),
    timeout=10.0,
    http=("POST /projects/{project}/gate/close",),
)
