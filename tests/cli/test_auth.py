"""`login`, `auth whoami` and `auth can-i`, as a person and a script use them."""

import json

import pytest

from tests.installation import Installation

PASSWORD = "carls-password"


@pytest.fixture(scope="module")
def carl(cli, tmp_path_factory):
    """The CLI of the user carl, who may call one tool of the project demo and view its servers."""
    own = Installation(tmp_path_factory.mktemp("carl"), 1)
    cli.ok("create", "user", "carl", "--password-stdin", stdin=f"{PASSWORD}\n")
    bindings = (
        "--roleBindings",
        "role:run,resource:tools,name:time/get_*",
        "--roleBindings",
        "role:view,resource:servers",
    )
    cli.ok("create", "rbac", "carls", "-p", "demo", "--subject", "User:carl", *bindings)
    login = ("login", "--user", "carl", "--nats-url", cli.nats_url, "--password-stdin")
    own.ok(*login, stdin=f"{PASSWORD}\n")
    yield own
    cli.ok("delete", "rbac", "carls")
    cli.ok("delete", "user", "carl")


def answer(installation, *question):
    """Return the two lines of an answer after the exit code that belongs to the first."""
    done = installation.run("auth", "can-i", *question)
    decision, reason = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == ({"yes": 0, "no": 1}[decision], "")
    return decision, reason


@pytest.mark.parametrize(
    ("question", "decision"),
    [
        (("run", "tools", "time/get_current_time"), "yes"),
        (("run", "tools", "time/convert_time"), "no"),
        (("view", "servers"), "yes"),
        (("get", "server/time"), "yes"),
        (("describe", "srv", "time"), "yes"),
        (("edit", "servers"), "no"),
        (("logs",), "no"),
        (("run", "logs"), "no"),
    ],
)
def test_the_answer_has_a_reason_and_an_exit_code(carl, question, decision):
    said, reason = answer(carl, *question, "-p", "demo")

    assert said == decision
    assert reason


def test_a_yes_names_the_definition_that_decided(carl):
    assert "carls" in answer(carl, "run", "tools", "time/get_current_time", "-p", "demo")[1]


def test_quiet_is_the_exit_code_alone(carl):
    for question, code in ((("view", "servers"), 0), (("edit", "servers"), 1)):
        done = carl.run("auth", "can-i", *question, "-p", "demo", "-q")

        assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("form", ["user:carl", "User:carl"])
def test_an_admin_asks_for_another(cli, carl, form):
    assert answer(cli, "run", "tools", "time/get_current_time", "-p", "demo", "--as", form)[0] == "yes"
    assert answer(cli, "edit", "servers", "-p", "demo", "--as", form)[0] == "no"


def test_an_admin_asks_for_an_mcptoken_and_a_service_account(cli):
    cli.ok("create", "serviceaccount", "robot")

    assert answer(cli, "run", "tools", "time/convert_time", "-p", "demo", "--as", "mcptoken:demo")[0] == "yes"
    for form in ("serviceaccount:robot", "sa:robot"):
        assert answer(cli, "view", "servers", "-p", "demo", "--as", form)[0] == "no"
    cli.ok("delete", "serviceaccount", "robot")


def test_who_may_not_impersonate_may_not_ask_for_another(carl):
    assert "impersonate" in carl.refused("auth", "can-i", "view", "servers", "-p", "demo", "--as", "user:admin")


def test_arguments_decide_where_a_binding_has_conditions(cli):
    when = 'role:run,resource:tools,name:time/*,when:{"timezone":{"in":["UTC"]}}'
    cli.ok("create", "mcptoken", "clock", "-p", "demo", "--bind", when)
    question = ("run", "tools", "time/get_current_time", "-p", "demo", "--as", "mcptoken:clock")

    allowed = answer(cli, *question, "--args", '{"timezone": "UTC"}')[0]
    denied = answer(cli, *question, "--args", '{"timezone": "Asia/Tokyo"}')[0]

    cli.ok("delete", "mcptoken", "clock", "-p", "demo")
    assert (allowed, denied) == ("yes", "no")


def test_the_verdict_is_data_for_programs(cli):
    verdict = json.loads(cli.ok("auth", "can-i", "edit", "servers", "-p", "demo", "-o", "json"))

    assert (verdict["allowed"], verdict["kind"], verdict["name"]) == (True, "User", "admin")


def test_the_rights_in_a_project_are_listed(carl):
    told = carl.ok("auth", "can-i", "--list", "-p", "demo").splitlines()

    assert [line.split()[:3] for line in told] == [
        ["ROLE", "RESOURCE", "NAME"],
        ["run", "tools", "time/get_*"],
        ["view", "servers", "-"],
    ]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ((), "say what to ask about"),
        (("fly", "servers"), "verb: must be"),
        (("view", "wings"), "resource: must be"),
        (("view", "servers", "--as", "carl"), "--as takes user:NAME"),
        (("view", "servers", "--as", "group:admins"), "--as takes user:NAME"),
        (("run", "tools", "a/b", "--args", "{"), "--args is no valid JSON"),
        (("run", "tools", "a/b", "--args", "[]"), "--args must be a JSON object"),
        (("view", "logs"), "logs is an operation"),
        (("--list",), "add -p PROJECT"),
        (("--list", "-p", "demo", "--as", "user:carl"), "--list shows what you hold yourself"),
    ],
)
def test_a_question_that_is_none_is_exit_code_2(cli, question, said):
    assert said in cli.refused("auth", "can-i", *question, code=2)


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_who_i_am_is_data_for_programs(carl, form):
    told = carl.ok("auth", "whoami", "-o", form)

    assert "carl" in told
    assert "mcpctl_ses" not in told


def test_the_user_of_the_context_logs_in_again(carl):
    assert carl.ok("login", "--password-stdin", stdin=f"{PASSWORD}\n").startswith("logged in as carl")


def test_a_login_that_names_nobody_is_a_usage_error(cli, tmp_path):
    new = Installation(tmp_path, 1)

    assert "--user NAME" in new.refused("login", "--password-stdin", code=2, stdin="x\n")


def test_a_login_with_a_wrong_password_changes_nothing(cli, carl):
    before = (carl.folder / "config.yaml").read_text()

    assert carl.refused("login", "--password-stdin", stdin="wrong-password\n") == "Error: wrong user or password"

    assert (carl.folder / "config.yaml").read_text() == before


def test_a_logout_ends_the_login_and_not_the_bearer_of_the_environment(cli, carl):
    cli.ok("create", "serviceaccount", "keeper")
    bearer = cli.ok("create", "serviceaccounttoken", "keeper", "-o", "token").strip()

    carl.ok("logout", MCPCTL_TOKEN=bearer)

    assert carl.ok("auth", "whoami", MCPCTL_TOKEN=bearer).startswith("ServiceAccount keeper")
    assert "mcpctl login" in carl.refused("auth", "whoami")
    cli.ok("delete", "serviceaccount", "keeper")
    carl.ok("login", "--user", "carl", "--password-stdin", stdin=f"{PASSWORD}\n")
