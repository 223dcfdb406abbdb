"""Lists: one server's passed through, or those of several merged; never with what the caller may not see."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog

from mcpctl.actors.upstream_router import tool_headers
from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.era import TTL_LIMIT_MS, complete
from mcpctl.actors.upstream_router.hidden_text import readable_items
from mcpctl.actors.upstream_router.list_cursors import Cursors
from mcpctl.actors.upstream_router.project import Member
from mcpctl.bus.errors import BadGateway, BusError, DeadlineExceeded
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import (
    IMPLEMENTATION,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MODERN_MEMBERS,
    SERVER_INFO,
    Fields,
    capabilities_of,
    decode_fields,
    decode_items,
    decode_value,
    encode,
    error_body,
    raw,
)

log = structlog.get_logger()

Notify = Callable[[str, bytes], None]

LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
"""Each list method, and the member of its result that holds the items."""

PAGES = 100
"""Pages of one upstream's list that are read to find a cut name, or that a merged list goes on for, at the most."""

ITEMS = 5000
"""Items of one upstream on a page at the most; what is beyond is left out."""

LONGEST_REASON = 500
"""Characters of what a server says about its own failure that are repeated in a list."""

PAGE = ""
"""In a cursor, in the place of a server's name: the number of pages before it."""

UNAVAILABLE = "mcpctl/unavailable"
"""Key in the `_meta` of a merged list: each server that is missing from it, and why."""

MALFORMED = (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError, RecursionError)
"""What reading an answer raises that is not what MCP says."""


@dataclass(slots=True)
class Part:
    """One server's share of a page, and the reason where there is none."""

    items: list[bytes] = field(default_factory=list)
    ttl: int = TTL_LIMIT_MS
    next_cursor: msgspec.Raw | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Own:
    """What a list has of the project itself: `items` before those of its servers, of whose tools `shows` tells some."""

    items: Sequence[bytes] = ()
    shows: Callable[[str, str], bool] | None = None


NOTHING_OWN = Own()


def visible(access: Access, server: str, method: str, own: Own = NOTHING_OWN) -> Callable[[bytes], bool]:
    """Return the test of a listed item: a tool needs `view` on itself or its server, all else on the server."""
    shows = own.shows
    if shows is not None and method == "tools/list":
        return lambda item: shows(server, _name(item)) and access.scope.sees_tool(server, _name(item))
    if access.scope.sees_server(server):
        return lambda _: True
    if method != "tools/list":
        return lambda _: False
    return lambda item: access.scope.sees_tool(server, _name(item))


def _name(item: bytes) -> str:
    return str(decode_value(decode_fields(item)["name"]))


async def list_one(
    member: Member, access: Access, method: str, params: bytes, timeout: float, notify: Notify
) -> Answer:
    """List a single server: its own names, pages and cursors, without what the caller may not see.

    Raises `BusError`.
    """
    answer = await member.upstream.request(method, params, notify=notify, timeout=timeout)
    if answer.result is None:
        return answer
    try:
        fields = decode_fields(answer.result)
        reason = _excess(member, method, fields, decode_fields(params).get("cursor"))
        fields[LISTS[method]] = raw([msgspec.Raw(item) for item in await _shown(member, access, method, fields)])
        if reason is not None:
            meta = decode_fields(fields.get("_meta", b"{}"))
            fields["_meta"] = raw(meta | {UNAVAILABLE: raw({member.server: reason})})
    except MALFORMED as error:
        raise BadGateway(f"server {member.server} answered {method} with what is no list") from error
    fields["ttlMs"] = raw(_ttl(fields))
    return Answer(result=encode(fields), error=None)


async def list_all(
    members: Sequence[Member],
    access: Access,
    method: str,
    params: bytes,
    timeout: float,
    cursors: Cursors,
    *,
    own: Own = NOTHING_OWN,
    blame: bool,
) -> Answer:
    """List all servers side by side, a page of each at once, in the project's order; first what is the project's own.

    A server that is away or slow is left out, with the reason. The cursor asks for the next pages of those that have
    one; a server that went away meanwhile has none. With `blame` a server that lets `timeout` seconds pass is left out
    of later lists too, until it is reached again.
    """
    try:
        left = cursors.left(params)
    except ValueError as error:
        return Answer(result=None, error=error_body(INVALID_PARAMS, str(error)))
    if left is not None:
        members = [member for member in members if member.server in left]
    asked = [(member, None if left is None else left[member.server]) for member in members]
    parts = await asyncio.gather(*(_part(m, access, method, params, c, timeout, own, blame=blame) for m, c in asked))
    of = dict(zip((member.server for member in members), parts, strict=True))
    pages = 0 if left is None else int(decode_value(left.get(PAGE, b"0")))
    for server, part in of.items():
        if part.next_cursor is not None and pages + 1 >= PAGES:
            part.next_cursor = None
            part.reason = f"server {server} has more than {PAGES} pages of {method}: the rest is left out"
    missing = {server: part.reason for server, part in of.items() if part.reason}
    meta: dict[str, Any] = {SERVER_INFO: msgspec.Raw(IMPLEMENTATION)}
    if missing:
        meta[UNAVAILABLE] = missing
    listed = [item for part in parts for item in part.items]
    if own.items:
        taken = {_name(item) for item in own.items}
        listed = [item for item in listed if _name(item) not in taken]
        listed = listed if left is not None else [*own.items, *listed]
    result: Fields = {
        LISTS[method]: raw([msgspec.Raw(item) for item in listed]),
        "ttlMs": raw(0 if missing or own.items else min((part.ttl for part in parts), default=TTL_LIMIT_MS)),
        "_meta": raw(meta),
    }
    further = {server: part.next_cursor for server, part in of.items() if part.next_cursor is not None}
    if further:
        result["nextCursor"] = cursors.of(further | {PAGE: raw(pages + 1)})
    return Answer(result=encode(complete(result, method)), error=None)


async def _part(
    member: Member,
    access: Access,
    method: str,
    params: bytes,
    cursor: msgspec.Raw | None,
    timeout: float,
    own: Own,
    *,
    blame: bool,
) -> Part:
    upstream, part = member.upstream, Part()
    if upstream.fault is not None:
        return Part(reason=upstream.fault)
    try:
        async with asyncio.timeout(timeout):
            page = await _page(member, method, params, cursor, timeout)
        if isinstance(page, str):
            return Part(reason=page)
        part.reason = _excess(member, method, page, cursor)
        part.ttl, part.next_cursor = _ttl(page), _next(page)
        part.items = await _shown(member, access, method, page, own)
    except TimeoutError:
        part.reason = f"server {member.server} did not answer {method} within {timeout:.1f} s"
        if blame:
            upstream.mark_faulty(part.reason)
    except (BadGateway, DeadlineExceeded) as error:
        part.reason = str(error)
        upstream.mark_faulty(part.reason)
    except BusError as error:
        part.reason = str(error)
    except MALFORMED:
        return Part(reason=f"server {member.server} answered {method} with what is no list")
    return part


async def _page(member: Member, method: str, params: bytes, cursor: msgspec.Raw | None, timeout: float) -> Fields | str:
    """Return a page of a server's list, or what it says instead. Raises `BusError`, and as `MALFORMED` says."""
    if cursor is None and method.partition("/")[0] not in capabilities_of((await member.upstream.connected()).result):
        return {}
    answer = await member.upstream.request(method, _at_cursor(params, cursor), timeout=timeout)
    if answer.result is not None:
        return decode_fields(answer.result)
    error = decode_value(answer.error or b"{}")
    if isinstance(error, dict) and error.get("code") == METHOD_NOT_FOUND:
        return {}  # it has resources, but no templates
    said = error.get("message") if isinstance(error, dict) else None
    return f"server {member.server}: {str(said)[:LONGEST_REASON] if said else 'an error without a message'}"


async def every_tool(member: Member, timeout: float) -> AsyncIterator[Sequence[msgspec.Raw]]:
    """Yield all tools of a server, page by page, of which each may take `timeout` seconds. Raises `BusError`."""
    params, cursor = b'{"_meta":{' + MODERN_MEMBERS + b"}}", None
    try:
        for _ in range(PAGES):
            page = await _page(member, "tools/list", params, cursor, timeout)
            if isinstance(page, str):
                raise BadGateway(page)
            yield _items(member, "tools/list", page)
            cursor = _next(page)
            if cursor is None:
                return
    except MALFORMED as error:
        raise BadGateway(f"server {member.server} answered tools/list with what is no list") from error


async def uncut(member: Member, name: str, timeout: float) -> str | None:
    """Look a cut tool name up in the server's catalogue; None where it is not there, or cannot be had."""
    try:
        async with asyncio.timeout(timeout):
            async for items in every_tool(member, timeout):
                for item in items:
                    original = _name(item)
                    if member.naming.tool_name(original) == name:
                        return original
    except (TimeoutError, BusError, *MALFORMED):
        return None
    return None


async def _shown(member: Member, access: Access, method: str, page: Fields, own: Own = NOTHING_OWN) -> list[bytes]:
    """Return what the caller may see of a page, under the names that it uses. Raises `BusError`."""
    sees = visible(access, member.server, method, own)
    items = _items(member, method, page)
    if method == "tools/list" and member.admit is not None:
        items = await member.admit(items)
    return [member.naming.item(item) for item in items if sees(item)]


def _items(member: Member, method: str, page: Fields) -> list[msgspec.Raw]:
    items = readable_items(decode_items(page.get(LISTS[method], msgspec.Raw(b"[]")))[:ITEMS])
    return tool_headers.admitted(member.upstream, items) if method == "tools/list" else items


def _excess(member: Member, method: str, page: Fields, cursor: msgspec.Raw | None) -> str | None:
    """Return why a page of a server is not whole; a cursor that leads back to the page is taken out of it."""
    if cursor is not None and bytes(page.get("nextCursor", b"null")) == bytes(cursor) != b"null":
        del page["nextCursor"]
        return f"server {member.server} says that a page of {method} follows itself"
    if len(decode_items(page.get(LISTS[method], msgspec.Raw(b"[]")))) > ITEMS:
        log.warning("list cut", server=member.server, method=method)
        return f"server {member.server} lists more than {ITEMS} at once for {method}: the rest is left out"
    return None


def _next(page: Fields) -> msgspec.Raw | None:
    """Return a page's cursor. Raises `TypeError` where it is none."""
    cursor = page.get("nextCursor")
    if cursor is None or bytes(cursor) == b"null":
        return None
    if not bytes(cursor).startswith(b'"'):
        raise TypeError("nextCursor is not a text")
    return cursor


def _at_cursor(params: bytes, cursor: msgspec.Raw | None) -> bytes:
    fields = decode_fields(params)
    fields.pop("cursor", None)
    if cursor is not None:
        fields["cursor"] = cursor
    return encode(fields)


def _ttl(fields: Fields) -> int:
    try:
        return max(0, min(TTL_LIMIT_MS, int(decode_value(fields.get("ttlMs", b"0")))))
    except (msgspec.DecodeError, ValueError, TypeError):
        return 0
