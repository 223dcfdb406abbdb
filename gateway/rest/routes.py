"""The routes below `/api/v1`, as the contracts declare them.

A declaration is a method and a path: `PUT /projects/{spec.name}`. What stands in braces is a member of the request
message; where a dot is in it, one of the message's parts. The parameter is called by the last word (`name`).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mcpctl.bus.contract import Authorized, Call, Done, declared
from mcpctl.bus.contracts import token
from mcpctl.bus.contracts.every import CONTRACTS

BASE = "/api/v1"

WITH_BODY = frozenset({"POST", "PUT", "PATCH"})

CREATING = frozenset({"create", "define", "issue", "rotate"})
"""First words of a call's verb. A POST of such a call makes a thing: it is answered with 201."""

_DECLARATION = re.compile(r"(GET|POST|PUT|PATCH|DELETE) ((?:/(?:[a-z0-9-]+|\{[a-z_.]+\}))+)")
_PARAMETER = re.compile(r"\{([a-z_.]+)\}")


@dataclass(frozen=True)
class Member:
    """A member of a request message that stands in the URL. `at` leads to it, `schema` is its JSON schema."""

    at: tuple[str, ...]
    schema: dict[str, Any]
    required: bool

    @property
    def name(self) -> str:
        return self.at[-1]

    @property
    def type(self) -> str:
        """The JSON type that a text in the URL stands for."""
        return str(next(kind["type"] for kind in _kinds(self.schema)))


@dataclass(frozen=True)
class Route:
    """One method at one path, and the call that it makes."""

    method: str
    path: str
    call: Call[Any, Any]
    schema: dict[str, Any]
    """The JSON schema of the request message."""
    path_members: tuple[Member, ...]
    query_members: tuple[Member, ...]
    operation_id: str

    @property
    def has_body(self) -> bool:
        return self.method in WITH_BODY

    @property
    def needs_bearer(self) -> bool:
        return issubclass(self.call.request, Authorized)

    @property
    def asks_about_own_bearer(self) -> bool:
        """The bearer is not what lets in here, but what is asked about: also one that is over is answered."""
        return self.call is token.introspect and not self.has_body

    @property
    def takes_form(self) -> bool:
        """RFC 7662, section 2.1: an introspection is asked for with a form."""
        return self.call is token.introspect and self.has_body

    @property
    def omits_nulls(self) -> bool:
        """RFC 7662, section 2.2: what an introspection does not tell is not there."""
        return self.call.reply is token.Introspection

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        if self.call.reply is Done:
            return 204
        return 201 if self.method == "POST" and self.call.verb.partition("_")[0] in CREATING else 200

    def project_in(self, given: dict[str, str]) -> str | None:
        """Return the project in whose folder (`/projects/<project>/…`) this is, or None."""
        return given[self.path_members[0].name] if self.path.startswith("/projects/{") else None


def routes() -> tuple[Route, ...]:
    """Return every declared route. Raises `ValueError` for a declaration that cannot be served."""
    found = tuple(_of_calls(item for module in CONTRACTS for item in declared(module) if isinstance(item, Call)))
    seen: set[tuple[str, str]] = set()
    for route in found:
        place = route.method, _PARAMETER.sub("{}", route.path)
        if place in seen:
            raise ValueError(f"{route.method} {route.path} is declared twice")
        seen.add(place)
    return found


def _of_calls(calls: Iterable[Call[Any, Any]]) -> Iterator[Route]:
    for call in calls:
        for index, declaration in enumerate(call.http):
            yield _route(call, declaration, index)


def _route(call: Call[Any, Any], declaration: str, index: int) -> Route:
    match = _DECLARATION.fullmatch(declaration)
    if match is None:
        raise ValueError(f"{call.name}: {declaration!r} is no method and path")
    method, template = match.groups()
    schema = call.request.model_json_schema()
    in_path = tuple(_path_member(call, schema, at.split(".")) for at in _PARAMETER.findall(template))
    in_query = () if method in WITH_BODY else tuple(_query_members(call, schema, {member.at for member in in_path}))
    return Route(
        method=method,
        path=_PARAMETER.sub(lambda found: "{" + found[1].rpartition(".")[2] + "}", template),
        call=call,
        schema=schema,
        path_members=in_path,
        query_members=in_query,
        operation_id=_operation_id(call, method, in_path, index),
    )


def _path_member(call: Call[Any, Any], schema: dict[str, Any], at: list[str]) -> Member:
    found = schema
    for word in at:
        found = resolved(schema, found).get("properties", {}).get(word)
        if found is None:
            raise ValueError(f"{call.name}: its request has no {'.'.join(at)}")
    only = next((kind for kind in _kinds(found) if kind.get("type") == "string"), None)
    if only is None:
        raise ValueError(f"{call.name}: {'.'.join(at)} is no text")
    return Member(tuple(at), only, required=True)


def _query_members(call: Call[Any, Any], schema: dict[str, Any], taken: set[tuple[str, ...]]) -> Iterator[Member]:
    """Yield what may stand in the query: scalars; never a secret, since URLs are logged by whoever sees them."""
    required = schema.get("required", ())
    for name, field in call.request.model_fields.items():
        if name == "bearer" or (name,) in taken or not field.repr:
            continue
        property_ = schema["properties"][name]
        if all("type" in kind and kind["type"] not in ("array", "object") for kind in _kinds(property_)):
            kinds = _kinds(property_)
            yield Member((name,), kinds[0] if len(kinds) == 1 else property_, required=name in required)
        elif name in required:
            raise ValueError(f"{call.name}: {name} cannot stand in a URL")


def _operation_id(call: Call[Any, Any], method: str, in_path: tuple[Member, ...], index: int) -> str:
    """Return the call's name; a further route of it is told apart by its parameters, or by its method."""
    base = call.name.replace(".", "_")
    if index == 0:
        return base
    return f"{base}_of_{'_'.join(member.name for member in in_path)}" if in_path else f"{base}_{method.lower()}"


def resolved(root: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a schema refers to, or itself."""
    ref = schema.get("$ref")
    return schema if ref is None else root["$defs"][ref.rpartition("/")[2]]


def _kinds(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the alternatives of a schema other than null."""
    return [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
