"""The shape of everything that parts say to each other: messages, calls, events, change feeds."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

PREFIX = "mcpctl.v1"

ELECTION = 12.0
"""Seconds in which the servers of a cluster have chosen another leader of a stream (they try after four to nine)."""

Role = Literal["operator", "gateway", "login", "token", "rbac", "catalog", "session", "router", "audit"]
"""Who is on the bus: three kinds of connection admitted by auth callout, and the actors."""

ACTORS: tuple[Role, ...] = ("token", "rbac", "catalog", "session", "router", "audit")


class Message(BaseModel):
    """A control-plane message: frozen; unknown fields are ignored, so that versions can run side by side."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, defer_build=True)


BearerText = Annotated[str, Field(repr=False, description="The bearer on whose authority this is asked.")]


class Authorized(Message):
    """A request that carries its authority: the bearer of the one for whom it is asked."""

    bearer: BearerText


class Done(Message):
    """The answer of a call that has nothing to tell."""


Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
M = TypeVar("M", bound=Message)


class Ref(Message):
    """Names one resource; `project` where its name means nothing without."""

    kind: str
    name: str
    project: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" of project {self.project}" if self.project else "")


class Outcome(Message):
    """What applying one document did, or (in a dry run) would do. `before` is its specification as it was."""

    ref: Ref
    action: Literal["created", "configured", "unchanged", "removed"]
    before: dict[str, Any] | None = None


MOST = 1000
"""Documents of one kind in one request at the most, and members of any other list that whoever asks has made."""


class Applied(Message):
    """What applying documents did, in their order."""

    items: tuple[Outcome, ...]


class Backup(Authorized):
    """Return all rows that an actor keeps: digests as they are, secrets sealed or (`secrets` false) left out."""

    secrets: bool = True


class Dump(Message):
    """An actor's rows at one moment: `revision` is that of its tables, `rows` is JSON, zlib and Base64."""

    actor: str
    revision: str
    rows: str


class Restore(Authorized):
    """Replace all rows that an actor keeps by those of a dump, in one transaction and under a new epoch."""

    dump: Dump


@dataclass(frozen=True)
class Need:
    """The right that a call demands of its bearer: a verb on a resource, or an operation.

    In the request's `project` and on its `name`. The RbacEvaluator is asked before the handler runs. None of these
    where a handler decides by itself. `beside` is another right that it takes as well.
    """

    verb: Literal["view", "create", "edit", "delete", "run"]
    resource: str | None = None
    operation: str | None = None
    beside: "Need | None" = None

    @classmethod
    def to_operate(cls, operation: str, *beside: str) -> "Need":
        """Return the need of an operation such as `backup`, and of others beside it."""
        return cls("run", operation=operation, beside=cls.to_operate(*beside) if beside else None)

    def __str__(self) -> str:
        own = f"{self.verb} on {self.resource}" if self.operation is None else f"operation {self.operation}"
        return own if self.beside is None else f"{own} and {self.beside}"


@dataclass(frozen=True)
class Call(Generic[Q, R]):
    """One question to one actor, and its answer.

    `callers` are the only roles that ask it over the bus. `timeout` is in seconds and is cut to
    what is left of the caller's own. `http` are the routes at which gateways serve it below `/api/v1`
    (`GET /projects/{name}`): they may ask it then too, on the authority of the bearer inside. In braces stands the
    member of the request that the path gives, `{spec.name}` where it is a member of a part. `everyone` says that each
    replica answers, and not one of the queue group. What is `repeatable` is as good asked twice, so it is asked again
    when no answer came within a second: of another replica, or by way of another server of the bus.
    """

    name: str
    request: type[Q]
    reply: type[R]
    callers: tuple[Role, ...]
    needs: Need | None = None
    timeout: float = 2.0
    http: tuple[str, ...] = ()
    everyone: bool = False
    repeatable: bool = False

    @property
    def asked_by(self) -> tuple[Role, ...]:
        """The roles whose NATS permissions let them ask."""
        return self.callers if not self.http or "gateway" in self.callers else (*self.callers, "gateway")

    @property
    def actor(self) -> str:
        return self.name.partition(".")[0]

    @property
    def verb(self) -> str:
        return self.name.partition(".")[2]

    @property
    def summary(self) -> str:
        return (self.request.__doc__ or "").strip().partition("\n")[0]

    def subject(self, caller: str) -> str:
        """Return the subject to ask on; `*` stands for any caller."""
        return f"{PREFIX}.{self.name}.{caller}"


@dataclass(frozen=True)
class Event(Generic[M]):
    """Something that an actor tells everybody who may hear it, in the EVENTS account."""

    name: str
    message: type[M]
    listeners: tuple[Role, ...]

    @property
    def actor(self) -> str:
        return self.name.partition(".")[0]

    @property
    def subject(self) -> str:
        actor, _, verb = self.name.partition(".")
        return f"{PREFIX}.event.{actor}.{verb}"


class Change(Message):
    """One numbered change of what an actor owns.

    `kind` and `key` name the thing (`token` and a SHA-256, `user` and a name, `project` and a name …).
    """

    seq: int
    kind: str
    key: str
    action: Literal["created", "changed", "removed", "revoked"]


class Changed(Message):
    """A change, as broadcast."""

    epoch: str
    change: Change


class PullChanges(Message):
    """Ask for what changed after `seq` of `epoch`: the answer renews the asker's lease.

    All that had to end with changes up to `settled` has ended; `ended` tells how many calls and streams that were, by
    change, since the last pull. `host` says where the asker runs.
    """

    epoch: str
    seq: int
    instance: str
    host: str = ""
    settled: int = -1
    ended: dict[int, int] = Field(default_factory=dict, max_length=MOST)


class Changes(Message):
    """What changed since. `reset` says that the asker knows too little: it must drop its cache first."""

    epoch: str
    seq: int
    changes: tuple[Change, ...] = ()
    reset: bool = False


class Committed(Message):
    """The numbers of the changes that an actor has made."""

    actor: str
    epoch: str
    first: int
    last: int


class GetReceipt(Authorized):
    """Wait until everybody acts on some changes, up to `wait_ms`, and say who does."""

    committed: Committed
    wait_ms: int = Field(1500, ge=0, le=10_000)


class Follower(Message):
    """A replica that follows the changes: as which connection, at which host and process.

    `ended` counts the calls and streams that it has ended for them. Unconfirmed, it may go on for `lease_ms` more.
    """

    caller: str
    host: str
    confirmed: bool
    ended: int
    lease_ms: int


class Receipt(Message):
    """Who has confirmed that it acts on the changes up to `last`; whose lease has run out can do nothing any more."""

    epoch: str
    last: int
    ms: int = Field(0, description="from the commit to the last confirmation")
    followers: tuple[Follower, ...]


@dataclass(frozen=True)
class Feed:
    """The numbered changes of one actor: broadcast at once, and pulled every second as a lease.

    `receipts` says that the actor also keeps who follows, and tells operators who has confirmed a change.
    """

    actor: Role
    followers: tuple[Role, ...]
    receipts: bool = True

    @property
    def pull(self) -> Call[PullChanges, Changes]:
        return Call(f"{self.actor}.changes", PullChanges, Changes, callers=self.followers, timeout=1.0, repeatable=True)

    @property
    def receipt(self) -> Call[GetReceipt, Receipt]:
        return Call(f"{self.actor}.receipt", GetReceipt, Receipt, callers=("operator",), timeout=15.0)

    @property
    def changed(self) -> Event[Changed]:
        return Event(f"{self.actor}.changed", Changed, listeners=self.followers)


def declared(module: ModuleType) -> Iterator[Call[Message, Message] | Event[Message]]:
    """Yield every call and event that a contract module declares, feeds included, in the order of writing."""
    for value in vars(module).values():
        if isinstance(value, Feed):
            yield value.pull  # type: ignore[misc]  # Call[PullChanges, Changes] is a call like any other
            if value.receipts:
                yield value.receipt  # type: ignore[misc]
            yield value.changed  # type: ignore[misc]
        elif isinstance(value, Call | Event):
            yield value
