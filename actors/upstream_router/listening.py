"""`subscriptions/listen`: each client's stream of changes, put together from those of the project's servers.

The router itself announces what no server can: another server in the project, other rights of the caller, a server that
went away or is back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec
import structlog

from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.project import Member, Project
from mcpctl.actors.upstream_router.upstream_changes import ACKNOWLEDGED, KINDS, UPDATED, Wanted
from mcpctl.bus.connection import Tasks
from mcpctl.bus.errors import BusError
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import (
    INVALID_PARAMS,
    Fields,
    capabilities_of,
    decode_fields,
    decode_value,
    encode,
    error_body,
    raw,
)

log = structlog.get_logger()

ACKNOWLEDGED_WITHIN = 2.0
"""Seconds that servers have to begin; one that takes longer is heard from when it has."""

URIS = 1000
"""Resources that one stream may be about."""

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

Seen = tuple[Access, Project, list[Member]]
Look = Callable[[], Awaitable[Seen]]


class Listen:
    """One client's stream. `look` tells what the caller sees now."""

    def __init__(self, call: Call, kinds: frozenset[str], uris: tuple[str, ...], look: Look) -> None:
        self._call, self.kinds, self._uris, self.look = call, kinds, uris, look
        self.seen: Seen | None = None
        self._members: dict[str, Member] = {}
        self._began = False
        self._waiting: dict[bytes, None] = {}
        self._tasks = Tasks()

    # --- as a listener of upstreams ---

    def list_changed(self, kind: str) -> None:
        self._say(b'{"jsonrpc":"2.0","method":"notifications/%s/list_changed"}' % kind.encode())

    def updated(self, server: str, uri: str, message: bytes) -> None:
        member = self._members.get(server)
        if member is None:
            return
        fields = decode_fields(message) if message else {"jsonrpc": raw("2.0"), "method": raw(UPDATED)}
        params: Fields = decode_fields(fields["params"]) if message else {}
        if SUBSCRIPTION_ID.encode() in message:
            meta = decode_fields(params.get("_meta", msgspec.Raw(b"{}")))
            meta.pop(SUBSCRIPTION_ID, None)
            if meta:
                params["_meta"] = raw(meta)
            else:
                del params["_meta"]
        params["uri"] = raw(member.naming.uri(uri))
        fields["params"] = raw(params)
        self._say(encode(fields))

    def _say(self, message: bytes) -> None:
        """Send a message once, however often it is said in one turn of the loop."""
        if not self._began:
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting[message] = None

    def _send(self) -> None:
        for message in self._waiting:
            self._call.push(message)
        self._waiting.clear()

    # --- beginning, looking again, ending ---

    async def begin(self) -> None:
        """Listen to the servers, and tell the client what of its wishes is honoured. Raises `BusError`."""
        self.seen = await self.look()
        honoured = await self._attach(self.seen)
        access, _, members = self.seen
        told: dict[str, object] = {f"{kind}ListChanged": True for kind in KINDS if self._honours(kind, members)}
        if uris := [uri for uri in self._uris if uri in honoured]:
            told["resourceSubscriptions"] = uris
        acknowledgement = {"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": {"notifications": told}}
        self._call.push(encode(acknowledgement))
        self._began = True
        log.debug("listening", project=access.view.project, servers=len(members), uris=len(honoured))

    def _honours(self, kind: str, members: list[Member]) -> bool:
        if kind not in self.kinds:
            return False
        known = [member.upstream.reached for member in members]
        return not members or any(info is None or kind in capabilities_of(info.result) for info in known)

    async def _attach(self, seen: Seen) -> set[str]:
        """Listen to just these servers; return the resources, by the client's names, that they will tell of."""
        _, project, members = seen
        left = {name: member for name, member in self._members.items() if member.upstream not in _upstreams(members)}
        self._members = {member.server: member for member in members}
        for member in left.values():
            member.upstream.changes.remove(self)
        honoured: set[str] = set()
        async with asyncio.TaskGroup() as attaching:
            for member in members:
                attaching.create_task(self._attach_one(project, member, honoured))
        return honoured

    async def _attach_one(self, project: Project, member: Member, honoured: set[str]) -> None:
        own = {}
        for uri in self._uris:
            if project.of_uri(uri) is member.naming and (original := member.naming.original_uri(uri)) is not None:
                own[original] = uri
        wanted = Wanted(self.kinds, frozenset(own))
        if not wanted:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(ACKNOWLEDGED_WITHIN):
                honoured.update(own[uri] for uri in await member.upstream.changes.add(self, wanted))

    async def look_again(self) -> None:
        """Follow a change of the project or of the caller's rights; say that the lists are others, if they may be."""
        try:
            seen = await self.look()
        except BusError:
            return  # whether the stream may go on at all is decided elsewhere
        before, self.seen = self.seen, seen
        if before is None:
            return
        same = before[0].scope == seen[0].scope and before[0].view.servers == seen[0].view.servers
        if same and _upstreams(before[2]) == _upstreams(seen[2]):
            return
        await self._attach(seen)
        for kind in sorted(self.kinds):
            self.list_changed(kind)

    def end(self) -> None:
        for member in self._members.values():
            member.upstream.changes.remove(self)
        self._members = {}


def _upstreams(members: list[Member]) -> list[object]:
    return [member.upstream for member in members]


class Listening:
    """All streams of changes of this router."""

    def __init__(self) -> None:
        self._listens: set[Listen] = set()
        self._tasks = Tasks()
        self._looking: asyncio.Task[None] | None = None
        self._changes = 0

    async def listen(self, call: Call, params: bytes, look: Look) -> Answer:
        """Send what changes until the call is ended. Raises `BusError`."""
        try:
            kinds, uris = _filter(params)
        except (ValueError, TypeError) as error:  # msgspec's errors are among these
            return Answer(result=None, error=error_body(INVALID_PARAMS, f"notifications: {error}"))
        stream = Listen(call, kinds, uris, look)
        self._listens.add(stream)
        try:
            await stream.begin()
            await asyncio.Event().wait()
        finally:
            self._listens.discard(stream)
            stream.end()
        raise AssertionError("nothing sets that event")

    def look_again(self) -> None:
        """Have every stream follow a change of projects or rights."""
        self._changes += 1
        if self._listens and (self._looking is None or self._looking.done()):
            self._looking = self._tasks.start(self._look_again())

    async def _look_again(self) -> None:
        looked = None
        while looked != self._changes:
            looked = self._changes
            await asyncio.sleep(0)  # the caches drop what the change concerns first
            for stream in list(self._listens):
                await stream.look_again()

    async def close(self) -> None:
        await self._tasks.cancel()


def _filter(params: bytes) -> tuple[frozenset[str], tuple[str, ...]]:
    """Read what a client wants to hear of: kinds of lists, and URIs. Raises `ValueError`, `TypeError`."""
    asked = decode_value(decode_fields(params)["notifications"]) if b'"notifications"' in params else None
    if not isinstance(asked, dict):
        raise ValueError("an object is missing")  # noqa: TRY004 - one fault of the request like the others
    uris = asked.get("resourceSubscriptions") or []
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
        raise ValueError("resourceSubscriptions must be a list of texts")
    if len(uris) > URIS:
        raise ValueError(f"resourceSubscriptions may name {URIS} resources")
    return frozenset(k for k in KINDS if asked.get(f"{k}ListChanged") is True), tuple(dict.fromkeys(uris))
