"""What a project consists of, for routing: its servers, by the names that a client uses."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.era import TASKS
from mcpctl.actors.upstream_router.hidden_text import readable
from mcpctl.actors.upstream_router.naming import SEPARATOR, UI, Naming
from mcpctl.actors.upstream_router.project_prompts import visible_prompts
from mcpctl.actors.upstream_router.upstreams import Upstream
from mcpctl.bus.contracts.catalog import View
from mcpctl.bus.errors import BadGateway, BusError, DeadlineExceeded
from mcpctl.bus.mcp_messages import IMPLEMENTATION, MODERN, SERVER_INFO, capabilities_of, decode_value, encode

RELAYED_CAPABILITIES = ("completions", "logging", "prompts", "resources", "tools")
Admit = Callable[[Sequence[msgspec.Raw]], Awaitable[list[msgspec.Raw]]]

LISTED = frozenset({"prompts", "resources", "tools"})
OF_WHOLE_SERVERS = frozenset({"completions", "prompts", "resources"})
"""Capabilities that take `view` on the server: rights on single tools are not enough."""

AWAY: dict[str, Any] = {"prompts": {}, "resources": {}, "tools": {}}
"""What a server that is away is taken to offer."""


GATED = (
    "This project briefs its agents. Call the tool begin_session before any other: say what you have been asked to "
    "do, and read what it returns."
)
"""What a gated project says of itself, to models."""


@dataclass(frozen=True, slots=True)
class Member:
    """One server of the project: how it is reached, and how its names appear."""

    upstream: Upstream
    naming: Naming
    admit: Admit | None = None
    """Keeps back those of its listed tools that are in quarantine, in a project that pins tools."""

    @property
    def server(self) -> str:
        return self.upstream.server.name


class Project:
    """The servers of one view, found by the names that a client uses; `server` narrows it to a single one."""

    def __init__(self, view: View, server: str | None) -> None:
        self.view = view
        servers = [s for s in view.servers if server in (None, s.name)]
        prefixed = server is None and view.prefixed
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


def own_kinds(access: Access) -> frozenset[str]:
    """Return the lists to which the project itself adds: the tools of its gate, its prompts."""
    kinds = (("tools", access.view.gate is not None), ("prompts", bool(visible_prompts(access))))
    return frozenset(kind for kind, adds in kinds if adds)


def discover(members: Sequence[Member], infos: Sequence[bytes | None], access: Access) -> bytes:
    """Return the result of `server/discover` for a project, from those of its servers (None: away).

    What is offered is what is relayed, and of that what the caller may use somewhere. Tools need no more than a server
    of which some could be granted. Changes of lists are announced by the router, whatever the servers say.
    """
    offered: dict[str, dict[str, Any]] = {}
    extensions: dict[str, Any] = {}
    for member, info in zip(members, infos, strict=True):
        # A server that is away may come back with anything: it is asked again at each list.
        theirs = AWAY if info is None else capabilities_of(info)
        whole = access.scope.sees_server(member.server)
        for name in RELAYED_CAPABILITIES:
            if name in theirs and (whole or name not in OF_WHOLE_SERVERS):
                own = offered.setdefault(name, {"listChanged": True} if name in LISTED else {})
                if name == "resources" and isinstance(theirs[name], dict) and theirs[name].get("subscribe") is True:
                    own["subscribe"] = True
        extended = theirs.get("extensions")
        if isinstance(extended, dict):
            extensions = {name: value for name, value in extended.items() if name != TASKS} | extensions
    for name in own_kinds(access):
        offered.setdefault(name, {"listChanged": True})
    capabilities: dict[str, Any] = dict(sorted(offered.items()))
    if extensions:
        capabilities["extensions"] = dict(sorted(extensions.items()))
    result: dict[str, Any] = {
        "supportedVersions": [MODERN],
        "capabilities": capabilities,
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {SERVER_INFO: msgspec.Raw(IMPLEMENTATION)},
    }
    instructions = _instructions(members, infos)
    if access.view.gate is not None:
        instructions.insert(0, GATED)
    if instructions:
        result["instructions"] = "\n\n".join(instructions)
    return encode(result)


def _instructions(members: Sequence[Member], infos: Sequence[bytes | None]) -> list[str]:
    """Return what the servers say to models, each under its name where there are several."""
    said = []
    for member, info in zip(members, infos, strict=True):
        theirs = decode_value(info) if info is not None else None
        text = theirs.get("instructions") if isinstance(theirs, dict) else None
        if isinstance(text, str) and text:
            text = readable(text)
            said.append(text if len(members) == 1 else f"# {member.naming.server.slug}\n\n{text}")
    return said
