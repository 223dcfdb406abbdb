"""A request message out of an HTTP request: path, query and body, strictly.

What the contract does not know is refused by name, and a wrong type is refused rather than converted. No text of these
errors holds a value: it may be a secret.
"""

import json
import re
from typing import Any
from urllib.parse import parse_qsl

import orjson
from aiohttp import web
from pydantic import ValidationError

from mcpctl.bus.contract import Message
from mcpctl.gateway.rest.answers import Problem
from mcpctl.gateway.rest.routes import Member, Route
from mcpctl.gateway.wire import JSON

FORM = "application/x-www-form-urlencoded"

OPEN_BODY_LIMIT = 16 * 1024
"""Bytes of a body that anybody may send: there is no bearer before it is read."""

_FAULTS_TOLD = 5
_LONGEST_NAME = 100
_INTEGER = re.compile(r"-?[0-9]{1,18}\Z")
_BOOLEAN = {"true": True, "false": False}


async def read(request: web.Request, route: Route, bearer: str | None) -> Message:
    """Return the message that a request asks with. Raises `Problem`: 400, 413 or 415."""
    given = await _body(request, route) if route.has_body else _query(request, route)
    if not route.has_body and request.can_read_body:
        raise Problem(400, f"{route.method} takes no body")
    if "bearer" in given:
        raise Problem(400, "unknown member: bearer")
    for member in route.path_members:
        _put(given, member, request.match_info[member.name])
    if bearer is not None:
        given["bearer"] = bearer
    try:
        message: Message = route.call.request.model_validate_json(orjson.dumps(given), strict=True, extra="forbid")
    except ValidationError as error:
        raise Problem(400, _faults(error)) from error
    except TypeError as error:  # orjson: recursion
        raise Problem(400, "the body is nested too deeply") from error
    return message


def _query(request: web.Request, route: Route) -> dict[str, Any]:
    members = {member.name: member for member in route.query_members}
    _demand_known(request, members)
    given: dict[str, Any] = {}
    for name, text in request.query.items():
        if name in given:
            raise Problem(400, f"{name}: given twice in the query")
        given[name] = _value(members[name], text)
    return given


def _demand_known(request: web.Request, members: dict[str, Member]) -> None:
    unknown = sorted({name[:_LONGEST_NAME] for name in request.query if name not in members})
    if unknown:
        raise Problem(400, f"unknown in the query: {_listed(unknown)}")


def _value(member: Member, text: str) -> Any:
    """Return what a text in the URL stands for; what is no such thing stays a text, which the contract refuses."""
    if member.type == "boolean":
        return _BOOLEAN.get(text, text)
    if member.type == "integer" and _INTEGER.match(text):
        return int(text)
    return text


async def _body(request: web.Request, route: Route) -> dict[str, Any]:
    _demand_known(request, {})
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(415, "Content-Encoding is not accepted", {"Accept-Encoding": "identity"})
    if not request.can_read_body:
        return {}
    types = (JSON, FORM) if route.takes_form else (JSON,)
    if request.content_type not in types:
        raise Problem(415, f"Content-Type must be {' or '.join(types)}")
    if not route.needs_bearer:
        request = request.clone(client_max_size=OPEN_BODY_LIMIT)
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Problem(413, "the request body is longer than this gateway takes") from error
    return _form(body) if request.content_type == FORM else _object(body)


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise Problem(400, "the body must be a JSON object")
    try:
        json.loads(body, object_pairs_hook=_each_once, parse_int=_within_64_bits)
    except RecursionError as error:
        raise Problem(400, "the body is nested too deeply") from error
    return given


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    """Refuse what orjson lets pass: of two members of one name, whoever reads the body before us may take the other."""
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise Problem(400, f"the body names {twice[:_LONGEST_NAME]} twice")


def _within_64_bits(text: str) -> int:
    """Read a whole number; of a longer one orjson makes a float, which is another number."""
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise Problem(400, "a whole number of the body is beyond 64 bits")
    return int(text)


def _form(body: bytes) -> dict[str, Any]:
    """Read the form of RFC 7662, section 2.1. Its hint may be ignored, and is."""
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=10, errors="strict"
        )
    except ValueError as error:
        raise Problem(400, f"the body is not {FORM}") from error
    given = dict(pairs)
    if len(given) < len(pairs):
        raise Problem(400, "the form names a member twice")
    given.pop("token_type_hint", None)
    return given


def _put(given: dict[str, Any], member: Member, text: str) -> None:
    """Set a member from the path; its parent, where it has one, must be there: the contract says that it is missing."""
    *parents, name = member.at
    inside: Any = given
    for parent in parents:
        inside = inside.get(parent) if isinstance(inside, dict) else None
    if not isinstance(inside, dict):
        return
    if name in inside and inside[name] != text:
        raise Problem(400, f"{'.'.join(member.at)}: the body contradicts the path")
    inside[name] = text


def _faults(error: ValidationError) -> str:
    """Say what is wrong and where: unknown members first, all in one line."""
    faults = error.errors(include_input=False, include_url=False, include_context=False)
    unknown = [_place(fault["loc"]) for fault in faults if fault["type"] == "extra_forbidden"]
    told = [f"unknown member: {_listed(unknown)}"] if unknown else []
    for fault in faults[:_FAULTS_TOLD]:
        if fault["type"] != "extra_forbidden":
            where, text = _place(fault["loc"]), fault["msg"].removeprefix("Value error, ")
            told.append(f"{where}: {text}" if where else text)
    return "; ".join(told)


def _place(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part)[:_LONGEST_NAME] for part in loc if part != "[key]")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_FAULTS_TOLD])
    return shown + (", …" if len(names) > _FAULTS_TOLD else "")
