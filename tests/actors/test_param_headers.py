"""Headers that repeat arguments: made for clients that do not know them, checked for those that do."""

import orjson
import pytest

from mcpctl.actors.upstream_router.param_headers import make, why_not

DECLARED = {"Region": ("region",), "Count": ("count",), "Dry-Run": ("options", "dry")}


def arguments(**values):
    return orjson.dumps(values)


def test_they_are_made_of_what_is_there():
    made = make(DECLARED, arguments(region="us-west1", count=42, options={"dry": True}))

    assert made == {"Mcp-Param-Region": "us-west1", "Mcp-Param-Count": "42", "Mcp-Param-Dry-Run": "true"}


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
    ],
)
def test_what_no_header_can_carry_is_encoded_and_understood(text, header):
    assert make({"Text": ("text",)}, arguments(text=text)) == {"Mcp-Param-Text": header}
    assert why_not({"Text": ("text",)}, arguments(text=text), {"Mcp-Param-Text": header}) is None


@pytest.mark.parametrize("values", [{}, {"region": None}, {"region": {"nested": 1}}, {"region": [1]}])
def test_none_is_made_or_expected_of_what_is_not_there_or_is_no_scalar(values):
    assert make({"Region": ("region",)}, arguments(**values)) == {}
    assert why_not({"Region": ("region",)}, arguments(**values), {}) is None


@pytest.mark.parametrize(
    ("values", "sent", "wrong"),
    [
        ({"region": "eu"}, {}, "must repeat the argument region"),
        ({"region": "eu"}, {"Mcp-Param-Region": "us"}, "does not match the argument region"),
        ({"region": "eu"}, {"Mcp-Param-Region": "EU"}, "does not match"),
        ({"region": "eu"}, {"Mcp-Param-Region": "=?base64?!!!?="}, "cannot be decoded"),
        ({"region": "eu"}, {"Mcp-Param-Region": "=?base64?/w==?="}, "cannot be decoded"),
        ({}, {"Mcp-Param-Region": "eu"}, "does not match"),
        ({"region": None}, {"Mcp-Param-Region": "null"}, "does not match"),
        ({"count": 42}, {"Mcp-Param-Count": "43"}, "does not match the argument count"),
        ({"count": 42}, {"Mcp-Param-Count": "42.5"}, "does not match"),
        ({"options": {"dry": True}}, {"Mcp-Param-Dry-Run": "True"}, "does not match the argument options.dry"),
    ],
)
def test_what_differs_is_told(values, sent, wrong):
    assert wrong in why_not(DECLARED, arguments(**values), sent)


@pytest.mark.parametrize(
    ("values", "sent"),
    [
        ({"region": "eu"}, {"mcp-param-region": "eu"}),
        ({"region": "eu"}, {"Mcp-Param-Region": " \teu "}),
        ({"count": 42}, {"Mcp-Param-Count": "42.0"}),
        ({"count": 42.0}, {"Mcp-Param-Count": "42"}),
        ({"region": "eu"}, {"Mcp-Param-Region": "eu", "Mcp-Param-Unknown": "anything"}),
    ],
)
def test_what_means_the_same_passes(values, sent):
    assert why_not(DECLARED, arguments(**values), sent) is None
