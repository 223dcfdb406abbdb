"""What prompts say: their own content, or that of the MCP resource they are linked to."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.upstreams import Upstream
from mcpctl.bus.connection import Bus
from mcpctl.bus.contracts import catalog
from mcpctl.bus.contracts.catalog import PromptResource, PromptText
from mcpctl.bus.errors import BusError
from mcpctl.bus.mcp_messages import MODERN_MEMBERS, decode_value, encode

RESOURCE_SECONDS = 5.0
"""How long a server has to give a resource to which a prompt is linked."""

RESOURCE_BYTES = 65_536
"""Bytes of a resource that a prompt takes over at the most."""

SHARE = 0.5
"""The part of a call's time that one step may take."""


class Unreadable(Exception):
    """Why a resource gives no text."""


@dataclass(frozen=True, slots=True)
class Asker:
    """A call that asks for prompts, what its caller may do, and its way to the servers that supply some."""

    call: Call
    access: Access
    upstream_of: Callable[[str], Upstream | None]
    """Returns the upstream of a server of the project by its name, None where there is none to ask."""

    @property
    def patience(self) -> float:
        """Seconds that one step of the answer may take."""
        return self.call.head.budget / 1000 * SHARE

    @property
    def budget(self) -> int:
        """Bytes of prompts in one answer at the most."""
        return self.access.view.gate.budget if self.access.view.gate is not None else 0


async def contents(bus: Bus, asker: Asker, names: Sequence[str]) -> dict[str, str]:
    """Return the texts of prompts by name, in that order; what the caller may not see is not among them.

    A resource that cannot be read is replaced by the prompt's own content, or by a line that says so. Raises
    `BusError` where the Catalog does not answer.
    """
    if not names:
        return {}
    asked = catalog.ReadPrompts(bearer=asker.call.head.bearer, project=asker.access.view.project, names=tuple(names))
    items = (await bus.call(catalog.read_prompts, asked)).items
    texts = await asyncio.gather(*(_text(item, asker) for item in items))
    return {item.name: text for item, text in zip(items, texts, strict=True)}


async def _text(prompt: PromptText, asker: Asker) -> str:
    if prompt.resource is None:
        return prompt.content
    try:
        return await _read(prompt.resource, asker)
    except Unreadable as why:
        return prompt.content or f"(This prompt cannot be read just now: {why}.)"


async def _read(resource: PromptResource, asker: Asker) -> str:
    """Read a resource with the rights of the caller. Raises `Unreadable`."""
    seen = asker.access.scope.sees_server(resource.server)
    upstream = asker.upstream_of(resource.server) if seen else None
    if upstream is None:
        raise Unreadable("its server is not there")
    patience = min(asker.patience, RESOURCE_SECONDS)
    params = b'{"uri":' + encode(resource.uri) + b',"_meta":{' + MODERN_MEMBERS + b"}}"
    try:
        async with asyncio.timeout(patience):
            answer = await upstream.request("resources/read", params, name=resource.uri, timeout=patience)
    except (BusError, TimeoutError):
        raise Unreadable(f"server {resource.server} does not answer") from None
    if answer.result is None:
        raise Unreadable(f"server {resource.server} does not give its resource")
    result = decode_value(answer.result)
    parts = result.get("contents") if isinstance(result, dict) else None
    texts = [part.get("text") for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    text = "\n\n".join(each for each in texts if isinstance(each, str))
    if not text:
        raise Unreadable(f"the resource of server {resource.server} has no text")
    return text.encode()[:RESOURCE_BYTES].decode(errors="ignore")
