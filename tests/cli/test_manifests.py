"""Documents of resources: what `get -o yaml` prints is what `apply` takes."""

from datetime import UTC, datetime

import pytest
import yaml

from mcpctl.bus.contracts import catalog, rbac, token
from mcpctl.bus.contracts.rbac import Binding
from mcpctl.bus.quotas import Quota
from mcpctl.cli.errors import CliError
from mcpctl.cli.manifests import KINDS, document, read, read_all
from mcpctl.cli.yaml_documents import parse

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def manifest(text):
    (found,) = parse(text, "f.yaml")
    return read(found)


def project(**members):
    return catalog.Project(spec=catalog.ProjectSpec(name="demo", **members), revision=3, created_at=NOW)


ITEMS = [
    ("project", project(servers=("time", "git"), labels={"app": "shop"}, max_token_ttl="7d")),
    (
        "server",
        catalog.Server(
            spec=catalog.ServerSpec(name="time", command=("uvx", "x y"), env={"A_B": "1", "T": "secret:t"}),
            revision=1,
            created_at=NOW,
            projects=("demo",),
        ),
    ),
    (
        "server",
        catalog.Server(
            spec=catalog.ServerSpec(name="far", url="https://example.org/mcp", headers={"X-Team": "a"}, prefix="f"),
            revision=1,
            created_at=NOW,
        ),
    ),
    (
        "project",
        project(
            gate=catalog.GateSpec(
                exempt=("git/*",),
                llm=catalog.ModelSpec(base_url="https://x.example/v1", model="m", secret_ref="k", timeout_ms=900),
            )
        ),
    ),
    ("project", project(gate=catalog.GateSpec(), quota=Quota(requests_per_second=0.5, concurrent_calls=0))),
    (
        "prompt",
        catalog.Prompt(
            spec=catalog.PromptSpec(
                name="style",
                project="demo",
                tags=("a", "b_c"),
                priority=9,
                content="# Style\n\n  two: lines \n\n\n",
                resource=catalog.PromptResource(server="git", uri="file:///x"),
            ),
            revision=1,
            created_at=NOW,
            updated_at=NOW,
        ),
    ),
    ("user", token.User(name="ann@example.org", groups=("devs",), disabled=True, created_at=NOW)),
    ("group", token.Group(name="devs", description="d", groups=("all",), members=("User:ann",), created_at=NOW)),
    ("serviceaccount", token.ServiceAccount(name="ci", groups=(), description="", created_at=NOW)),
    (
        "rbac",
        rbac.Definition(
            name="readers",
            subjects=("User:ann", "Group:devs"),
            bindings=(Binding.parse("role:view,resource:servers,name:git*"), Binding.parse("action:logs")),
        ),
    ),
]


@pytest.mark.parametrize(("kind", "item"), ITEMS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_shown_is_read_back_as_the_same(kind, item):
    shown = document(kind, item)

    again = manifest(yaml.safe_dump(shown, sort_keys=False))

    source = getattr(item, "spec", item)
    for member in KINDS[kind].spec.model_fields:
        if hasattr(source, member):
            assert getattr(again.spec, member) == getattr(source, member), member


def test_a_document_begins_with_its_kind_and_name_and_ends_with_its_status():
    shown = document("project", project(servers=("time",), max_token_ttl="7d"))

    assert shown == {
        "kind": "project",
        "name": "demo",
        "servers": ["time"],
        "maxTokenTtl": "7d",
        "status": {"revision": 3, "createdAt": "2026-01-02T03:04:05Z"},
    }


def shown_token(**members):
    owner = token.Owner(kind="User", name="ann")
    whole = {"id": "a" * 64, "name": "ci", "project": "demo", "prefix": "mcpctl_pat_abcd", "owner": owner}
    whole |= {"description": "", "created_at": NOW, "last_use": None, "expires_at": None, "status": "active"}
    return token.Token.model_validate(whole | members)


def test_an_mcptoken_is_shown_with_its_bindings_and_without_its_bearer():
    shown = document("mcptoken", shown_token(), bindings=(Binding.parse("role:run,resource:tools,name:git/*"),))

    assert shown["roleBindings"] == [{"role": "run", "resource": "tools", "name": "git/*"}]
    assert shown["ttl"] == "never"
    assert shown["status"]["state"] == "active"
    again = manifest(yaml.safe_dump(shown)).spec
    assert again.never_expires
    assert again.bindings == (Binding.parse("role:run,resource:tools,name:git/*"),)


def test_the_expiry_of_an_mcptoken_is_read_back():
    shown = document("mcptoken", shown_token(expires_at=NOW), bindings=())

    assert manifest(yaml.safe_dump(shown)).spec.expires_at == NOW


def test_a_length_of_life_is_read_in_seconds():
    assert manifest("kind: mcptoken\nname: ci\nproject: demo\nttl: 12h\n").spec.ttl_seconds == 12 * 3600


def test_a_secret_takes_its_value_from_the_environment_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("KEY", "from env")
    (tmp_path / "key").write_text("from file\n")

    assert manifest("kind: secret\nname: a\nvalueFrom: {env: KEY}\n").spec.value == "from env"
    assert manifest(f"kind: secret\nname: a\nvalueFrom: {{file: {tmp_path}/key}}\n").spec.value == "from file"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "f.yaml, line 1: a document is a mapping"),
        ("name: a\n", "f.yaml, line 1: must be one of secret, server, project"),
        ("kind: pod\nname: a\n", "f.yaml, line 1: kind: must be one of"),
        ("kind: project\n", "f.yaml, line 1: name: is missing"),
        ("kind: project\nname: Demo\n", "f.yaml, line 2: name: must be 1 to 63 of a-z"),
        ("kind: project\nname: a\nserver: [x]\n", "f.yaml, line 3: server: no such field of a project: there are name"),
        ("kind: project\nname: a\nservers: x\n", "f.yaml, line 3: servers: must be a list"),
        ("kind: project\nname: a\nservers:\n  - x\n  - 1\n", "f.yaml, line 5: servers.1: must be a text"),
        ("kind: project\nname: a\nmaxTokenTtl: 7\n", "f.yaml, line 3: maxTokenTtl: must be a text"),
        ("kind: user\nname: a\ndisabled: 'yes'\n", "f.yaml, line 3: disabled: must be true or false"),
        ("kind: server\nname: a\n", "f.yaml, line 1: a server has either a url or a command"),
        ("kind: mcptoken\nname: a\nproject: b\nttl: soon\n", "f.yaml, line 4: ttl: must be a length of time"),
        (
            "kind: mcptoken\nname: a\nproject: b\nttl: 1d\nexpiresAt: 2030-01-01T00:00:00Z\n",
            "f.yaml, line 4: ttl: give either ttl or expiresAt",
        ),
        (
            "kind: rbac\nname: a\nsubjects: [User:ann]\nroleBindings:\n  - role: view\n    resouce: servers\n",
            "f.yaml, line 6: roleBindings.0.resouce: no such field",
        ),
        (
            "kind: project\nname: a\ngate:\n  llm:\n    baseUrl: http://x\n    modle: m\n",
            "f.yaml, line 6: gate.llm.modle: no such field: there are baseUrl, model, secretRef, timeoutMs",
        ),
        (
            "kind: project\nname: a\ngate:\n  llm:\n    base_url: http://x\n",
            "f.yaml, line 5: gate.llm.base_url: no such field: there are baseUrl",
        ),
        ("kind: project\nname: a\ngate:\n  llm:\n    model: m\n", "f.yaml, line 4: gate.llm.baseUrl: is missing"),
        (
            "kind: project\nname: a\ngate:\n  llm:\n    baseUrl: http://x\n    model: m\n    timeoutMs: 1\n",
            "f.yaml, line 7: gate.llm.timeoutMs: must be greater than or equal to 100",
        ),
        ("kind: project\nname: a\nquota:\n  streams: -1\n", "f.yaml, line 4: quota.streams: must be greater than or"),
        ("kind: project\nname: a\nquota:\n  rate: 1\n", "line 4: quota.rate: no such field: there are requestsPerSec"),
        ("kind: project\nname: a\ngate: brief\n", "f.yaml, line 3: gate: must be a mapping"),
        ("kind: project\nname: a\ngate:\n  exempt: [a, 1]\n", "f.yaml, line 4: gate.exempt.1: must be a text"),
        ("kind: prompt\nname: a\n", "f.yaml, line 1: a prompt has content, or a resource that supplies it"),
        (
            "kind: rbac\nname: a\nsubjects: [User:ann]\nroleBindings:\n  - role: run\n    when: {a_b: {glop: x}}\n",
            "f.yaml, line 6: roleBindings.0.when.a_b.glop: no such field: there are equals, in, glob, min, max",
        ),
        ("kind: secret\nname: a\nvalueFrom: {env: NOT_SET_AT_ALL}\n", "NOT_SET_AT_ALL is empty or not set"),
        ("kind: secret\nname: a\nvalue: v\nvalueFrom: {env: HOME}\n", "f.yaml, line 4: valueFrom: write either"),
        ("kind: secret\nname: a\nvalueFrom: {file: /nowhere/at/all}\n", "cannot read /nowhere/at/all"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_what_was_expected(text, said):
    with pytest.raises(CliError) as refused:
        manifest(text)

    assert said in str(refused.value)


@pytest.mark.parametrize("value", ["no", "on", "yes", "0123", "0x1f", "1.0", "1_000"])
@pytest.mark.parametrize("member", ["description: {}", "labels: {{a: {}}}"])
def test_what_yaml_takes_for_a_number_or_a_truth_is_no_text_unless_it_is_quoted(member, value):
    document = "kind: project\nname: a\n" + member

    with pytest.raises(CliError, match=r"f\.yaml, line 3: .*must be a text"):
        manifest(document.format(value))
    assert value in str(manifest(document.format(f'"{value}"')).spec)


def test_a_wrong_value_is_not_repeated_since_it_may_be_secret():
    with pytest.raises(CliError) as refused:
        manifest("kind: secret\nname: a\nvalue: {hunter2: 1}\n")

    assert "hunter2" not in str(refused.value)


def test_two_documents_of_one_resource_are_refused():
    with pytest.raises(CliError, match=r"f.yaml, line 5: name: project a is described in f.yaml, line 1 already"):
        read_all(list(parse("kind: project\nname: a\n---\nkind: project\nname: a\n", "f.yaml")))


def test_mcptokens_of_the_same_name_in_two_projects_are_two():
    text = "kind: mcptoken\nname: ci\nproject: a\n---\nkind: mcptoken\nname: ci\nproject: b\n"

    assert len(read_all(list(parse(text, "f.yaml")))) == 2


def test_nested_members_are_shown_in_camel_case_and_what_is_in_a_mapping_as_it_is():
    model = catalog.ModelSpec(base_url="https://x.example/v1", model="m")
    when = {"base_url": {"in": ["a"]}, "empty": {"equals": ""}, "off": {"equals": False}}
    binding = Binding.model_validate({"role": "run", "resource": "tools", "when": when})

    gate = document("project", project(gate=catalog.GateSpec(llm=model)))["gate"]
    definition = rbac.Definition(name="a", subjects=("User:ann",), bindings=(binding,))
    bindings = document("rbac", definition)["roleBindings"]

    assert gate == {
        "mode": "brief",
        "budget": 16384,
        "llm": {"baseUrl": "https://x.example/v1", "model": "m", "timeoutMs": 5000},
    }
    assert bindings == [{"role": "run", "resource": "tools", "when": when}]


def test_conditions_are_read_from_a_document_in_all_their_forms():
    text = (
        "kind: rbac\nname: a\nsubjects: [User:ann]\nroleBindings:\n  - role: run\n    resource: tools\n"
        "    when:\n      a: {in: [x, 1]}\n      b: {equals: true}\n"
        "      c: {min: 1, max: 2.5}\n      d: {glob: 'x*'}\n"
    )

    (binding,) = manifest(text).spec.bindings

    assert str(binding).endswith(
        'when:{"a":{"in":["x",1]},"b":{"equals":true},"c":{"min":1,"max":2.5},"d":{"glob":"x*"}}'
    )
