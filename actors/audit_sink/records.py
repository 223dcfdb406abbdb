"""From messages of the stream to records: whatever arrives becomes one, so that nothing can block the ledger."""

import hashlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import msgspec
import orjson
from msgspec import Meta

from mcpctl.bus.contract import ACTORS
from mcpctl.bus.contracts import audit
from mcpctl.bus.deliveries import Stored
from mcpctl.bus.identity import router_id, site_of
from mcpctl.bus.names import LABEL_PATTERN

LINE_BYTES = 128 * 1024
"""An event's size at the most."""

SHOWN = 200
"""Characters of an event that is no event, as far as they go into the ledger."""

Word = Annotated[str, Meta(max_length=512, pattern=r"^[^\x00]*\Z")]


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """An `audit.Event` that fits the ledger's columns and makes a lawful NATS subject.

    Every event comes by here, so it is read by msgspec, at a fifth of what the contract's own model takes.
    """

    id: Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,64}\Z")]
    at: Annotated[int, Meta(ge=0, lt=2**53)]
    kind: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}\Z")]
    outcome: audit.Outcome
    project: Annotated[str, Meta(pattern=LABEL_PATTERN)] | None = None
    principal: Annotated[str, Meta(pattern=r"^[A-Za-z0-9=_-]{1,512}\Z")] | None = None
    user: Word | None = None
    token_name: Word | None = None
    token_sha: Word | None = None
    gateway: str | None = None
    router: str | None = None
    server: Word | None = None
    method: str | None = None
    name: Word | None = None
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


OF_ROUTERS = frozenset({"call", "result", "server", "bus"})
"""What a router of a site may append; under its own id, whatever it says."""


@dataclass(frozen=True, slots=True)
class Record:
    """An event and its canonical text: sorted keys, no spaces, no nulls; fields of newer versions are kept."""

    event: Accepted
    text: bytes


def read(stored: Stored) -> Iterator[Record]:
    """Yield the records of one message of the stream, in its order."""
    writer = _writer(stored)
    acked = stored.headers.get(audit.ACKED, "")
    if writer in ACTORS and acked.isdigit() and int(acked) >= stored.seq:
        told = f"{writer} has the acknowledgement of message {acked}, and its next one is message {stored.seq}"
        yield notice("audit.stream", detail=f"the stream was set back: {told}")
    for index, line in enumerate(stored.data.split(b"\n")):
        if line:
            yield _read_line(line, writer, stored, index)


def _read_line(line: bytes, writer: str, stored: Stored, index: int) -> Record:
    try:
        if len(line) > LINE_BYTES:
            raise ValueError("longer than an event may be")
        fields = orjson.loads(line)
        if not isinstance(fields, dict):
            raise ValueError("no JSON object")  # noqa: TRY004 - as above
        if site_of(writer):
            fields["router"] = router_id(writer)
        elif writer not in ACTORS:
            fields["gateway"] = writer
        event = msgspec.convert(fields, Accepted)
        text = orjson.dumps({key: v for key, v in fields.items() if v is not None}, option=orjson.OPT_SORT_KEYS)
    except ValueError as error:  # msgspec's are among these
        return _unfit("malformed", "error", f"{error}; {_shown(line)}", writer, stored, index)
    if site_of(writer):
        if event.kind not in OF_ROUTERS:
            return _unfit("forged", "deny", f"a router may append calls only; {_shown(line)}", writer, stored, index)
    elif writer not in ACTORS and (event.kind != "edge" or event.outcome == "allow"):
        return _unfit("forged", "deny", f"a gateway may append refusals only; {_shown(line)}", writer, stored, index)
    return Record(event, text)


def _shown(line: bytes) -> str:
    return f"sha256 {hashlib.sha256(line).hexdigest()}: {line[:SHOWN].decode(errors='replace')!a}"


def _unfit(kind: str, outcome: audit.Outcome, detail: str, writer: str, stored: Stored, index: int) -> Record:
    """Return the record of a line that was not an event, under an id that a redelivery finds again."""
    place = hashlib.sha256(f"{stored.at}.{stored.seq}.{index}".encode()).hexdigest()[:24]
    fields = {"id": place, "at": stored.at // 1_000_000, "kind": f"audit.{kind}", "outcome": outcome, "detail": detail}
    fields["gateway" if writer not in ACTORS else "name"] = writer
    return of_fields(fields)


def of_message(stored: Stored, fault: str) -> Record:
    """Return the one record of a message that the database would not take."""
    return _unfit("malformed", "error", f"{fault}; {_shown(stored.data)}", _writer(stored), stored, -1)


def _writer(stored: Stored) -> str:
    return stored.subject.rpartition(".")[2]


def notice(kind: str, project: str | None = None, **members: object) -> Record:
    """Return a record of the sink's own, about the stream and the ledger: an error unless `members` say otherwise."""
    fields = {"id": secrets.token_hex(12), "at": time.time_ns() // 1_000_000, "kind": kind, "outcome": "error"}
    given = {name: value for name, value in (members | {"project": project}).items() if value is not None}
    return of_fields(fields | given)


def of_fields(fields: dict[str, object]) -> Record:
    return Record(msgspec.convert(fields, Accepted), orjson.dumps(fields, option=orjson.OPT_SORT_KEYS))
