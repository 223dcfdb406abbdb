"""What a project answers: one upstream passed through, or several merged under prefixes."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.era import TTL_LIMIT_MS, complete
from mcpctl.actors.upstream_router.naming import SEPARATOR, UI, Naming
from mcpctl.actors.upstream_router.upstreams import Upstream
from mcpctl.bus.contracts.catalog import View
from mcpctl.bus.errors import BusError
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import (
    IMPLEMENTATION,
    INVALID_PARAMS,
    MODERN,
    MODERN_MEMBERS,
    SERVER_INFO,
    Fields,
    Params,
    decode_fields,
    decode_items,
    decode_value,
    encode,
    error_body,
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

RELAYED_CAPABILITIES = ("completions", "logging", "prompts", "resources", "tools")
PAGES = 100
"""Pages of one upstream's list that are read for a merged one, at the most."""

UNAVAILABLE = "mcpctl/unavailable"
"""Key in the `_meta` of a merged list: each server that is missing from it, and why."""


@dataclass(frozen=True, slots=True)
class Member:
    """One server of the project: how it is reached, and how its names appear."""

    upstream: Upstream
    naming: Naming

    @property
    def server(self) -> str:
        return self.upstream.server.name


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: the server, the name that the server knows, and the params that say so.

    Without a `naming` nothing here has that name, or nothing that this caller may see: the two are answered alike.
    """

    naming: Naming | None
    name: str | None
    params: bytes
    rule: str


class Project:
    """The servers of one view, found by the names that a client uses; `server` narrows it to a single one."""

    def __init__(self, view: View, server: str | None) -> None:
        self.view = view
        servers = [s for s in view.servers if server in (None, s.name)]
        prefixed = server is None and len(view.servers) > 1
        self.namings = [Naming(s, prefixed) for s in servers]
        self._by_slug = {naming.server.slug: naming for naming in self.namings}
        self._single = self.namings[0] if self.namings and not prefixed else None

    def of_name(self, name: str) -> Naming | None:
        """Return the server whose tool or prompt would have this name."""
        return self._single or self._by_slug.get(name.partition(SEPARATOR)[0])

    def of_uri(self, uri: str) -> Naming | None:
        """Return the server whose resource would have this URI."""
        if self._single is not None:
            return self._single
        slug = uri.removeprefix(UI).partition("/")[0] if uri.startswith(UI) else uri.partition("+")[0]
        return self._by_slug.get(slug)


async def info_of(member: Member, patience: float) -> bytes | None:
    """Return what a server says of itself, or None where it does not within `patience` seconds."""
    if member.upstream.fault is not None:
        return None
    try:
        async with asyncio.timeout(patience):
            return (await member.upstream.connected()).result
    except TimeoutError:
        member.upstream.mark_faulty(f"server {member.server} did not connect within {patience:.1f} s")
    except BusError as error:
        member.upstream.mark_faulty(str(error))
    return None


def discover(members: Sequence[Member], infos: Sequence[bytes | None]) -> bytes:
    """Return the result of `server/discover` for a project, from those of its servers (None: away)."""
    capabilities: dict[str, Any] = {}
    instructions = []
    for member, info in zip(members, infos, strict=True):
        said = decode_value(info) if info is not None else {}
        offered = said.get("capabilities") or {}
        # A server that is away may offer anything: what it offers is asked again at each list.
        names = RELAYED_CAPABILITIES if info is None else [c for c in RELAYED_CAPABILITIES if c in offered]
        capabilities.update({name: {} for name in names if name != "logging" or info is not None})
        text = said.get("instructions")
        if isinstance(text, str) and text:
            instructions.append(text if len(members) == 1 else f"# {member.naming.server.slug}\n\n{text}")
    result: dict[str, Any] = {
        "supportedVersions": [MODERN],
        "capabilities": dict(sorted(capabilities.items())),
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {SERVER_INFO: msgspec.Raw(IMPLEMENTATION)},
    }
    if instructions:
        result["instructions"] = "\n\n".join(instructions)
    return encode(result)


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
    """List a single server: its own pages, without what the caller may not see."""
    answer = await member.upstream.request(method, params, notify=notify, timeout=timeout)
    if answer.result is None:
        return answer
    fields = decode_fields(answer.result)
    items = decode_items(fields.get(LISTS[method], msgspec.Raw(b"[]")))
    sees = visible(access, member.server, method)
    fields[LISTS[method]] = raw([item for item in items if sees(item)])
    fields["ttlMs"] = raw(_ttl(fields))
    return Answer(result=encode(fields), error=None)


async def list_all(members: Sequence[Member], access: Access, method: str, params: bytes, timeout: float) -> Answer:
    """List all servers, in the project's order: one that is away or slow is left out, with the reason."""
    parts = await asyncio.gather(*(_part(member, method, params, timeout) for member in members))
    items: list[bytes] = []
    missing: dict[str, str] = {}
    ttl = TTL_LIMIT_MS
    for member, (pages, reason) in zip(members, parts, strict=True):
        if reason is not None:
            missing[member.server] = reason
        sees = visible(access, member.server, method)
        for page in pages:
            ttl = min(ttl, _ttl(page))
            items += [
                member.naming.item(i) for i in decode_items(page.get(LISTS[method], msgspec.Raw(b"[]"))) if sees(i)
            ]
    result: Fields = {
        LISTS[method]: raw([msgspec.Raw(item) for item in items]),
        "ttlMs": raw(0 if missing else ttl),
    }
    meta: dict[str, Any] = {SERVER_INFO: msgspec.Raw(IMPLEMENTATION)}
    if missing:
        meta[UNAVAILABLE] = missing
    result["_meta"] = raw(meta)
    return Answer(result=encode(complete(result, method)), error=None)


async def _part(member: Member, method: str, params: bytes, timeout: float) -> tuple[list[Fields], str | None]:
    """Return one server's pages, and the reason where they are not all there."""
    upstream = member.upstream
    if upstream.fault is not None:
        return [], upstream.fault
    pages: list[Fields] = []
    try:
        async with asyncio.timeout(timeout):
            offered = decode_value((await upstream.connected()).result).get("capabilities", {})
            if method.partition("/")[0] not in offered:
                return [], None
            while len(pages) < PAGES:
                answer = await upstream.request(method, _at_cursor(params, pages), timeout=timeout)
                if answer.result is None:
                    return pages, _text_of(answer)
                pages.append(decode_fields(answer.result))
                if "nextCursor" not in pages[-1]:
                    return pages, None
            return pages, f"more than {PAGES} pages"
    except TimeoutError:
        reason = f"server {member.server} did not answer {method} within {timeout:.1f} s"
    except BusError as error:
        reason = str(error)
    upstream.mark_faulty(reason)
    return pages, reason


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


def route_tool(project: Project, access: Access, params: bytes, asked: Params, original: str | None) -> Route:
    """Find the server of a tool call, and decide: `run` on the server or the tool.

    `original` is the server's own name where the catalogue had to be asked for it.
    """
    name = asked.name if isinstance(asked.name, str) else ""
    naming = project.of_name(name)
    if naming is not None:
        original = original or naming.original_name(name) or ""
        if access.scope.runs_tool(naming.server.name, original):
            rule = f"run on tools {naming.server.name}/{original}"
            return Route(naming, original, _renamed(params, "name", name, original), rule)
    return Route(None, name, params, f"run on tool {name}: not granted, or no such tool")


async def uncut(member: Member, name: str, timeout: float) -> str | None:
    """Look a cut tool name up in the server's catalogue."""
    pages, _ = await _part(member, "tools/list", b'{"_meta":{' + MODERN_MEMBERS + b"}}", timeout)
    for page in pages:
        for item in decode_items(page.get("tools", msgspec.Raw(b"[]"))):
            original = str(decode_value(decode_fields(item)["name"]))
            if member.naming.name(original) == name:
                return original
    return None


def route_prompt(project: Project, access: Access, params: bytes, asked: Params) -> Route:
    """Find the server of a prompt: it needs `view` on the server."""
    name = asked.name if isinstance(asked.name, str) else ""
    naming = project.of_name(name)
    if naming is not None and access.scope.sees_server(naming.server.name):
        original = naming.original_name(name) or ""
        return Route(naming, original, _renamed(params, "name", name, original), _view_on(naming))
    return Route(None, name, params, f"view on the server of prompt {name}: not granted, or no such prompt")


def route_resource(project: Project, access: Access, params: bytes, asked: Params) -> Route:
    """Find the server of a resource: it needs `view` on the server."""
    uri = asked.uri if isinstance(asked.uri, str) else ""
    naming = project.of_uri(uri)
    if naming is not None and access.scope.sees_server(naming.server.name):
        original = naming.original_uri(uri) or ""
        return Route(naming, original, _renamed(params, "uri", uri, original), _view_on(naming))
    return Route(None, uri, params, "view on the server of this resource: not granted, or no such resource")


def route_completion(project: Project, access: Access, params: bytes) -> Route:
    """Find the server of a completion: that of the prompt or the resource that `ref` names."""
    fields = decode_fields(params)
    try:
        reference = decode_fields(fields.get("ref", msgspec.Raw(b"{}")))
        member = "uri" if "uri" in reference else "name"
        text = str(decode_value(reference.get(member, b'""')))
    except (msgspec.DecodeError, ValueError):
        return Route(None, "", params, "no ref")
    naming = project.of_uri(text) if member == "uri" else project.of_name(text)
    if naming is None or not access.scope.sees_server(naming.server.name):
        return Route(None, text, params, "view on the server of this reference: not granted, or no such reference")
    reference[member] = raw(naming.original_uri(text) if member == "uri" else naming.original_name(text))
    fields["ref"] = raw(reference)
    return Route(naming, None, encode(fields), _view_on(naming))


def _view_on(naming: Naming) -> str:
    return f"view on servers {naming.server.name}"


def _renamed(params: bytes, member: str, name: str, original: str) -> bytes:
    if name == original:
        return params
    fields = decode_fields(params)
    fields[member] = raw(original)
    return encode(fields)


def unknown(method: str, name: str | None) -> Answer:
    """Answer for what is not there, and for what the caller may not see: in the same words."""
    if method == "resources/read":
        return Answer(result=None, error=error_body(INVALID_PARAMS, "Resource not found", {"uri": name}))
    noun = {"tools/call": "tool", "prompts/get": "prompt"}.get(method, "reference")
    return Answer(result=None, error=error_body(INVALID_PARAMS, f"Unknown {noun}: {name}"))


def rename_result(member: Member, method: str, answer: Answer, asked: Params) -> Answer:
    """Put the client's names into a result or an error of one of several servers."""
    if not member.naming.prefixed:
        return answer
    if answer.result is not None:
        held = {"tools/call": "content", "resources/read": "contents", "prompts/get": "messages"}.get(method)
        result = member.naming.contents(answer.result, held) if held else answer.result
        return Answer(result=result, error=None)
    if method == "resources/read" and answer.error is not None:
        fields = decode_fields(answer.error)
        if "data" in fields and bytes(fields["data"]).startswith(b"{"):
            data = decode_fields(fields["data"])
            if "uri" in data:
                data["uri"] = raw(asked.uri)
                fields["data"] = raw(data)
                return Answer(result=None, error=encode(fields))
    return answer
