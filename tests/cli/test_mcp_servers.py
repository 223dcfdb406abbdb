"""The `mcpServers` JSON of MCP clients, read."""

import pytest

from mcpctl.cli.errors import CliError
from mcpctl.cli.mcp_servers import as_label, looks_secret, take


def taken(servers, key="mcpServers"):
    return take({key: servers}, "f.json")


@pytest.mark.parametrize("key", ["mcpServers", "servers", "mcp_servers"])
def test_a_command_with_arguments_and_variables_is_a_stdio_server(key):
    found = taken({"time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"TZ": "UTC"}}}, key)

    (server,) = found.servers
    assert (server.name, server.command, server.env) == ("time", ("uvx", "mcp-server-time"), {"TZ": "UTC"})
    assert found.secrets == []


@pytest.mark.parametrize("key", ["url", "serverUrl", "httpUrl"])
def test_a_url_with_headers_is_a_remote_server(key):
    found = taken({"far": {"type": "http", key: "https://example.org/mcp", "headers": {"X-Team": "a"}}})

    (server,) = found.servers
    assert (server.url, server.headers) == ("https://example.org/mcp", {"X-Team": "a"})


def test_what_looks_like_a_secret_is_sealed_and_referred_to():
    found = taken(
        {
            "gitHub": {
                "command": "gh",
                "env": {"GITHUB_TOKEN": "ghp_1", "API_KEY": "k", "PLAIN": "p", "PASSWORD": ""},
            },
            "far": {"url": "https://example.org/mcp", "headers": {"Authorization": "Bearer b"}},
        }
    )

    assert {secret.name: secret.value for secret in found.secrets} == {
        "git-hub-github-token": "ghp_1",
        "git-hub-api-key": "k",
        "far-authorization": "Bearer b",
    }
    assert found.servers[0].env == {
        "GITHUB_TOKEN": "secret:git-hub-github-token",
        "API_KEY": "secret:git-hub-api-key",
        "PLAIN": "p",
        "PASSWORD": "",
    }
    assert found.renamed == {"gitHub": "git-hub"}


@pytest.mark.parametrize(
    ("name", "label"),
    [("time", "time"), ("My Server", "my-server"), ("gitHub", "git-hub"), ("a__b", "a-b"), ("-x-", "x"), ("ü", "")],
)
def test_names_become_labels(name, label):
    assert as_label(name) == label


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "there is no mcpServers object"),
        ({"mcpServers": []}, "there is no mcpServers object"),
        ({"mcpServers": {}}, "is empty"),
        ({"mcpServers": {"ü": {"command": "x"}}}, "no name can be made"),
        ({"mcpServers": {"a b": {"command": "x"}, "a-b": {"command": "x"}}}, "would both be called a-b"),
        ({"mcpServers": {"a": []}}, "f.json: a: a server is an object"),
        ({"mcpServers": {"a": {}}}, "f.json: a: command and args: a text is expected"),
        ({"mcpServers": {"a": {"command": "x", "args": "y"}}}, "args is a list"),
        ({"mcpServers": {"a": {"command": "x", "args": [1]}}}, "a text is expected"),
        ({"mcpServers": {"a": {"command": "x", "env": {"N": 1}}}}, "env.N: a text is expected"),
        ({"mcpServers": {"a": {"command": "x", "env": {"K": "${input:key}"}}}}, "refers to a variable of the client"),
        ({"mcpServers": {"a": {"command": "x", "what": 1}}}, "not understood: what"),
        ({"mcpServers": {"a": {"type": "sse", "url": "http://x/sse"}}}, "the old HTTP+SSE transport"),
        ({"mcpServers": {"a": {"url": "ftp://x"}}}, "f.json: a: "),
    ],
)
def test_what_is_wrong_is_told_with_the_server(data, said):
    with pytest.raises(CliError) as refused:
        take(data, "f.json")

    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("value", "sealed"),
    [
        ("postgres://ann:hunter2@db/shop", True),
        ("https://example.org/shop", False),
        ("sk-abcdefgh12345678", True),
        ("Bearer x", True),
        ("0123456789abcdef0123456789abcdef", True),
        ("/home/ann/files", False),
        ("info", False),
    ],
)
def test_a_value_that_looks_like_a_secret_is_sealed_under_any_name(value, sealed):
    found = taken({"a": {"command": "x", "env": {"SHOP": value}}})

    assert found.servers[0].env == {"SHOP": "secret:a-shop" if sealed else value}


def test_what_is_named_plain_is_not_sealed():
    data = {"mcpServers": {"a": {"command": "x", "env": {"PUBLIC_KEY": "p", "KEY": "k"}}}}

    found = take(data, "f.json", plain=["PUBLIC_KEY"])

    assert found.servers[0].env == {"PUBLIC_KEY": "p", "KEY": "secret:a-key"}
    with pytest.raises(CliError, match=r"--plain names what is not in f\.json: OTHER"):
        take(data, "f.json", plain=["OTHER"])


def test_a_prefix_goes_before_the_names():
    found = take({"mcpServers": {"Time": {"command": "x"}}}, "f.json", prefix="team-")

    assert found.servers[0].name == "team-time"


def test_the_settings_of_vs_code_hold_the_servers_under_mcp():
    assert take({"mcp": {"servers": {"a": {"command": "x"}}}}, "settings.json").servers[0].name == "a"


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        ({"command": "x", "args": ["--api-key", "k"]}, "a: its arguments"),
        ({"command": "x", "args": ["postgres://ann:pw@db/shop"]}, "a: its arguments"),
        ({"url": "https://example.org/mcp?api_key=k"}, "a: its url"),
        ({"command": "x", "args": ["-y", "@scope/server-github"]}, None),
    ],
)
def test_a_secret_where_none_can_be_sealed_is_told(entry, where):
    assert taken({"a": entry}).in_clear == ([where] if where else [])


def test_no_value_is_ever_told():
    with pytest.raises(CliError) as refused:
        taken({"a": {"command": "x", "env": {"API KEY": "hunter2"}}})

    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("Authorization", "Bearer x", True),
        ("API_KEY", "x", True),
        ("Authorization", "secret:x", False),
        ("API_KEY", "", False),
        ("X-Team", "core", False),
    ],
)
def test_what_looks_like_a_secret_in_clear(name, value, secret):
    assert looks_secret(name, value) == secret
