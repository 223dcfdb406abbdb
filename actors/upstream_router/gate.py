"""The gate of a project: what becomes of a call whose caller has not been briefed yet, and the gate's own tools.

The SessionGate knows who is through; the router asks it, and enforces that.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

import msgspec
import structlog

from mcpctl.actors.upstream_router import gate_tools
from mcpctl.actors.upstream_router.briefing.briefings import Briefing, Briefings
from mcpctl.actors.upstream_router.briefing.choosing import Task, task_of_call
from mcpctl.actors.upstream_router.briefing.contents import Asker
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.passages import Passages
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import gate
from mcpctl.bus.contracts.catalog import GateSpec
from mcpctl.bus.errors import BusError
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import Params, decode_fields, decode_items, encode, raw
from mcpctl.bus.networks import Networks

log = structlog.get_logger()

TAGS_KEPT = 64

REFUSAL = (
    "Not done: this project briefs its agents before they use its tools. Call the tool begin_session first: say in "
    "`description` what you have been asked to do, and name `tags` that fit. Read what it returns, then make this "
    "call again."
)


class Gate:
    """Stops, briefs and lets through the callers of gated projects."""

    def __init__(self, bus: Bus, passages: Passages, audit: AuditWriter, networks: Networks) -> None:
        self._bus, self._passages, self._audit = bus, passages, audit
        self._briefings = Briefings(bus, networks)

    async def is_open(self, call: Call) -> bool:
        """Tell whether the caller is through. Raises `BusError`."""
        return await self._passages.of(call.head) is not None

    async def stop(self, asker: Asker, server: str, tool: str, params: Params) -> Answer | Briefing | None:
        """Return None for a call that may go on, else its refusal, or the briefing to put in front of its result.

        Raises `BusError`.
        """
        spec = asker.access.view.gate
        if spec is None or is_exempt(spec, server, tool) or await self.is_open(asker.call):
            return None
        if spec.mode != "brief":
            return failed(REFUSAL)
        return await self._briefings.of_call(asker, task_of_call(server, tool, _arguments(params)))

    async def brief(self, call: Call, briefing: Briefing, answer: Answer) -> Answer:
        """Put a briefing in front of a tool's result, and open the gate. Of several first calls, one brings it."""
        if answer.result is None:
            return answer
        fields = decode_fields(answer.result)
        if bytes(fields.get("resultType", b"")) == b'"input_required"':
            return answer  # no result yet: the briefing comes with the one that is
        try:
            if not await self._open(call, briefing, "call"):
                return answer
        except BusError as error:  # what was called has been done: its result is not lost for that
            log.warning("gate not opened", project=call.head.project, error=str(error))
        items = decode_items(fields.get("content", msgspec.Raw(b"[]")))
        fields["content"] = raw([_text(briefing.text), *items])
        return Answer(result=encode(fields), error=None)

    async def answer(self, asker: Asker, params: Params) -> Answer:
        """Answer a call of one of the gate's own tools. Raises `BusError`."""
        try:
            if params.name == gate_tools.BEGIN:
                begin = gate_tools.read_begin(_arguments(params))
                briefing = await self._briefings.of_task(asker, Task(tags_of(begin.tags), begin.description))
                await self._open(asker.call, briefing, "begin_session")
            else:
                read = gate_tools.read_read(_arguments(params))
                briefing = await self._briefings.more(asker, read.names, tags_of(read.tags))
                await self._note(asker.call, briefing)
        except ValueError as error:
            return failed(str(error))
        return Answer(result=encode({"resultType": "complete", "content": [_text(briefing.text)]}), error=None)

    async def _open(self, call: Call, briefing: Briefing, by: Literal["begin_session", "call"]) -> bool:
        """Let the caller through, and tell whether the gate was closed until now. Raises `BusError`."""
        head = call.head
        asked = gate.OpenGate(
            bearer=head.bearer,
            project=head.project,
            session=head.session,
            by=by,
            tags=briefing.tags[:TAGS_KEPT],
            prompts=tuple(briefing.choices),
        )
        fresh = (await self._bus.call(gate.open_gate, asked)).fresh
        if fresh or by == "begin_session":
            await self._audit.append(_event(call, by, briefing))
        return fresh

    async def _note(self, call: Call, briefing: Briefing) -> None:
        head, tags, prompts = call.head, briefing.tags[:TAGS_KEPT], tuple(briefing.choices)
        asked = gate.NoteReading(
            bearer=head.bearer, project=head.project, session=head.session, tags=tags, prompts=prompts
        )
        await self._bus.call(gate.note_reading, asked)
        await self._audit.append(_event(call, gate_tools.READ, briefing))


def is_exempt(spec: GateSpec, server: str, tool: str) -> bool:
    """Tell whether a project's gate leaves a tool alone."""
    return any(fnmatchcase(f"{server}/{tool}", pattern) for pattern in spec.exempt)


def tags_of(texts: Sequence[str]) -> tuple[str, ...]:
    """Return what a model gives for tags in the form that tags have; what cannot be one is left out."""
    tags = ("".join(c if c.isalnum() or c in "._-" else "-" for c in text.casefold()).strip("._-") for text in texts)
    return tuple(dict.fromkeys(tag for tag in tags if tag and tag.isascii() and len(tag) <= 63))


def failed(text: str) -> Answer:
    """Return a tool's result that says to the model what is wrong (2026-07-28, server/tools, error handling)."""
    return Answer(result=encode({"resultType": "complete", "content": [_text(text)], "isError": True}), error=None)


def _event(call: Call, by: str, briefing: Briefing) -> dict[str, object]:
    return call.event("gate", "allow", name=by, rule=briefing.way, choices=briefing.choices)


def _arguments(params: Params) -> bytes | None:
    return None if params.arguments is msgspec.UNSET else bytes(params.arguments)


def _text(text: str) -> msgspec.Raw:
    return raw({"type": "text", "text": text})
