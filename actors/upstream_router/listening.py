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
from mcpctl.actors.upstream_router.project import Member, Project, own_kinds
from mcpctl.actors.upstream_router.project_prompts import visible_prompts
from mcpctl.actors.upstream_router.upstream_changes import ACKNOWLEDGED, KINDS, UPDATED, Wanted
from mcpctl.bus.connection import Tasks
from mcpctl.bus.contracts.gate import key as passage_key
from mcpctl.bus.errors import BusError, Forbidden, Unauthenticated
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

AGAIN = 1.0
"""Seconds until rights are asked for again that could not be had."""

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

Seen = tuple[Access, Project, list[Member]]
Look = Callable[[], Awaitable[Seen]]


class Listen:
    """One client's stream. `look` tells what the caller sees now, `stale` whether that may have changed."""

    def __init__(
        self, call: Call, kinds: frozenset[str], uris: tuple[str, ...], look: Look, stale: Callable[["Listen"], bool]
    ) -> None:
        self._call, self._kinds, self._uris, self._look, self._stale = call, kinds, uris, look, stale
        self._seen: Seen | None = None
        self.looked = -1
        """The change of projects or rights after which it was last looked at."""

        self._members: dict[str, Member] = {}
        self.began = False
        self._waiting: dict[tuple[str, str, str], bytes] = {}

    # --- as a listener of upstreams ---

    def list_changed(self, server: str, kind: str) -> None:
        self._say(server, kind, "", b'{"jsonrpc":"2.0","method":"notifications/%s/list_changed"}' % kind.encode())

    def updated(self, server: str, uri: str, message: bytes) -> None:
        self._say(server, "", uri, message)

    def lost(self) -> None:
        self._call.end("stopping")  # whoever has the state now, if anybody has, is found by listening again

    def _say(self, server: str, kind: str, uri: str, message: bytes) -> None:
        """Send a message once, however often it is said in one turn of the loop."""
        if not self._waiting and self.began:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting[server, kind, uri] = message

    def _send(self) -> None:
        """Send what waits; what was heard since rights changed waits until they are looked at."""
        if not self.began or self._stale(self):
            return
        waiting, self._waiting = self._waiting, {}
        messages = dict.fromkeys(
            message if kind else self._renamed(server, uri, message)
            for (server, kind, uri), message in waiting.items()
            if self._is_about(server, kind)
        )
        for message in messages:
            self._call.push(message)

    def _is_about(self, server: str, kind: str) -> bool:
        if server == OURSELVES:
            return kind in self._kinds
        member = self._members.get(server)
        if member is None or self._seen is None:
            return False
        whole = self._seen[0].scope.sees_server(server)
        return whole if not kind else kind in self._kinds and (whole or kind == "tools")

    def _renamed(self, server: str, uri: str, message: bytes) -> bytes:
        fields = decode_fields(message) if message else {"jsonrpc": raw("2.0"), "method": raw(UPDATED)}
        params: Fields = decode_fields(fields["params"]) if message else {}
        if SUBSCRIPTION_ID.encode() in message:
            meta = decode_fields(params.get("_meta", msgspec.Raw(b"{}")))
            meta.pop(SUBSCRIPTION_ID, None)
            if meta:
                params["_meta"] = raw(meta)
            else:
                params.pop("_meta", None)
        params["uri"] = raw(self._members[server].naming.uri(uri))
        fields["params"] = raw(params)
        return encode(fields)

    # --- beginning, looking again, ending ---

    async def begin(self) -> None:
        """Listen to the servers, and tell the client what of its wishes is honoured. Raises `BusError`."""
        self._seen = seen = await self._look()
        self._attach(seen)
        with suppress(TimeoutError):
            async with asyncio.timeout(ACKNOWLEDGED_WITHIN):
                for member in seen[2]:
                    await member.upstream.changes.settled()
        honoured = {m.naming.uri(uri) for m in seen[2] for uri in m.upstream.changes.honoured(self)}
        self._kinds = frozenset(kind for kind in self._kinds if _offers(seen, kind))
        told: dict[str, object] = {f"{kind}ListChanged": True for kind in KINDS if kind in self._kinds}
        if uris := [uri for uri in self._uris if uri in honoured]:
            told["resourceSubscriptions"] = uris
        acknowledgement = {"jsonrpc": "2.0", "method": ACKNOWLEDGED, "params": {"notifications": told}}
        self._call.push(encode(acknowledgement))
        self.began = True
        self._send()
        log.debug("listening", project=seen[0].view.project, servers=len(seen[2]), uris=len(honoured))

    def _attach(self, seen: Seen) -> None:
        """Listen to just these servers, for what the caller may see of each."""
        _, _, members = seen
        older, self._members = self._members, {member.server: member for member in members}
        for member in members:
            member.upstream.changes.put(self, self._wanted(seen, member))
        for name, member in older.items():
            now = self._members.get(name)
            if now is None or now.upstream is not member.upstream:
                member.upstream.changes.remove(self)

    def _wanted(self, seen: Seen, member: Member) -> Wanted:
        """Return what to hear of one server: who may use some of its tools alone hears of tools alone."""
        access, project, _ = seen
        if not access.scope.sees_server(member.server):
            return Wanted(self._kinds & {"tools"})
        own = (member.naming.original_uri(uri) for uri in self._uris if project.of_uri(uri) is member.naming)
        return Wanted(self._kinds, frozenset(uri for uri in own if uri is not None))

    def gate_changed(self, key: str) -> None:
        """Follow an opened or closed gate: where the tools are listed by it, the list is another one now."""
        head, principal = self._call.head, self._call.principal
        gate = self._seen[0].view.gate if self._seen is not None else None
        if gate is None or gate.mode == "strict" or principal is None:
            return
        if key in (passage_key(head.project, principal.sha), passage_key(head.project, principal.sha, head.session)):
            self.list_changed(OURSELVES, "tools")

    def pins_changed(self, server: str) -> None:
        """Follow a quarantine that began or ended at a server."""
        if self._seen is not None and self._seen[0].view.pin_tools:
            self.list_changed(server, "tools")

    async def look_again(self, change: int) -> bool:
        """Follow a change of the project or of the caller's rights; say which lists are others. False: not yet."""
        try:
            seen = await self._look()
        except (Unauthenticated, Forbidden):
            self.looked = change  # the call is about to be ended for that
            return True
        except BusError:
            return False
        before, self._seen, self.looked = self._seen, seen, change
        kinds = KINDS if before is None else _kinds_changed(before, seen)
        if kinds:
            self._attach(seen)
        for kind in kinds:
            self.list_changed(OURSELVES, kind)
        self._send()
        return True

    def end(self) -> None:
        for member in self._members.values():
            member.upstream.changes.remove(self)
        self._members = {}


OURSELVES = ""
"""Stands for a server's name in what the router itself announces."""


def _offers(seen: Seen, kind: str) -> bool:
    """Tell whether the caller may see a list of this kind; a server that is away may have any."""
    access, _, members = seen
    visible = [m.upstream.reached for m in members if kind == "tools" or access.scope.sees_server(m.server)]
    if kind in own_kinds(access):
        return True
    return not members or any(info is None or kind in capabilities_of(info.result) for info in visible)


def _kinds_changed(before: Seen, after: Seen) -> tuple[str, ...]:
    """Return the lists that may be others now."""
    if _shape(before) != _shape(after):
        return KINDS
    own = _own_kinds_changed(before[0], after[0])
    if before[0].scope == after[0].scope:
        return own
    return ("tools", *(kind for kind in own if kind != "tools")) if _whole(before) == _whole(after) else KINDS


def _own_kinds_changed(before: Access, after: Access) -> tuple[str, ...]:
    """Return the lists of which the project's own part may be another one now: its prompts, and the gate's tools."""
    prompts = visible_prompts(before) != visible_prompts(after)
    gated = before.view.gate != after.view.gate
    pinned = before.view.pin_tools != after.view.pin_tools
    tools = gated or pinned or (prompts and after.view.gate is not None)
    return tuple(kind for kind, is_other in (("prompts", prompts), ("tools", tools)) if is_other)


def _shape(seen: Seen) -> tuple[bool, list[object]]:
    """Return under which names which servers are seen."""
    return seen[0].view.prefixed, [(member.upstream, member.naming.server.slug) for member in seen[2]]


def _whole(seen: Seen) -> list[str]:
    return [member.server for member in seen[2] if seen[0].scope.sees_server(member.server)]


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
        stream = Listen(call, kinds, uris, look, self._is_stale)
        stream.looked = self._changes
        self._listens.add(stream)
        try:
            await stream.begin()
            if self._is_stale(stream):
                self._go_on()
            await asyncio.get_running_loop().create_future()
        finally:
            self._listens.discard(stream)
            stream.end()
        raise AssertionError("nothing sets that future")

    def _is_stale(self, stream: Listen) -> bool:
        return stream.looked != self._changes

    def look_again(self) -> None:
        """Have every stream follow a change of projects or rights."""
        self._changes += 1
        self._go_on()

    def gate_changed(self, key: str) -> None:
        """Tell those whose passage this is (`contracts.gate.key`) that their tools may be others now."""
        for stream in self._listens:
            stream.gate_changed(key)

    def pins_changed(self, server: str) -> None:
        """Tell those who see a server that other tools of it are in quarantine now."""
        for stream in self._listens:
            stream.pins_changed(server)

    def _go_on(self) -> None:
        if self._listens and (self._looking is None or self._looking.done()):
            self._looking = self._tasks.start(self._look_again())

    async def _look_again(self) -> None:
        while stale := [stream for stream in self._listens if stream.began and self._is_stale(stream)]:
            await asyncio.sleep(0)  # the caches drop what the change concerns first
            change, later = self._changes, False
            for stream in stale:
                if stream in self._listens:
                    later |= not await stream.look_again(change)
            if later:
                await asyncio.sleep(AGAIN)

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
