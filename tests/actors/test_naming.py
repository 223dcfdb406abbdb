"""The names that a client uses, and the way back to the server's own."""

import json

import msgspec
import pytest

from mcpctl.actors.upstream_router.naming import LONGEST, Naming
from mcpctl.actors.upstream_router.project import Project
from mcpctl.bus.contracts.catalog import UpstreamServer, View


def server(name):
    return UpstreamServer(name=name, slug=name, revision="1", transport="http", isolation="shared")


GIT = Naming(server("git"), prefixed=True)
PLAIN = Naming(server("git"), prefixed=False)
APP = {"ui": {"resourceUri": "ui://app/x", "visibility": ["model"]}, "ui/resourceUri": "ui://app/x", "n": 1}


def item(naming, **fields):
    return json.loads(naming.item(msgspec.Raw(json.dumps(fields).encode())))


@pytest.mark.parametrize("name", ["log", "a__b", "_", "Ünïcode", "x" * 59])
def test_a_name_leads_back_to_the_server(name):
    assert GIT.tool_name(name) == f"git__{name}"
    assert GIT.original_name(GIT.tool_name(name)) == name


def test_a_long_name_is_cut_to_one_of_its_own():
    cut = {GIT.tool_name("x" * 60 + end) for end in ("a", "b")}

    assert {len(name) for name in cut} == {LONGEST}
    assert len(cut) == 2
    assert all(GIT.is_cut(name) for name in cut)
    assert not GIT.is_cut("git__log")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [("file:///a", "git+file:///a"), ("ui://app/x", "ui://git/app/x"), ("", "git+"), ("é:é", "git+é:é")],
)
def test_a_uri_leads_back_to_the_server(uri, shown):
    assert GIT.uri(uri) == shown
    assert GIT.original_uri(shown) == uri


def test_a_tool_shown_by_a_resource_names_it_as_the_list_of_resources_does():
    shown = item(GIT, name="log", inputSchema={}, _meta=APP)

    assert shown["_meta"] == {
        "ui": {"resourceUri": "ui://git/app/x", "visibility": ["model"]},
        "ui/resourceUri": "ui://git/app/x",
        "n": 1,
    }
    assert item(GIT, uri="ui://app/x", name="app")["uri"] == shown["_meta"]["ui/resourceUri"]


@pytest.mark.parametrize("meta", [None, "ui://x", {"ui": None}, {"ui": "ui://x"}, {"x": "ui://x"}])
def test_other_facts_about_a_tool_stay_as_they_are(meta):
    fields = {"name": "log", "description": "reads ui://x", "inputSchema": {}, "_meta": meta}

    assert item(GIT, **fields) == fields | {"name": "git__log"}


def test_without_prefixes_the_bytes_stay():
    text = b'{ "name" : "log", "_meta":{"ui":{"resourceUri":"ui://x"}} }'

    assert PLAIN.item(text) is text


@pytest.mark.parametrize(
    ("naming", "servers", "single", "prefixed"),
    [
        ("prefix", ("git", "time"), None, True),
        ("prefix", ("git",), None, True),
        ("plain", ("git",), None, False),
        ("prefix", ("git", "time"), "git", False),
        (None, ("git", "time"), None, True),
        (None, ("git",), None, False),
    ],
)
def test_names_bear_prefixes_as_the_project_says_but_at_the_endpoint_of_a_single_server(
    naming, servers, single, prefixed
):
    view = View(epoch="e", seq=1, project="p", servers=tuple(map(server, servers)), naming=naming)
    project = Project(view, single)

    assert {each.prefixed for each in project.namings} == {prefixed}
    assert project.of_name("git__log" if prefixed else "log").server.name == "git"
    assert (project.of_name("log") is None) == prefixed
    assert (project.of_uri("file:///a") is None) == prefixed
