"""Lists: one server's passed through, or those of several merged; never with what the caller may not see."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.era import TTL_LIMIT_MS, complete
from mcpctl.actors.upstream_router.project import Member, offered_by
from mcpctl.bus.errors import BadGateway, BusError, DeadlineExceeded
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import (
    IMPLEMENTATION,
    MODERN_MEMBERS,
    SERVER_INFO,
    Fields,
    decode_fields,
    decode_items,
    decode_value,
    encode,
    raw,
)

Notify = Callable[[str, bytes], None]

LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
"""Each list method, and the member of its result that holds the items."""

PAGES = 100
"""Pages of one upstream's list that are read for a merged one, at the most."""

UNAVAILABLE = "mcpctl/unavailable"
"""Key in the `_meta` of a merged list: each server that is missing from it, and why."""

MALFORMED = (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError, RecursionError)
"""What reading an answer raises that is not what MCP says."""


@dataclass(slots=True)
class Part:
    """One server's share of a merged list, and the reason where it is not all there."""

    items: list[bytes] = field(default_factory=list)
    ttl: int = TTL_LIMIT_MS
    reason: str | None = None


def visible(access: Access, server: str, method: str) -> Callable[[bytes], bool]:
    """Return the test of a listed item: a tool needs `view` on itself or its server, all else on the server."""
    if access.scope.sees_server(server):
        return lambda _: True
    if method != "tools/list":
        return lambda _: False
    return lambda item: access.scope.sees_tool(server, decode_value(decode_fields(item)["name"]))


async def list_one(
    member: Member, access: Access, method: str, params: bytes, timeout: float, notify: Notify
) -> Answer:
    """List a single server: its own pages, without what the caller may not see. Raises `BusError`."""
    answer = await member.upstream.request(method, params, notify=notify, timeout=timeout)
    if answer.result is None:
        return answer
    try:
        fields = decode_fields(answer.result)
        sees = visible(access, member.server, method)
        fields[LISTS[method]] = raw([item for item in _items(fields, method) if sees(item)])
    except MALFORMED as error:
        raise BadGateway(f"server {member.server} answered {method} with what is no list") from error
    fields["ttlMs"] = raw(_ttl(fields))
    return Answer(result=encode(fields), error=None)


async def list_all(
    members: Sequence[Member], access: Access, method: str, params: bytes, timeout: float, *, blame: bool
) -> Answer:
    """List all servers, in the project's order: one that is away or slow is left out, with the reason.

    With `blame` a server that lets `timeout` seconds pass is left out of later lists too, until it is reached again.
    """
    parts = await asyncio.gather(*(_part(member, access, method, params, timeout, blame=blame) for member in members))
    missing = {member.server: part.reason for member, part in zip(members, parts, strict=True) if part.reason}
    meta: dict[str, Any] = {SERVER_INFO: msgspec.Raw(IMPLEMENTATION)}
    if missing:
        meta[UNAVAILABLE] = missing
    result: Fields = {
        LISTS[method]: raw([msgspec.Raw(item) for part in parts for item in part.items]),
        "ttlMs": raw(0 if missing else min((part.ttl for part in parts), default=TTL_LIMIT_MS)),
        "_meta": raw(meta),
    }
    return Answer(result=encode(complete(result, method)), error=None)


async def _part(member: Member, access: Access, method: str, params: bytes, timeout: float, *, blame: bool) -> Part:
    upstream, part = member.upstream, Part()
    if upstream.fault is not None:
        return Part(reason=upstream.fault)
    try:
        async with asyncio.timeout(timeout):
            pages, part.reason = await _pages(member, method, params, timeout)
        sees = visible(access, member.server, method)
        for page in pages:
            part.ttl = min(part.ttl, _ttl(page))
            part.items += [member.naming.item(item) for item in _items(page, method) if sees(item)]
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


async def _pages(member: Member, method: str, params: bytes, timeout: float) -> tuple[list[Fields], str | None]:
    """Return a server's pages, and the reason where they are not all there. Raises `BusError`."""
    offered = offered_by((await member.upstream.connected()).result)
    if method.partition("/")[0] not in offered:
        return [], None
    pages: list[Fields] = []
    while len(pages) < PAGES:
        answer = await member.upstream.request(method, _at_cursor(params, pages), timeout=timeout)
        if answer.result is None:
            return pages, _text_of(answer)
        pages.append(decode_fields(answer.result))
        if "nextCursor" not in pages[-1]:
            return pages, None
    return pages, f"server {member.server} has more than {PAGES} pages of {method}"


async def uncut(member: Member, name: str, timeout: float) -> str | None:
    """Look a cut tool name up in the server's catalogue; None where it is not there, or cannot be had."""
    try:
        async with asyncio.timeout(timeout):
            pages, _ = await _pages(member, "tools/list", b'{"_meta":{' + MODERN_MEMBERS + b"}}", timeout)
        names = [
            str(decode_value(decode_fields(item)["name"])) for page in pages for item in _items(page, "tools/list")
        ]
    except (TimeoutError, BusError, *MALFORMED):
        return None
    return next((original for original in names if member.naming.tool_name(original) == name), None)


def _items(page: Fields, method: str) -> list[msgspec.Raw]:
    return decode_items(page.get(LISTS[method], msgspec.Raw(b"[]")))


def _at_cursor(params: bytes, pages: list[Fields]) -> bytes:
    fields = decode_fields(params)
    fields.pop("cursor", None)
    if pages:
        fields["cursor"] = pages[-1]["nextCursor"]
    return encode(fields)


def _text_of(answer: Answer) -> str:
    error = decode_value(answer.error or b"{}")
    return str(error.get("message", "error")) if isinstance(error, dict) else "error"


def _ttl(fields: Fields) -> int:
    try:
        return max(0, min(TTL_LIMIT_MS, int(decode_value(fields.get("ttlMs", b"0")))))
    except (msgspec.DecodeError, ValueError, TypeError):
        return 0
