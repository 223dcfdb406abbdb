"""`delete` and `revoke` of several, where some fail."""

import json


def test_what_cannot_be_deleted_keeps_no_other_from_it(cli):
    cli.ok("create", "project", "gone")

    done = cli.run("delete", "project", "Not_A_Name", "nine", "gone")

    assert done.returncode == 1
    assert done.stdout == 'project "gone" deleted\n'
    confirmed, *errors = sorted(done.stderr.splitlines(), key=lambda line: line.startswith("Error: "))
    assert confirmed.startswith("confirmed by ")
    assert len(errors) == 2


def test_what_is_not_there_may_count_as_deleted(cli):
    done = cli.run("delete", "project", "nine", "--ignore-not-found")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_name_that_is_given_twice_is_deleted_once(cli):
    cli.ok("create", "project", "once")

    assert cli.ok("delete", "project", "once", "project/once") == 'project "once" deleted\n'


def test_mcptokens_are_revoked_by_their_labels_wherever_they_are(cli):
    for project in ("left", "right"):
        cli.ok("create", "project", project)
        cli.ok("create", "mcptoken", "bot", "-p", project, "--label", "team=x")
        cli.ok("create", "mcptoken", "other", "-p", project)
    try:
        assert cli.ok("revoke", "mcptokens", "-l", "team=x") == 'mcptoken "bot" revoked\n' * 2
        for project in ("left", "right"):
            items = json.loads(cli.ok("get", "mcptokens", "-p", project, "-o", "json"))["items"]
            assert {item["name"]: item["status"]["state"] for item in items} == {"bot": "revoked", "other": "active"}
        assert "No mcptokens found with these labels." in cli.run("revoke", "mcptokens", "-l", "team=x").stderr
        assert cli.ok("delete", "mcptokens", "-p", "left", "-l", "team=x") == 'mcptoken "bot" deleted\n'
    finally:
        cli.ok("delete", "project", "left", "right")
