"""The routes and the document of `/api/v1`, as the contracts declare them."""

from types import UnionType
from typing import Annotated, Union, get_args, get_origin

import orjson
import pytest
from annotated_types import MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mcpctl.bus.contract import Authorized, Call, Message, declared
from mcpctl.bus.contracts import rbac, token
from mcpctl.bus.names import Label
from mcpctl.gateway.rest import openapi
from mcpctl.gateway.rest.routes import _of_calls, routes

ROUTES = routes()
DOCUMENT = orjson.loads(openapi.document(ROUTES))
OPERATIONS = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]


class Nested(Message):
    name: Label


class Ask(Authorized):
    """Ask for something."""

    spec: Nested
    count: int = 0


def declare(*http):
    return list(_of_calls([Call("token.ask", Ask, Nested, callers=("operator",), http=http)]))


def test_a_path_leads_into_a_part_of_the_message():
    (route,) = declare("PUT /things/{spec.name}")

    assert route.path == "/things/{name}"
    assert [member.at for member in route.path_members] == [("spec", "name")]


@pytest.mark.parametrize(
    "http",
    [
        "FETCH /things",
        "GET things",
        "PUT /things/{id}",
        "PUT /things/{spec.id}",
        "PUT /things/{count}",
        "GET /things",  # a specification cannot stand in a query
    ],
)
def test_a_declaration_that_cannot_be_served_is_refused(http):
    with pytest.raises(ValueError, match=r"token\.ask"):
        declare(http)


def test_the_calls_decide_on_the_status():
    found = {route.operation_id: route.status for route in ROUTES}

    assert found["catalog_create_project"] == found["token_issue_of_project"] == found["rbac_define"] == 201
    assert found["catalog_delete_project"] == found["token_logout"] == 204
    assert found["catalog_edit_project"] == found["token_login"] == found["rbac_check"] == 200


def test_no_secret_can_stand_in_a_url():
    names = {member.name for route in ROUTES for member in (*route.path_members, *route.query_members)}

    assert not names & {"bearer", "token", "password", "value"}


def test_every_operation_has_an_id_of_its_own_and_a_summary():
    ids = [operation["operationId"] for operation in OPERATIONS]

    assert len(set(ids)) == len(ids) == len(ROUTES)
    assert all(operation["summary"] for operation in OPERATIONS)
    assert "token_list" in ids
    assert "token_list_of_project" in ids


def test_only_the_login_takes_no_bearer():
    assert [o["operationId"] for o in OPERATIONS if o.get("security") == []] == ["token_login"]
    assert DOCUMENT["security"] == [{"bearer": []}]


def test_a_body_is_closed_and_holds_neither_the_bearer_nor_what_the_path_says():
    body = DOCUMENT["paths"]["/projects/{name}"]["put"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]

    assert body["required"] is True
    assert set(schema["properties"]) == {"spec", "revision"}
    assert "name" not in schema["properties"]["spec"]["properties"]
    assert schema["additionalProperties"] is schema["properties"]["spec"]["additionalProperties"] is False
    assert "name" in DOCUMENT["components"]["schemas"]["ProjectSpec-Input"]["properties"]
    assert DOCUMENT["paths"]["/mcptokens/{id}/revoke"]["post"]["requestBody"]["required"] is False


def test_every_reference_leads_somewhere():
    def references(part):
        if isinstance(part, dict):
            yield from (value for key, value in part.items() if key == "$ref")
            part = list(part.values())
        if isinstance(part, list):
            for inner in part:
                yield from references(inner)

    found = set(references(DOCUMENT))
    assert found
    for reference in found:
        place = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_an_introspection_may_be_asked_for_with_a_form_and_has_no_nulls():
    operation = DOCUMENT["paths"]["/mcptokens/introspect"]["post"]

    assert "application/x-www-form-urlencoded" in operation["requestBody"]["content"]
    assert DOCUMENT["components"]["schemas"]["Introspection"]["required"] == ["active"]
    assert all(route.omits_nulls == (route.call is token.introspect) for route in ROUTES)


def unbounded(model, seen=()):
    """Yield the lists and mappings of a message that may hold any number of members."""
    for name, member in model.model_fields.items():
        yield from _unbounded(f"{model.__name__}.{name}", member.annotation, member.metadata, (*seen, model))


def _unbounded(where, kind, metadata, seen):
    if get_origin(kind) is Annotated:
        kind, *more = get_args(kind)
        metadata = [*metadata, *more]
    constraints = [one for each in metadata for one in (each.metadata if isinstance(each, FieldInfo) else [each])]
    bounded = any(isinstance(each, MaxLen) for each in constraints)
    if get_origin(kind) in (tuple, list, dict) and not bounded:
        yield where
    for part in get_args(kind):
        yield from _unbounded(where, part, metadata if get_origin(kind) in (Union, UnionType) else [], seen)
    if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in seen:
        yield from unbounded(kind, seen)


ASKED = [
    call
    for contract in (rbac, token)
    for call in declared(contract)
    if isinstance(call, Call) and {"operator", "gateway", "login"} & set(call.asked_by)
]


@pytest.mark.parametrize("call", ASKED, ids=lambda call: call.name)
def test_no_list_in_what_somebody_asks_is_without_a_bound(call):
    # Arguments of a tool call are anything: their bytes are bounded where they are tested.
    assert [each for each in unbounded(call.request) if each != "Check.arguments"] == []
