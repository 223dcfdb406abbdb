"""Tools that want arguments repeated in headers: which of them are listed, and what is remembered of them."""

import json
from types import SimpleNamespace

import msgspec
import pytest

from mcpctl.actors.upstream_router.tool_headers import admitted, declared


def schema(**properties):
    return {"type": "object", "properties": properties}


def marked(name="Region", kind="string", **more):
    return {"type": kind, "x-mcp-header": name} | more


def upstream(era="modern", transport="http"):
    server = SimpleNamespace(name="s", transport=transport)
    return SimpleNamespace(era=era, server=server, param_headers={})


def raws(*tools):
    return [msgspec.Raw(json.dumps(tool).encode()) for tool in tools]


def named(tools):
    return [json.loads(bytes(tool))["name"] for tool in tools]


def test_headers_are_found_along_properties_however_deep():
    found = declared(
        schema(
            region=marked(),
            count=marked("Count", "integer"),
            dry=marked("Dry-Run", "boolean"),
            deep=schema(er=schema(est=marked("Deep"))),
            plain={"type": "string"},
        )
    )

    assert found == {"Region": ("region",), "Count": ("count",), "Dry-Run": ("dry",), "Deep": ("deep", "er", "est")}


@pytest.mark.parametrize(
    "broken",
    [
        schema(a=marked("")),
        schema(a=marked("My Region")),
        schema(a=marked("Re:gion")),
        schema(a=marked("Région")),
        schema(a=marked("Re\tgion")),
        schema(a=marked("Region\n")),
        schema(a=marked(7)),
        schema(a=marked(None)),
        schema(a=marked(), b=marked()),
        schema(a=marked(), b=marked("REGION")),
        schema(a=marked(), deep=schema(b=marked("region"))),
        *[schema(a=marked(kind=kind)) for kind in ("number", "object", "array", "null", ["string", "null"], None)],
        schema(a={"x-mcp-header": "Region"}),
        marked(),
        schema(a={"type": "array", "items": marked()}),
        schema(a={"type": "array", "prefixItems": [marked()]}),
        schema(a={"type": "array", "items": schema(b=marked())}),
        schema(a={"anyOf": [marked(), {"type": "null"}]}),
        schema() | {"oneOf": [schema(a=marked())]},
        schema() | {"allOf": [{"if": schema(a=marked())}]},
        schema() | {"not": schema(a=marked())},
        schema() | {"$defs": {"region": marked()}},
        schema() | {"definitions": {"region": marked()}},
        schema() | {"patternProperties": {"^r": marked()}},
        schema() | {"dependentSchemas": {"a": schema(b=marked())}},
        schema() | {"additionalProperties": marked()},
    ],
)
def test_an_annotation_that_is_none_is_refused(broken):
    with pytest.raises(ValueError, match="x-mcp-header"):
        declared(broken)


@pytest.mark.parametrize(
    "harmless",
    [
        {},
        schema(a={"type": "object", "default": marked("!?"), "examples": [marked(7)], "const": marked(None)}),
        schema(a={"enum": [marked("a b")]}),
        schema(**{"x-mcp-header": {"type": "string"}}),
        schema(a={"$ref": "#/x", "x": marked("a b")}),
        True,
        None,
        [marked()],
    ],
)
def test_the_key_means_nothing_where_there_is_no_schema(harmless):
    assert declared(harmless) == {}


def test_a_broken_tool_is_left_out_alone_and_the_others_are_remembered():
    found = upstream()
    good, broken = {"name": "good", "inputSchema": schema(region=marked())}, {"name": "broken", "inputSchema": marked()}

    kept = admitted(found, raws(broken, good, {"name": "plain", "inputSchema": {}}))

    assert named(kept) == ["good", "plain"]
    assert found.param_headers == {"good": {"Region": ("region",)}}


def test_a_tool_that_no_longer_declares_a_header_is_forgotten():
    found = upstream()
    for properties in ({"a": marked()}, {"a": {"type": "string"}}):
        admitted(found, raws({"name": "t", "inputSchema": schema(**properties)}))

    assert found.param_headers == {}


@pytest.mark.parametrize(("era", "transport"), [("legacy", "http"), ("modern", "stdio"), ("legacy", "stdio")])
def test_servers_that_know_no_such_headers_may_annotate_what_they_like(era, transport):
    found = upstream(era, transport)

    kept = admitted(found, raws({"name": "t", "inputSchema": marked("a b")}))

    assert named(kept) == ["t"]
    assert found.param_headers == {}
