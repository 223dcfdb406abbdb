"""Where a request for one tool, prompt, resource or completion goes, and whether it may."""

from dataclasses import dataclass

import msgspec

from mcpctl.actors.upstream_router.access import Access
from mcpctl.actors.upstream_router.naming import Naming
from mcpctl.actors.upstream_router.project import Member, Project
from mcpctl.bus.conditions import read_arguments
from mcpctl.bus.mcp_client import Answer
from mcpctl.bus.mcp_messages import (
    INVALID_PARAMS,
    Params,
    canonical,
    decode_fields,
    decode_value,
    encode,
    error_body,
    raw,
)

SHOWN = 200
"""Characters of a name that an error repeats."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes: the server, the name that the server knows, and the params that say so.

    Without a `naming` nothing here has that name, or nothing that this caller may see: the two are answered alike.
    Unless there is a `refusal`: then the caller sees it, and may know why it is refused. `denied` is the server, and
    its own name, of what may not be used: for the audit event, never for the caller.
    """

    naming: Naming | None
    name: str | None
    params: bytes
    rule: str
    refusal: str | None = None
    denied: tuple[str, str | None] | None = None


def route_tool(project: Project, access: Access, params: bytes, asked: Params, original: str | None) -> Route:
    """Find the server of a tool call, and decide: `run` on the server or the tool.

    `original` is the server's own name where the catalogue had to be asked for it.
    """
    name = asked.name if isinstance(asked.name, str) else ""
    naming = project.of_name(name)
    if naming is not None:
        original = original or naming.original_name(name) or ""
        tool = f"{naming.server.name}/{original}"
        denied = naming.server.name, original
        fault = _why_not(access, naming.server.name, original, asked)
        if fault is None:
            return Route(naming, original, _renamed(params, "name", name, original), f"run on tools {tool}")
        if access.scope.sees_tool(naming.server.name, original):
            refusal = f"not allowed to call tool {name[:SHOWN]}" + (f": {fault}" if fault else "")
            return Route(None, name, params, f"run on tools {tool}: {fault or 'not granted'}", refusal, denied)
        return Route(None, name, params, f"run on tools {tool}: not granted, or no such tool", denied=denied)
    return Route(None, name, params, f"no server here has a tool {name}")


def _why_not(access: Access, server: str, tool: str, asked: Params) -> str | None:
    """Return None where the call is granted, what is wrong with its arguments, or an empty text."""
    return access.scope.why_not_run(server, tool, lambda: read_arguments(bytes(asked.arguments or b"{}")))


def route_prompt(project: Project, access: Access, params: bytes, asked: Params) -> Route:
    """Find the server of a prompt: it needs `view` on the server."""
    name = asked.name if isinstance(asked.name, str) else ""
    naming = project.of_name(name)
    if naming is None:
        return Route(None, name, params, f"no server here has a prompt {name}")
    original = naming.original_name(name) or ""
    if access.scope.sees_server(naming.server.name):
        return Route(naming, original, _renamed(params, "name", name, original), _view_on(naming))
    return _unseen(naming, name, original, params)


def route_resource(project: Project, access: Access, params: bytes, asked: Params) -> Route:
    """Find the server of a resource: it needs `view` on the server."""
    uri = asked.uri if isinstance(asked.uri, str) else ""
    naming = project.of_uri(uri)
    if naming is None:
        return Route(None, uri, params, "no server here has this resource")
    original = naming.original_uri(uri) or ""
    if access.scope.sees_server(naming.server.name):
        return Route(naming, original, _renamed(params, "uri", uri, original), _view_on(naming))
    return _unseen(naming, uri, original, params)


def route_completion(project: Project, access: Access, params: bytes) -> Route:
    """Find the server of a completion: that of the prompt or the resource that `ref` names."""
    fields = decode_fields(params)
    try:
        reference = decode_fields(canonical(bytes(fields.get("ref", msgspec.Raw(b"{}")))))
        member = "uri" if "uri" in reference else "name"
        text = str(decode_value(reference.get(member, b'""')))
    except (msgspec.DecodeError, ValueError):
        return Route(None, "", params, "no ref")
    naming = project.of_uri(text) if member == "uri" else project.of_name(text)
    if naming is None:
        return Route(None, text, params, "no server here has what ref names")
    if not access.scope.sees_server(naming.server.name):
        return _unseen(naming, text, None, params)
    reference[member] = raw(naming.original_uri(text) if member == "uri" else naming.original_name(text))
    fields["ref"] = raw(reference)
    return Route(naming, None, encode(fields), _view_on(naming))


def _unseen(naming: Naming, name: str, original: str | None, params: bytes) -> Route:
    return Route(None, name, params, f"{_view_on(naming)}: not granted", denied=(naming.server.name, original))


def _view_on(naming: Naming) -> str:
    return f"view on servers {naming.server.name}"


def _renamed(params: bytes, member: str, name: str, original: str) -> bytes:
    if name == original:
        return params
    fields = decode_fields(params)
    fields[member] = raw(original)
    return encode(fields)


def refused(method: str, route: Route) -> Answer:
    """Answer for what may not be done; for what may not be seen in the same words as for what is not there."""
    name = route.name
    if route.refusal is not None:
        return Answer(result=None, error=error_body(INVALID_PARAMS, route.refusal))
    if method == "resources/read":
        return Answer(result=None, error=error_body(INVALID_PARAMS, "Resource not found", {"uri": name}))
    noun = {"tools/call": "tool", "prompts/get": "prompt"}.get(method, "reference")
    return Answer(result=None, error=error_body(INVALID_PARAMS, f"Unknown {noun}: {(name or '')[:SHOWN]}"))


def quarantined(server: str, tool: str, asked: Params) -> Route:
    """Return what is said to a caller who may call a tool that is in quarantine."""
    refusal = (
        f"tool {str(asked.name)[:SHOWN]} is in quarantine: its server describes it in another way than before, and "
        f"nobody has approved that yet (mcpctl approve tool {server}/{tool[:SHOWN]})"
    )
    return Route(None, tool, b"", f"tool {server}/{tool} is in quarantine: its definition changed", refusal)


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
