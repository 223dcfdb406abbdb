"""The OpenAPI 3.1 document of `/api/v1`, out of the same routes that are served."""

import copy
from typing import Any

import orjson

import mcpctl
from mcpctl.bus.contract import Done, Message
from mcpctl.gateway.rest.answers import CODES, RETRY_SECONDS
from mcpctl.gateway.rest.reading import FORM
from mcpctl.gateway.rest.routes import BASE, Member, Route, resolved
from mcpctl.gateway.wire import JSON

Schema = dict[str, Any]

_SCHEMAS = "#/components/schemas/"

_DESCRIPTIONS = {
    200: "Done.",
    201: "Created.",
    204: "Done; there is nothing to tell.",
    400: "The request cannot be understood: the message names the member.",
    401: "No bearer, or one that is unknown, expired or revoked.",
    403: "The bearer has not the right, or does not reach this path.",
    404: "No such thing.",
    409: "The state of things forbids it.",
    413: "The body is too long.",
    415: "The body is of another media type.",
    421: "The Host header names no host of this gateway.",
    429: "Too many bearers that are not valid came from this address, or too many connections.",
    500: "A bug; the log has the details.",
    503: "A part is away, and nothing was done.",
    504: "No answer in the time allowed: it may have been done.",
}

_HEADERS = {
    401: {"WWW-Authenticate": {"required": True, "description": "RFC 6750", "schema": {"type": "string"}}},
    429: {"Retry-After": {"required": True, "description": "seconds", "schema": {"type": "string"}}},
    503: {"Retry-After": {"required": True, "description": "seconds", "schema": {"const": str(RETRY_SECONDS)}}},
}

_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "additionalProperties": False,
            "properties": {
                "code": {"type": "string", "enum": sorted(set(CODES.values()))},
                "message": {"type": "string"},
            },
        }
    },
}


def document(routes: tuple[Route, ...]) -> bytes:
    """Return the document as JSON."""
    schemas: dict[str, Schema] = {"Error": _ERROR}
    paths: dict[str, dict[str, Schema]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    tags = dict.fromkeys(tag for path in paths.values() for operation in path.values() for tag in operation["tags"])
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "mcpctl",
                "version": mcpctl.__version__,
                "summary": "The control plane of an MCP gateway.",
                "description": "One request is one call of the bus. What a bearer may do is decided behind it.",
            },
            "servers": [{"url": BASE}],
            "tags": [{"name": tag} for tag in tags],
            "security": [{"bearer": []}],
            "paths": paths,
            "components": {
                "schemas": dict(sorted(schemas.items())),
                "responses": {str(status): _error(status) for status in _DESCRIPTIONS if status >= 400},
                "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "mcpctl_…"}},
            },
        }
    )


def _operation(route: Route, schemas: dict[str, Schema]) -> Schema:
    operation: Schema = {
        "operationId": route.operation_id,
        "summary": route.call.summary,
        "tags": [route.call.actor],
    }
    if not route.needs_bearer:
        operation["security"] = []
    parameters = [_parameter(member, "path") for member in route.path_members]
    parameters += [_parameter(member, "query") for member in route.query_members]
    if parameters:
        operation["parameters"] = parameters
    if route.has_body:
        operation["requestBody"] = _request_body(route, schemas)
    answers: Schema = {str(route.status): _answer(route, schemas)}
    operation["responses"] = answers | {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in _refusals(route)
    }
    return operation


def _refusals(route: Route) -> list[int]:
    """Return the statuses of the errors that may come."""
    refusals = {400, 401, 403, 421, 429, 500, 503, 504}
    if route.path_members or route.query_members or route.has_body:
        refusals.add(404)
    if route.method != "GET":
        refusals.add(409)
    if route.has_body:
        refusals |= {413, 415}
    return sorted(refusals)


def _error(status: int) -> Schema:
    content = {JSON: {"schema": {"$ref": f"{_SCHEMAS}Error"}}}
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {"description": _DESCRIPTIONS[status], "content": content, **headers}


def _parameter(member: Member, place: str) -> Schema:
    return {"name": member.name, "in": place, "required": member.required, "schema": _untitled(member.schema)}


# --- what is asked ---


def _request_body(route: Route, schemas: dict[str, Schema]) -> Schema:
    body = _body_schema(route, schemas)
    content = {JSON: {"schema": body}}
    if route.takes_form:
        content[FORM] = {"schema": body}
    return {"required": bool(body.get("required")), "content": content}


def _body_schema(route: Route, schemas: dict[str, Schema]) -> Schema:
    """Return the schema of the body: the request message without the bearer and without what the path says."""
    whole = copy.deepcopy(route.schema)
    for member in route.path_members:
        *parents, name = member.at
        inside = whole
        for parent in parents:  # a part that loses a member is written out: elsewhere it is whole
            part = copy.deepcopy(resolved(whole, inside["properties"][parent]))
            inside["properties"][parent] = part
            inside = part
        _leave_out(inside, name)
    _leave_out(whole, "bearer")
    for name, part in whole.pop("$defs", {}).items():
        _add(schemas, f"{name}-Input", _moved(_closed(part), "-Input"))
    body: Schema = _moved(_closed(whole), "-Input")
    return body


def _leave_out(schema: Schema, name: str) -> None:
    schema["properties"].pop(name, None)
    required = [other for other in schema.get("required", ()) if other != name]
    schema.pop("required", None)
    if required:
        schema["required"] = required


def _closed(schema: Any) -> Any:
    """Return a schema whose objects admit no other members."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(part) for key, part in schema.items()}
    if closed.get("type") == "object" and ("properties" in closed or "patternProperties" in closed):
        closed["additionalProperties"] = False
    return closed


# --- what is answered ---


def _answer(route: Route, schemas: dict[str, Schema]) -> Schema:
    described: Schema = {"description": _DESCRIPTIONS[route.status]}
    if route.call.reply is not Done:
        schema = _reply_schema(route.call.reply, route, schemas)
        if route.call.everyone:  # an answer of each replica
            items = {"type": "array", "items": schema}
            schema = {"type": "object", "properties": {"items": items}, "required": ["items"]}
        described["content"] = {JSON: {"schema": schema}}
    return described


def _reply_schema(reply: type[Message], route: Route, schemas: dict[str, Schema]) -> Schema:
    # Where nulls are omitted, what has a default may be missing: this is what the schema for reading says.
    whole = reply.model_json_schema(mode="validation" if route.omits_nulls else "serialization")
    for name, part in whole.pop("$defs", {}).items():
        _add(schemas, name, _moved(part, ""))
    _add(schemas, reply.__name__, _moved(whole, ""))
    return {"$ref": _SCHEMAS + reply.__name__}


def _add(schemas: dict[str, Schema], name: str, schema: Schema) -> None:
    if schemas.setdefault(name, schema) != schema:
        raise ValueError(f"two messages of the contracts are called {name}")


def _moved(schema: Any, suffix: str) -> Any:
    """Return a schema whose references lead to the components, without pydantic's titles."""
    if isinstance(schema, list):
        return [_moved(part, suffix) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(part, suffix) for key, part in _untitled(schema).items()}
    ref = moved.get("$ref")
    if isinstance(ref, str) and ref.startswith("#/$defs/"):
        moved["$ref"] = _SCHEMAS + ref.removeprefix("#/$defs/") + suffix
    return moved


def _untitled(schema: Schema) -> Schema:
    """Return a schema without the title that pydantic makes of a member's name."""
    return {key: part for key, part in schema.items() if key != "title" or not isinstance(part, str)}
