"""What the ledger is good for: what a token touched, what would have been enough for it, what a new policy would do."""

import json
import time
import urllib.request

import pytest
import yaml

from tests.cli.test_audit import tailing

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
UTC, BERLIN = {"timezone": "UTC"}, {"timezone": "Europe/Berlin"}


def call(cli, bearer, name, arguments):
    """Call a tool of the demo; return whether the call was allowed."""
    params = {"name": name, "arguments": arguments, "_meta": META}
    headers = {
        "Authorization": f"Bearer {bearer}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": name,
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(cli.endpoint, body, headers), timeout=30) as answer:
            return '"error":{' not in answer.read().decode()
    except urllib.error.HTTPError as error:
        assert error.code == 400, error.read()
        return False


def issue(cli, name, *bindings):
    options = [word for binding in bindings for word in ("--bind", binding)]
    return cli.ok("create", "mcptoken", name, "-p", "demo", *options, "-o", "token").strip()


def reported(cli, name, calls):
    """Return the report on a token, as soon as the ledger has all its calls and their results."""
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        told = json.loads(cli.ok("audit", "report", "--token", name, "-p", "demo", "-o", "json"))
        if told["calls"] == calls:
            return told
    raise AssertionError(told)


def replayed(cli, text):
    """Return the replay of documents: its sums, and what is not as before of the token `learner`."""
    told = json.loads(cli.ok("apply", "--dry-run", "--replay", "1h", "-f", "-", "-o", "json", stdin=text))["replay"]
    items = [item for item in told["items"] if item["principal"] == "token-learner"]
    return told["calls"], [(item["would"], item["what"], item["calls"], item["was"]) for item in items], items


@pytest.fixture(scope="module")
def learner(cli):
    """A token with wide rights that used little of them; `narrow` was refused something."""
    bearer = issue(cli, "learner", "role:run,resource:servers,name:time", "role:run,resource:servers,name:notes")
    for arguments in (UTC, BERLIN, UTC):
        assert call(cli, bearer, "time__get_current_time", arguments)
    assert call(cli, bearer, "notes__count", {"to": 1})
    assert not call(cli, bearer, "git__git_log", {"repo_path": "/"})
    assert not call(cli, issue(cli, "narrow", "role:run,resource:servers,name:notes"), "time__get_current_time", UTC)
    reported(cli, "learner", 5)
    reported(cli, "narrow", 1)
    return bearer


def test_a_report_sums_up_what_a_token_touched(cli, learner):
    told = reported(cli, "learner", 5)

    assert (told["servers"], told["tools"]) == (
        ["git", "notes", "time"],
        ["git/git_log", "notes/count", "time/get_current_time"],
    )
    most = told["items"][0]
    assert (most["server"], most["name"], most["calls"], most["digests"]) == ("time", "get_current_time", 3, 2)
    assert {len(digest) for digest in most["args"]} == {64}
    assert most["first"] < most["last"]
    table = cli.ok("audit", "report", "--token", "learner", "-p", "demo").splitlines()
    assert table[0].startswith("mcptoken learner of project demo: 5 calls, 3 tools of 3 servers, first ")
    assert table[1].split("  ")[0] == "TOKEN"
    (refused,) = (line.split() for line in table if "git/git_log" in line)
    assert refused[2:6] == ["git/git_log", "1", "1", "0"]


def test_what_is_suggested_allows_what_was_done_and_nothing_else(cli, learner):
    asked = ("suggest", "rbac", "--from-audit", "1h", "--token", "learner", "-p", "demo")
    text = cli.ok(*asked)
    remarks, bindings = text.splitlines()[:3], yaml.safe_load(text)["roleBindings"]

    assert remarks[0].startswith("# From 4 allowed calls of mcptoken learner since 1h, between ")
    assert bindings == [
        {"role": "run", "resource": "tools", "name": "notes/count"},
        {"role": "run", "resource": "tools", "name": "time/get_current_time"},
    ]
    flags = "--bind role:run,resource:tools,name:notes/count --bind role:run,resource:tools,name:time/get_current_time"
    assert cli.ok(*asked, "-o", "flags") == flags + "\n"
    assert remarks[2].endswith(f"-p demo {flags}")
    least = cli.ok("create", "mcptoken", "least", "-p", "demo", *flags.split(), "-o", "token").strip()
    assert call(cli, least, "time__get_current_time", BERLIN)
    assert call(cli, least, "notes__count", {"to": 1})
    assert not call(cli, least, "time__convert_time", {})
    sums, changes, _ = replayed(cli, text)
    assert (sums["deny"], sums["allow"], changes) == (0, 0, [])
    assert sums["same"] >= 6


def test_a_replay_tells_what_a_new_policy_would_deny_and_allow_and_what_it_cannot_know(cli, learner):
    text = cli.ok("suggest", "rbac", "--from-audit", "1h", "--token", "learner", "-p", "demo")
    wanted = yaml.safe_load(text)
    wanted["roleBindings"] = [
        {"role": "run", "resource": "tools", "name": "time/*", "when": {"timezone": {"equals": "UTC"}}},
        {"role": "run", "resource": "servers", "name": "git"},
    ]

    _, changes, items = replayed(cli, yaml.safe_dump(wanted))
    table = cli.ok("apply", "--dry-run", "--replay", "1h", "-f", "-", stdin=yaml.safe_dump(wanted)).splitlines()

    assert changes == [
        ("deny", "notes/count", 1, "allow"),
        ("allow", "git/git_log", 1, "deny"),
        ("unknown", "time/get_current_time", 3, "allow"),
    ]
    assert "nearest" in items[0]["reason"]
    assert items[2]["reason"].startswith("its arguments decide: definition mcptoken-")
    assert table[2:4] == [
        "  would deny 1 call by 1 mcptoken",
        "  would allow 1 call that was denied by 1 mcptoken",
    ]
    # The owner's rights hang on groups, which these documents would change.
    _, changes, items = replayed(cli, f"{text}---\nkind: group\nname: newcomers\n")
    assert {would for would, *_ in changes} == {"unknown"}
    assert {item["reason"] for item in items} == {"the groups of admin may have been others then"}
    assert call(cli, learner, "notes__count", {"to": 1}), "nothing was applied"


def test_a_suggestion_that_is_applied_narrows_the_token_and_keeps_conditions(cli, learner):
    when = 'role:run,resource:tools,name:time/*,when:{"timezone":{"equals":"UTC"}}'
    bearer = issue(cli, "tamed", when, "role:run,resource:servers,name:notes")
    assert call(cli, bearer, "time__get_current_time", UTC)
    reported(cli, "tamed", 1)
    text = cli.ok("suggest", "rbac", "--from-audit", "1h", "--token", "tamed", "-p", "demo")
    assert [binding["when"] for binding in yaml.safe_load(text)["roleBindings"]] == [{"timezone": {"equals": "UTC"}}]

    cli.ok("apply", "-f", "-", stdin=text)

    assert call(cli, bearer, "time__get_current_time", UTC)
    assert not call(cli, bearer, "time__get_current_time", BERLIN)
    assert not call(cli, bearer, "notes__count", {"to": 1})


def test_a_revoked_token_is_reported_on_even_after_it_is_deleted(cli, learner):
    bearer = issue(cli, "leaked", "role:run,resource:servers,name:notes")
    assert call(cli, bearer, "notes__count", {"to": 1})
    sha = reported(cli, "leaked", 1)["items"][0]["token_sha"]

    told = cli.ok("revoke", "mcptoken", "leaked", "-p", "demo", "--report")
    cli.ok("delete", "mcptoken", "leaked", "-p", "demo")
    gone = cli.ok("audit", "report", "--token-sha", sha)

    assert "mcptoken leaked of project demo: 1 call, 1 tool of 1 server" in told
    assert [line for line in gone.splitlines() if "notes/count" in line]
    suggested = cli.ok("suggest", "rbac", "--from-audit", "1h", "--token", "leaked", "-p", "demo")
    assert yaml.safe_load(suggested) == {
        "kind": "mcptoken",
        "name": "leaked",
        "project": "demo",
        "roleBindings": ["role:run,resource:tools,name:notes/count"],
    }


def test_a_denial_is_found_by_the_tool_that_was_meant(cli, learner):
    chosen = ("-p", "demo", "--token", "narrow", "--tool", "time/*", "--outcome", "deny")

    with tailing(cli, *chosen) as next_with:
        assert "time/get_current_time" in next_with("token-narrow")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("apply", "-f", "-", "--replay", "1h"), 2, "--replay needs --dry-run"),
        (("audit", "report", "--token", "ci"), 2, "add -p PROJECT"),
        (("revoke", "mcptokens", "-l", "a=b", "--report"), 2, "--report is about mcptokens that are named"),
        (("suggest", "rbac", "--from-audit", "1h", "--token", "idle", "-p", "demo"), 1, "no allowed call of mcptoken"),
    ],
)
def test_what_cannot_be_told_is_said_in_one_line(cli, arguments, code, said):
    assert said in cli.refused(*arguments, code=code)


def test_what_was_called_before_a_group_changed_is_unknown_where_groups_decide(cli, learner):
    """The last one here: what it changes cannot be taken back."""
    text = cli.ok("suggest", "rbac", "--from-audit", "1h", "--token", "learner", "-p", "demo")
    before = json.loads(cli.ok("audit", "report", "--token", "learner", "-p", "demo", "-o", "json"))["items"]
    cli.ok("create", "group", "latecomers")
    cli.ok("delete", "group", "latecomers")
    assert call(cli, learner, "notes__count", {"to": 5})
    reported(cli, "learner", sum(item["calls"] for item in before) + 1)

    _, changes, _ = replayed(cli, text)

    allowed = {f"{item['server']}/{item['name']}": item["calls"] for item in before if "allow" in item["outcomes"]}
    assert {what: count for _, what, count, _ in changes} == allowed
    assert {would for would, *_ in changes} == {"unknown"}
