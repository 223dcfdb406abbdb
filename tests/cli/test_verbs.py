"""Each noun through its verbs, against real actors."""

import json

import pytest
import yaml

LABEL_FAULT = "must be 1 to 63 of a-z, 0-9 and inner hyphens"


@pytest.fixture
def project(cli):
    cli.ok("create", "project", "shop", "--server", "time", "--naming", "prefix", "--description", "For the shop")
    yield "shop"
    cli.run("delete", "project", "shop")


def rows_of(table):
    """Return a printed table as a list of rows, each a mapping from title to cell."""
    titles, *lines = ([cell.strip() for cell in line.split("   ") if cell.strip()] for line in table.splitlines())
    return [dict(zip(titles, line, strict=False)) for line in lines]


def test_a_project_is_created_listed_shown_edited_and_deleted(cli):
    assert cli.ok("create", "project", "web", "--server", "time", "--server", "git") == 'project "web" created\n'
    assert {"NAME": "web", "SERVERS": "time, git"}.items() <= rows_of(cli.ok("get", "projects"))[-1].items()
    assert json.loads(cli.ok("get", "project", "web", "-o", "json"))["servers"] == ["time", "git"]
    assert cli.ok("edit", "project", "web", "--set", "servers=[git]") == 'project "web" edited\n'
    assert yaml.safe_load(cli.ok("get", "proj/web", "-o", "yaml"))["servers"] == ["git"]
    assert cli.ok("delete", "project", "web") == 'project "web" deleted\n'
    assert cli.refused("get", "project", "web") == 'Error: project "web" not found'


def test_a_server_is_created_listed_shown_edited_and_deleted(cli, project):
    url = "http://127.0.0.1:9/mcp"
    cli.ok("create", "server", "away", "--url", url, "--header", "X-Team=core", "--prefix", "a", "--project", project)

    row = next(row for row in rows_of(cli.ok("get", "servers")) if row["NAME"] == "away")
    assert (row["TRANSPORT"], row["PROJECTS"], row["TARGET"]) == ("http", "shop", url)
    assert cli.ok("get", "servers", "-p", project, "-o", "name").split() == ["server/away", "server/time"]
    cli.ok("edit", "server", "away", "--set", "headers.X-Team=shop", "--set", "headers.X-More=1.0")
    cli.ok("edit", "server", "away", "--set", "headers.X-Team=null")
    described = cli.ok("describe", "server", "away")
    assert "X-Team" not in described
    assert "Url:" in described
    assert cli.ok("delete", "server/away") == 'server "away" deleted\n'


def test_a_command_is_split_into_words_as_a_shell_would(cli):
    cli.ok("create", "server", "words", "--command", "run 'two words' three", "--env", "A=b=c")

    spec = json.loads(cli.ok("get", "server", "words", "-o", "json"))
    cli.ok("delete", "server", "words")
    assert spec["command"] == ["run", "two words", "three"]
    assert spec["env"] == {"A": "b=c"}


def test_a_secret_is_read_from_stdin_or_a_file_and_never_shown(cli, tmp_path):
    file = tmp_path / "value"
    file.write_text("Bearer from-the-file\n")

    assert cli.ok("create", "secret", "key", stdin="Bearer from-stdin\n") == 'secret "key" created\n'
    assert "already" in cli.refused("create", "secret", "key", stdin="x")
    cli.ok("create", "secret", "key", "--replace", "--from-file", str(file))
    cli.ok("create", "server", "sealed", "--url", "http://127.0.0.1:9/", "--header", "Authorization=secret:key")
    shown = cli.ok("get", "secret", "key", "-o", "json") + cli.ok("describe", "server", "sealed")

    assert "from-" not in shown
    assert "secret:key" in shown
    assert "sealed" in cli.refused("delete", "secret", "key")
    cli.ok("delete", "server", "sealed")
    cli.ok("delete", "secret", "key")


def test_a_secret_without_a_value_is_refused(cli):
    assert cli.refused("create", "secret", "nothing", code=2, stdin="") == "Error: the value is empty"


def test_a_user_is_created_edited_and_deleted_and_can_log_in_meanwhile(cli, tmp_path):
    own = {"MCPCTL_CONFIG": str(tmp_path / "config.yaml")}
    login = ("login", "--user", "ann@example.org", "--nats-url", cli.nats_url, "--password-stdin")
    cli.ok("create", "group", "devs")
    cli.ok("create", "user", "ann@example.org", "--group", "devs", "--password-stdin", stdin="first-password\n")

    told = cli.ok(*login, stdin="first-password\n", **own)
    assert 'logged in as ann@example.org in context "default"' in told
    assert "in devs" in cli.ok("auth", "whoami", **own)
    assert "not allowed" in cli.refused("get", "projects", **own)
    cli.ok("edit", "user", "ann@example.org", "--password-stdin", stdin="second-password\n")
    assert "wrong user or password" in cli.refused(*login, stdin="first-password\n", **own)
    cli.ok(*login, stdin="second-password\n", **own)
    cli.ok("edit", "user", "ann@example.org", "--set", "disabled=true")
    refused = cli.refused("get", "projects", **own)
    assert "the login session has ended: run mcpctl login --user ann@example.org" in refused
    cli.ok("delete", "user", "ann@example.org")
    cli.ok("delete", "group", "devs")


def test_a_logout_ends_the_session_and_forgets_it(cli, tmp_path):
    own = {"MCPCTL_CONFIG": str(tmp_path / "config.yaml")}
    password = (cli.data / "admin-password").read_text()
    cli.ok("login", "--user", "admin", "--nats-url", cli.nats_url, "--password-stdin", stdin=password, **own)

    assert cli.ok("logout", **own) == 'logged out of context "default"\n'
    assert "not logged in" in cli.refused("get", "projects", **own)
    assert "mcpctl_ses_" not in (tmp_path / "config.yaml").read_text()
    assert cli.ok("logout", **own) == 'not logged in in context "default"\n'


def test_a_definition_is_created_listed_edited_and_deleted(cli, project):
    cli.ok(
        "create",
        "rbac",
        "readers",
        "--subject",
        "Group:devs",
        "--roleBindings",
        "role:view,resource:servers",
        "-p",
        project,
    )

    row = next(row for row in rows_of(cli.ok("get", "rbac", "-p", project)) if row["NAME"] == "readers")
    assert (row["SUBJECTS"], row["BINDINGS"]) == ("Group:devs", "role:view,resource:servers")
    cli.ok("edit", "rbac", "readers", "--set", "roleBindings=[{role: run, resource: tools, name: time/*}]")
    assert "role:run,resource:tools,name:time/*" in cli.ok("describe", "rbac", "readers")
    refused = cli.refused("edit", "rbac", "readers", "--set", "roleBindings=[{role: fly}]", code=2)
    assert refused.startswith("Error: roleBindings.0.role: must be 'view'")
    cli.ok("delete", "rbac", "readers")


def test_a_service_account_and_its_bearer(cli):
    cli.ok("create", "group", "robots")
    cli.ok("create", "sa", "build", "--group", "robots", "--description", "CI")

    bearer = cli.ok("create", "serviceaccount-token", "build", "--ttl", "1h", "-o", "token").strip()
    assert bearer.startswith("mcpctl_sa_")
    assert rows_of(cli.ok("get", "sa"))[0] | {"AGE": ""} == {
        "NAME": "build",
        "GROUPS": "robots",
        "AGE": "",
        "DESCRIPTION": "CI",
    }
    assert cli.refused("get", "sa", "other") == 'Error: serviceaccount "other" not found'
    cli.ok("delete", "sa", "build")
    cli.ok("delete", "group", "robots")


def test_an_mcptoken_works_until_it_is_revoked(cli):
    bindings = ("--bind", "role:run,resource:servers")
    token = cli.ok("create", "mcptoken", "agent", "-p", "demo", *bindings, "--ttl", "12h", "-o", "token").strip()

    assert "PASSED" in cli.ok("test", "mcp", cli.endpoint, MCPCTL_TOKEN=token)
    row = next(row for row in rows_of(cli.ok("get", "mcptokens", "-p", "demo")) if row["NAME"] == "agent")
    assert (row["STATUS"], row["EXPIRES"]) == ("active", "in 12h")
    assert "role:run,resource:servers" in cli.ok("describe", "mcptoken", "agent", "-p", "demo")
    assert cli.ok("revoke", "mcptoken", "agent", "-p", "demo") == 'mcptoken "agent" revoked\n'
    refused = cli.run("test", "mcp", cli.endpoint, MCPCTL_TOKEN=token)
    assert refused.returncode == 1
    assert "HTTP 401: the token is revoked" in refused.stdout
    assert "revoked" in cli.ok("get", "mcptoken", "agent", "-p", "demo")
    cli.ok("delete", "token", "agent", "-p", "demo")
    assert cli.refused("get", "token", "agent", "-p", "demo") == 'Error: mcptoken "agent" not found in project "demo"'


def test_one_bearer_of_a_service_account_is_revoked_as_its_issue_says(cli):
    cli.ok("create", "serviceaccount", "herald")
    told = cli.ok("create", "serviceaccounttoken", "herald").splitlines()
    other = cli.ok("create", "serviceaccounttoken", "herald", "-o", "token").strip()
    said, command = told[1].split(": mcpctl ")

    assert said == "It is ended with"
    assert cli.ok(*command.split()) == 'token of service account "herald" revoked\n'

    assert "is not accepted" in cli.run("auth", "whoami", MCPCTL_TOKEN=told[3]).stderr
    assert cli.ok("auth", "whoami", MCPCTL_TOKEN=other).startswith("ServiceAccount herald")
    wrong = cli.refused("revoke", "serviceaccounttoken", "herald", "0" * 64)
    assert wrong == "Error: service account herald has no bearer with that id"
    assert "NAME ID" in cli.refused("revoke", "serviceaccounttoken", "herald", code=2)
    assert "id" in cli.refused("revoke", "serviceaccounttoken", "herald", "nonsense", code=2)
    cli.ok("delete", "serviceaccount", "herald")


def test_a_new_mcptoken_is_shown_once_with_its_expiry(cli, project):
    done = cli.run("create", "mcptoken", "once", "-p", project)

    told = done.stdout.splitlines()
    assert told[0].startswith('mcptoken "once" of project "shop" created; it expires in 30d (')
    assert told[1] == "This is its bearer, shown only now:"
    assert told[2].startswith("mcpctl_pat_")
    assert "--bind" in done.stderr
    assert told[2] not in cli.ok("get", "mcptokens", "-o", "json") + cli.ok(
        "describe", "mcptoken", "once", "-p", project
    )


def test_a_token_for_a_project_that_is_not_there_names_the_project(cli):
    refused = cli.refused("create", "mcptoken", "a", "-p", "nowhere")

    assert refused == "Error: there is no project nowhere: create it first"


def test_several_are_deleted_and_each_missing_one_is_named(cli):
    cli.ok("create", "project", "one")
    cli.ok("create", "project", "two")

    done = cli.run("delete", "project", "one", "nine", "two", "ten")

    assert done.returncode == 1
    assert done.stdout == 'project "one" deleted\nproject "two" deleted\n'
    errors = [line for line in done.stderr.splitlines() if not line.startswith("confirmed by ")]
    assert errors == ['Error: project "nine" not found', 'Error: project "ten" not found']


def test_names_of_one_output_are_the_input_of_the_next(cli):
    cli.ok("create", "project", "pipe-a")
    cli.ok("create", "project", "pipe-b")

    names = [name for name in cli.ok("get", "projects", "-o", "name").split() if "pipe" in name]

    assert cli.ok("delete", *names) == 'project "pipe-a" deleted\nproject "pipe-b" deleted\n'


def test_an_empty_list_is_no_error(cli):
    cli.ok("create", "project", "without-tokens")
    done = cli.run("get", "mcptokens", "-p", "without-tokens")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "No mcptokens found in project without-tokens.\n")
    assert json.loads(cli.ok("get", "mcptokens", "-p", "without-tokens", "-o", "json")) == {"items": []}
    cli.ok("delete", "project", "without-tokens")


def test_what_exists_already_is_refused(cli, project):
    assert cli.refused("create", "project", project) == "Error: project shop exists already"


def test_a_fault_of_a_request_is_told_in_words(cli):
    assert cli.refused("get", "project", "Not_A_Name", code=2) == f"Error: name: {LABEL_FAULT}"


def test_who_am_i_and_what_may_i_do(cli):
    assert cli.ok("auth", "whoami").startswith("User admin, in admins; the session ends in 1")
    assert cli.ok("auth", "can-i", "get", "servers", "-p", "demo").startswith("yes\n")
    assert cli.ok("auth", "can-i", "escalate").startswith("yes\n")
    assert "verb: must be" in cli.refused("auth", "can-i", "fly", "servers", code=2)


def test_no_is_an_answer_with_exit_code_1(cli, tmp_path):
    own = {"MCPCTL_CONFIG": str(tmp_path / "config.yaml")}
    cli.ok("create", "user", "bob", "--password-stdin", stdin="bobs-password\n")
    cli.ok("login", "--user", "bob", "--nats-url", cli.nats_url, "--password-stdin", stdin="bobs-password\n", **own)

    done = cli.run("auth", "can-i", "edit", "servers", "-p", "demo", **own)

    cli.ok("delete", "user", "bob")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("no\n")
