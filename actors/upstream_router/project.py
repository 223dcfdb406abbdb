"""What a project consists of, for routing: its servers, by the names that a client uses."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mcpctl.actors.upstream_router.naming import SEPARATOR, UI, Naming
from mcpctl.actors.upstream_router.upstreams import Upstream
from mcpctl.bus.contracts.catalog import View
from mcpctl.bus.errors import BadGateway, BusError, DeadlineExceeded
from mcpctl.bus.mcp_messages import IMPLEMENTATION, MODERN, SERVER_INFO, decode_value, encode

RELAYED_CAPABILITIES = ("completions", "logging", "prompts", "resources", "tools")


@dataclass(frozen=True, slots=True)
class Member:
    """One server of the project: how it is reached, and how its names appear."""

    upstream: Upstream
    naming: Naming

    @property
    def server(self) -> str:
        return self.upstream.server.name


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
        if self._single is not None:
            return self._single
        slug, _, rest = name.partition(SEPARATOR)
        return self._by_slug.get(slug) if rest else None

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
    except (BadGateway, DeadlineExceeded) as error:
        member.upstream.mark_faulty(str(error))
    except BusError:
        pass  # the caller's own lack of rights, or of an actor, is no fault of the server
    return None


def offered_by(info: bytes) -> dict[str, Any]:
    """Return the capabilities in a server's own words; none where they are not what they should be."""
    said = decode_value(info)
    offered = said.get("capabilities") if isinstance(said, dict) else None
    return offered if isinstance(offered, dict) else {}


def discover(members: Sequence[Member], infos: Sequence[bytes | None]) -> bytes:
    """Return the result of `server/discover` for a project, from those of its servers (None: away)."""
    capabilities: dict[str, Any] = {}
    instructions = []
    for member, info in zip(members, infos, strict=True):
        offered = offered_by(info) if info is not None else {}
        # A server that is away may offer anything: what it offers is asked again at each list.
        names = RELAYED_CAPABILITIES if info is None else [c for c in RELAYED_CAPABILITIES if c in offered]
        capabilities.update({name: {} for name in names if name != "logging" or info is not None})
        said = decode_value(info) if info is not None else None
        text = said.get("instructions") if isinstance(said, dict) else None
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
