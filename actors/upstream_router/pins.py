"""Whether a server says of a tool what it said when the tool was first seen or last approved; else it is kept back.

The Catalog has the pins. The router compares them with each list that it fetches, and tells the Catalog what is new or
differs; what it has no pin for is listed and called only when the Catalog has taken it.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import msgspec
import structlog

from mcpctl.bus.cache import LeasedCache, Loaded
from mcpctl.bus.connection import Bus
from mcpctl.bus.contract import MOST, Change
from mcpctl.bus.contracts import pins
from mcpctl.bus.errors import DeadlineExceeded, Unavailable
from mcpctl.bus.feed import Follower
from mcpctl.bus.mcp_messages import decode_fields, decode_value

log = structlog.get_logger()

FOR_LONG = 3600.0
"""Seconds for which pins are kept: the feed drops them when a quarantine begins or ends."""

LOOK_AGAIN = 10.0
"""Seconds for which a server's tools are not listed again for a call of one that it did not list."""

AT_ONCE = 4 * 1024 * 1024
"""Characters of definitions in one report at the most."""

READ = 20_000
"""Listed definitions of which the digest is remembered, at the most."""

NOT_PINNED = ("_meta", "execution")
"""Members of a tool that do not count: `_meta` may change at any time, `execution` depends on the era spoken."""

Key = tuple[str, str]
"""A project and a server."""

Known = Mapping[str, pins.Pin]
"""A server's pins, by tool."""

Items = Sequence[msgspec.Raw]


class Pins:
    """The pins of servers, under the lease of the Catalog's feed."""

    def __init__(self, bus: Bus, follower: Follower) -> None:
        self._bus = bus
        self._known: LeasedCache[Key, Known] = LeasedCache(
            follower, self._load, concerns=lambda key, _, change: _is_about(change, key[1])
        )
        self._read: dict[bytes, tuple[str, str]] = {}
        self._looked: dict[Key, tuple[float, frozenset[str]]] = {}
        self._looking: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        follower.on_change.append(self._changed)

    def peek(self, project: str, server: str, tool: str) -> bool | None:
        """Tell whether a tool may be called; None where somebody must be asked first. This is the hot path."""
        known = self._known.peek((project, server))
        pin = None if known is None else known.get(tool)
        return None if pin is None else pin.pending is None

    async def allows(self, key: Key, tool: str, bearer: str, everything: Callable[[], AsyncIterator[Items]]) -> bool:
        """Tell whether a tool may be called; one that was never listed is looked for in `everything` first.

        What the server does not list has no definition to be pinned: the server is left to say that it is not there.
        Raises as `admitted` does.
        """
        pin = (await self._known.get(key, bearer)).get(tool)
        if pin is not None:
            return pin.pending is None
        lock = self._looking.setdefault(key, asyncio.Lock())
        async with lock:
            pin = (await self._known.get(key, bearer)).get(tool)
            at, left_out = self._looked.get(key, (-LOOK_AGAIN, frozenset()))
            if pin is None and time.monotonic() - at >= LOOK_AGAIN:
                left_out = await self._look(key, bearer, everything())
                pin = (await self._known.get(key, bearer)).get(tool)
        return tool not in left_out if pin is None else pin.pending is None

    async def _look(self, key: Key, bearer: str, pages: AsyncIterator[Items]) -> frozenset[str]:
        """Pin all tools of a server, and return those that cannot be pinned. Raises as `admitted` does."""
        names: set[str] = set()
        async for items in pages:
            names.update(str(decode_value(decode_fields(item)["name"])) for item in items)
            await self.admitted(key, bearer, items)
        left_out = frozenset(names - (await self._known.get(key, bearer)).keys())
        self._looked[key] = time.monotonic(), left_out
        return left_out

    async def admitted(self, key: Key, bearer: str, items: Items) -> list[msgspec.Raw]:
        """Return those of listed tools that are as they are pinned, once all are.

        Raises `BusError`, and `TypeError` or `KeyError` for what is no list of tools.
        """
        read = [(item, *found) for item in items if (found := self._digest(key[1], item)) is not None]
        known = await self._known.get(key, bearer)
        strange = [item for item, tool, digest in read if not _is_known(known.get(tool), digest)]
        for batch in _batches(strange):
            known = await self._report(key, bearer, batch)
        return [item for item, tool, digest in read if _is_as_pinned(known.get(tool), digest)]

    def _digest(self, server: str, item: bytes) -> tuple[str, str] | None:
        """Return a listed tool's name and the digest of its definition, None for one that cannot be pinned."""
        seen = hashlib.sha256(item).digest()
        found = self._read.get(seen)
        if found is None:
            try:
                definition = definition_of(item)
            except (ValueError, RecursionError) as error:  # pydantic's errors are among these
                log.warning("tool left out", server=server, reason=str(error)[:500])
                return None
            if len(self._read) >= READ:
                self._read.clear()
            found = self._read[seen] = definition.tool, definition.digest
        return found

    async def _report(self, key: Key, bearer: str, definitions: Sequence[pins.Definition]) -> Known:
        project, server = key
        asked = pins.ReportTools(bearer=bearer, project=project, server=server, definitions=tuple(definitions))
        try:
            answer = await self._bus.call(pins.report_tools, asked)
        except DeadlineExceeded as silence:
            raise Unavailable("the catalog actor does not answer") from silence
        self._known.drop(lambda held, _: held[1] == server)
        return _by_tool(answer)

    async def _load(self, key: Key, bearer: str) -> Loaded[Known]:
        project, server = key
        answer = await self._bus.call(pins.find_pins, pins.FindPins(bearer=bearer, project=project, server=server))
        return Loaded(answer.epoch, answer.seq, _by_tool(answer), FOR_LONG)

    def _changed(self, change: Change) -> None:
        self._known.drop(lambda key, _: _is_about(change, key[1]))
        if change.kind == "server":
            self._looked.clear()


def definition_of(item: bytes) -> pins.Definition:
    """Return what counts of a listed tool.

    Raises `ValueError`, `RecursionError` for what has no one meaning, and `TypeError`, `KeyError` for what is no tool.
    """
    members = json.loads(bytes(item), object_pairs_hook=_each_once)
    if not isinstance(members, dict):
        raise TypeError("a tool is no object")
    for name in NOT_PINNED:
        members.pop(name, None)
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return pins.Definition(tool=members["name"], text=text)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises `ValueError` where a member is there twice: readers would differ in which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a member is there twice")
    return found


def _is_known(pin: pins.Pin | None, digest: str) -> bool:
    return pin is not None and digest in (pin.digest, pin.pending)


def _is_as_pinned(pin: pins.Pin | None, digest: str) -> bool:
    return pin is not None and pin.pending is None and pin.digest == digest


def _batches(items: Iterable[bytes]) -> Iterator[list[pins.Definition]]:
    batch: list[pins.Definition] = []
    size = 0
    for item in items:
        definition = definition_of(item)
        if batch and (len(batch) == MOST or size + len(definition.text) > AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(definition)
        size += len(definition.text)
    if batch:
        yield batch


def _by_tool(answer: pins.Pins) -> Known:
    return {pin.tool: pin for pin in answer.items}


def _is_about(change: Change, server: str) -> bool:
    return change.kind in (pins.KIND, "server") and change.key == server
