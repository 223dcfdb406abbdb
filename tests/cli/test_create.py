"""`create` of mcptokens, groups and definitions, against real actors."""

import json
import re

import pytest
import yaml


@pytest.fixture
def shop(cli):
    """A project whose mcptokens may last 90 days at the most."""
    cli.ok("create", "project", "shop", "--server", "time", "--max-token-ttl", "90d")
    yield "shop"
    cli.run("delete", "project", "shop")


def document(cli, noun, name, *options):
    return yaml.safe_load(cli.ok("get", noun, name, "-o", "yaml", *options))


def test_with_o_token_the_bearer_is_all_that_is_printed(cli, shop):
    done = cli.run("create", "mcptoken", "bare", "-p", shop, "-o", "token")

    assert re.fullmatch(r"mcpctl_pat_\S+\n", done.stdout)


def test_a_new_mcptoken_tells_its_expiry_and_what_it_may_do(cli, shop):
    told = cli.ok("create", "mcptoken", "told", "-p", shop, "--bind", "role:run,resource:servers").splitlines()

    assert told[0].startswith('mcptoken "told" of project "shop" created; it expires in 30d (')
    assert told[1] == "It may: role:run,resource:servers"
    assert told[3].startswith("mcpctl_pat_")


def test_bindings_and_a_clone_of_ones_own_rights_are_combined(cli, shop):
    command = ("create", "mcptoken", "both", "-p", shop, "--rbac", "clone", "--bind", "role:run,resource:servers")

    issued = json.loads(cli.ok(*command, "-o", "json"))

    bindings = issued["token"]["roleBindings"]
    assert {"role": "run", "resource": "servers"} in bindings
    assert len(bindings) > 1
    assert issued["bearer"].startswith("mcpctl_pat_")


@pytest.mark.parametrize(
    ("ttl", "shown"), [("12h", "in 12h"), ("2d", "in 2d"), ("1d12h", "in 1d"), ("2099-01-01", None), ("never", None)]
)
def test_a_ttl_is_taken_in_each_form_unless_the_project_caps_it(cli, shop, ttl, shown):
    command = ("create", "mcptoken", "timed", "-p", shop, "--ttl", ttl)

    if shown is None:
        assert cli.refused(*command).startswith("Error: ")
    else:
        assert f"it expires {shown} (" in cli.ok(*command)


def test_a_token_that_never_expires_has_to_be_asked_for(cli):
    cli.ok("create", "project", "endless")
    try:
        assert "; it never expires." in cli.ok("create", "mcptoken", "old", "-p", "endless", "--ttl", "never")
        assert document(cli, "mcptoken", "old", "-p", "endless")["ttl"] == "never"
    finally:
        cli.ok("delete", "project", "endless")


def test_an_active_name_is_taken_until_it_is_forced(cli, shop):
    cli.ok("create", "mcptoken", "twice", "-p", shop)

    assert cli.refused("create", "mcptoken", "twice", "-p", shop).startswith("Error: ")
    cli.ok("create", "mcptoken", "twice", "-p", shop, "--force", "--description", "the second")

    listed = json.loads(cli.ok("get", "mcptokens", "-p", shop, "-o", "json"))["items"]
    states = sorted(token["status"]["state"] for token in listed if token["name"] == "twice")
    assert states == ["active", "revoked"]
    assert document(cli, "mcptoken", "twice", "-p", shop)["description"] == "the second"


def test_an_mcptoken_is_described_whole(cli, shop):
    options = ("--bind", "role:run,resource:servers", "--label", "team=shop", "--description", "For CI")
    cli.ok("create", "mcptoken", "whole", "-p", shop, *options)

    told = cli.ok("describe", "mcptoken", "whole", "-p", shop)

    for line in (
        r"Name: +whole",
        r"Project: +shop",
        r"Status: +active",
        r"Description: +For CI",
        r"Labels:\n  team: +shop",
        r"Owner: +User admin \(in admins\)",
        r"Parent: +-",
        r"Prefix: +mcpctl_pat_\S+",
        r"Id: +[0-9a-f]{64}",
        r"Expires at: +.* \(in 30d\)",
        r"Quota: +-",
        r"Last use: +never",
        r"Bindings:\n  role:run,resource:servers",
    ):
        assert re.search(line, told), f"{line}\n{told}"
    cli.ok("revoke", "mcptoken", "whole", "-p", shop)
    assert re.search(r"Revoked at: .*\nLast use: +never\nBindings: +none any more", _ended(cli, shop))


def _ended(cli, project):
    return cli.ok("describe", "mcptokens", "-p", project)


def test_a_group_has_members_and_is_a_member_itself(cli):
    cli.ok("create", "group", "all-hands", "--description", "Everybody")
    cli.ok("create", "group", "devs", "--member", "User:admin", "--group", "all-hands", "--label", "team=shop")
    try:
        shown = document(cli, "group", "devs")
        assert shown["groups"] == ["all-hands"]
        assert shown["labels"] == {"team": "shop"}
        assert shown["status"]["members"] == ["User:admin"]
        assert "Group:devs" in document(cli, "group", "all-hands")["status"]["members"]
        assert re.search(r"Members:\n  User:admin", cli.ok("describe", "group", "devs"))
    finally:
        assert cli.ok("delete", "groups", "devs", "all-hands") == 'group "devs" deleted\ngroup "all-hands" deleted\n'


def test_a_definition_of_an_mcptoken_names_it_and_keeps_its_id(cli, shop):
    cli.ok("create", "mcptoken", "ci", "-p", shop)
    id_ = document(cli, "mcptoken", "ci", "-p", shop)["status"]["id"]
    command = ("create", "rbac", "for-ci", "--subject", "McpToken:ci", "--roleBindings", "role:view,resource:servers")

    cli.ok(*command, "-p", shop)

    assert document(cli, "rbac", "for-ci")["subjects"] == [f"McpToken:{id_}"]
    cli.ok("delete", "rbac", "for-ci")
    assert "mcptokens are named within a project: add -p PROJECT" in cli.refused(*command, code=2)
    missing = [word.replace("McpToken:ci", "McpToken:no") for word in command]
    assert cli.refused(*missing, "-p", shop) == 'Error: McpToken:no: mcptoken "no" not found in project "shop"'


def test_a_definition_takes_bindings_by_name_operation_and_argument(cli):
    when = 'role:run,resource:tools,name:git/*,when:{"repo":{"glob":"acme/*"}}'
    bindings = ("role:view,resource:servers,name:my-ha", "action:logs", when)
    options = [word for binding in bindings for word in ("--roleBindings", binding)]

    cli.ok("create", "rbac", "forms", "--subject", "User:ann", *options, "--label", "a=b")

    shown = document(cli, "rbac", "forms")
    described = cli.ok("describe", "rbac", "forms")
    cli.ok("delete", "rbac", "forms")
    assert shown["roleBindings"][:2] == [
        {"role": "view", "resource": "servers", "name": "my-ha"},
        {"role": "run", "action": "logs"},
    ]
    assert shown["roleBindings"][2]["when"] == {"repo": {"glob": "acme/*"}}
    assert "role:view,resource:servers,name:my-ha" in described


def test_what_was_created_can_be_printed_as_its_document(cli):
    created = yaml.safe_load(cli.ok("create", "project", "printed", "--label", "a=b", "-o", "yaml"))

    cli.ok("delete", "project", "printed")
    assert (created["kind"], created["name"], created["labels"]) == ("project", "printed", {"a": "b"})
