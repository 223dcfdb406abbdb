"""What was done and decided: the ledger's events, kept by the AuditSink."""

from datetime import datetime
from functools import lru_cache
from typing import Literal

from pydantic import Field

from mcpctl.bus import contract
from mcpctl.bus.contract import PREFIX, Authorized, Call, Message, Need
from mcpctl.bus.names import NO_PROJECT, Label, subject_token

STREAM = "AUDIT"
"""The JetStream stream, in the account STREAMS, that holds what is not yet in the ledger (and a while longer)."""

APPEND = f"{PREFIX}.audit.append"
"""Events are appended on `APPEND.<caller>`: JSON lines, acknowledged by JetStream."""

ACKED = "Mcpctl-Acked"
"""Header of what is appended: the sequence that its writer was told last, by which a stream that lost some is found."""

TAIL = f"{PREFIX}.audit.*.*.*.*"
"""Where each event is broadcast once it is in the ledger: `….<project>.<kind>.<outcome>.<principal>`."""

RIGHTS = ("run on ", "view on ")
"""Rules of calls that were decided by what their bearer may do begin so; a gate, for one, refuses by another."""

Outcome = Literal["allow", "deny", "error", "cancelled", "revoked"]


class Event(Message):
    """One audit event. `at` is in milliseconds since 1970, by the clock of the part that wrote it.

    `kind` is `call` (the decision on an MCP request), `result` (its outcome), `edge` (a refusal by a gateway), `gate`
    (prompts that were given: `choices` has the reason for each) or an actor's verb such as `token.issue`. `args` is the
    SHA-256 of a tool call's arguments: never the values.
    """

    id: str
    at: int
    kind: str
    outcome: Outcome
    project: str | None = None
    principal: str | None = None
    user: str | None = None
    token_name: str | None = None
    token_sha: str | None = None
    gateway: str | None = None
    router: str | None = None
    server: str | None = None
    method: str | None = None
    name: str | None = None
    rule: str | None = None
    session: str | None = None
    correlation: str | None = None
    trace: str | None = None
    args: str | None = None
    size_in: int | None = None
    size_out: int | None = None
    ms: float | None = None
    detail: str | None = None
    choices: dict[str, str] | None = None


@lru_cache(maxsize=4096)
def tail_subject(project: str | None, kind: str, outcome: str, principal: str | None) -> str:
    """Return the subject on which auditors hear such an event."""
    token = subject_token(kind.replace(".", "-"))
    return f"{PREFIX}.audit.{project or NO_PROJECT}.{token}.{outcome}.{principal or 'nobody'}"


class Entry(Message):
    """An event in the ledger: `seq` orders all of them, `number` those of its project, `hash` chains these."""

    seq: int
    number: int
    hash: str
    event: Event


class Filter(Message):
    """Which events: each field that is given must match; `tool` and `principal` are globs."""

    project: Label | None = None
    kind: str | None = None
    outcome: Outcome | None = None
    token: str | None = Field(default=None, description="an mcptoken's name")
    token_sha: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{4,64}$", description="the SHA-256 of a bearer, or the beginning of it"
    )
    user: str | None = None
    tool: str | None = Field(default=None, description="a glob over <server>/<tool>")
    since: datetime | None = None
    until: datetime | None = None


class Query(Authorized):
    """Show the newest events of the ledger that match, oldest first."""

    project: Label | None = None
    filter: Filter = Filter()
    limit: int = Field(50, ge=1, le=1000)


class Entries(Message):
    """Ledger entries, and the `cursor` after which `follow` goes on."""

    items: tuple[Entry, ...]
    cursor: int


class Follow(Authorized):
    """Wait for events after `cursor` that match, up to `wait_ms`; nothing in between is ever skipped."""

    project: Label | None = None
    filter: Filter = Filter()
    cursor: int = Field(ge=0)
    wait_ms: int = Field(20_000, ge=0, le=30_000)


class GetUsage(Authorized):
    """Count what was done, by who, what, rule and outcome: the most frequent first.

    An mcptoken of the filter (by name or SHA-256) stands for the mcptokens that it issued, too. With `args`, each use
    names so many digests of arguments at the most. `end` bounds what is counted, and `offset` goes on, as an earlier
    answer said.
    """

    project: Label | None = None
    filter: Filter = Filter()
    kinds: tuple[str, ...] = Field((), max_length=50, description="only these; all where none is given")
    args: int = Field(0, ge=0, le=1000)
    limit: int = Field(1000, ge=1, le=5000)
    offset: int = Field(0, ge=0)
    end: int | None = Field(None, ge=0)


class Use(Message):
    """What one principal did in the same way `count` times, from `first` to `last` (milliseconds since 1970).

    Where digests were asked for, `digests` counts the different arguments, and `args` has those of the most frequent.
    """

    kind: str
    outcome: Outcome
    project: str | None = None
    principal: str | None = None
    user: str | None = None
    token_name: str | None = None
    token_sha: str | None = None
    server: str | None = None
    method: str | None = None
    name: str | None = None
    rule: str | None = None
    count: int
    first: int
    last: int
    digests: int = 0
    args: tuple[str, ...] = ()


class Usage(Message):
    """Uses, up to the ledger's number `end`; `more` says that there are others."""

    items: tuple[Use, ...]
    end: int
    more: bool = False


query = Call(
    "audit.query",
    Query,
    Entries,
    callers=("operator",),
    needs=Need("view", "audit"),
    timeout=10.0,
    http=("POST /audit/query",),
)
usage = Call("audit.usage", GetUsage, Usage, callers=("operator",), needs=Need("view", "audit"), timeout=30.0)
follow = Call("audit.follow", Follow, Entries, callers=("operator",), needs=Need("view", "audit"), timeout=35.0)


class Head(Message):
    """A signed word on the end of a project's chain: its entry `number` has this `hash`.

    `at` is when it was signed, in milliseconds since 1970; `signature` (Base64, Ed25519, by the key `key`) is over
    all of them. For events of no project, `project` is `_`.
    """

    project: str
    number: int
    hash: str
    at: int
    key: str
    signature: str


class Heads(Message):
    """The ends of the chains that grew."""

    items: tuple[Head, ...]


headed = contract.Event("audit.headed", Heads, listeners=("audit",))


class Place(Message):
    """How far a verification came: the entry of a chain, and its hash as it was read (empty after a fault)."""

    chain: str
    number: int
    hash: str


class Verify(Authorized):
    """Check the hash chains against what was signed, from `place` on, for as long as one answer may take.

    `anchors` are heads that the asker has kept: the chains must still lead through them.
    """

    project: Label | None = None
    place: Place | None = None
    anchors: tuple[Head, ...] = Field(default=(), max_length=1000)


class Fault(Message):
    """Something that is not as it was written, and where."""

    kind: Literal[
        "changed",
        "column",
        "removed",
        "order",
        "cut",
        "unsigned",
        "head",
        "anchor",
        "purged",
        "position",
        "stream",
        "noted",
    ]
    project: str | None = None
    number: int | None = None
    seq: int | None = None
    event: str | None = None
    detail: str


class Chain(Message):
    """One chain that was checked to its end: `purged` entries were let go of, `entries` are there."""

    project: str
    entries: int
    purged: int
    anchors: int
    head: Head | None = None


class Verified(Message):
    """What was found between two places. No `place` means that all is checked.

    `keys` are the public halves of the signing keys (Base64); `waiting` counts what the stream holds beyond the ledger.
    """

    checked: int
    faults: tuple[Fault, ...] = ()
    chains: tuple[Chain, ...] = ()
    place: Place | None = None
    keys: dict[str, str] = Field(default_factory=dict)
    waiting: int | None = None


class Purge(Authorized):
    """Let go of each chain's oldest entries, up to the first that is not older than `before`.

    A signed checkpoint stays where the chain goes on, and an event `audit.purged` says what was removed.
    """

    project: Label | None = None
    before: datetime
    dry_run: bool = False


class Purged(Message):
    """What was let go of, or (in a dry run) would be: the entries of a chain between two numbers, both included."""

    project: str
    first: int
    last: int


class PurgedChains(Message):
    """What a purge did; `more` says that there was no time for all of it."""

    items: tuple[Purged, ...]
    more: bool = False


verify = Call("audit.verify", Verify, Verified, callers=("operator",), needs=Need("view", "audit"), timeout=30.0)
purge = Call(
    "audit.purge", Purge, PurgedChains, callers=("operator",), needs=Need.to_operate("audit-purge"), timeout=30.0
)
