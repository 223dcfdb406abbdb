"""schemathesis against a running system of its own: what the document says is what the gateway does."""

import asyncio
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import pytest_asyncio

from mcpctl.bus.bearer import digest
from mcpctl.bus.contracts import token
from mcpctl.gateway.rest.routes import BASE, routes
from tests.scale import SCALE
from tests.system import System

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROGRAM = Path(sys.executable).with_name("schemathesis")
SECONDS = 180 * SCALE

CONFIG = """
seed = 20261122
base-url = "{url}"

[generation]
max-examples = {examples}
database = "none"

[phases.coverage]
unexpected-methods = ["PUT", "TRACE"]

[phases.stateful]
enabled = {stateful}
generation.max-examples = {chains}

[auth.openapi.bearer]
bearer = "${{REST_BEARER}}"

[checks]
# What a schema cannot say (a server has a url or a command) is refused with 400: this check calls that a failure.
positive_data_acceptance.enabled = false

[[operations]]
# A bearer that nobody knows is what this one is asked about: 200 and `active: false`.
include-operation-id = "token_introspect"
checks.ignored_auth.enabled = false
{more}
"""


OF_ONE_PROJECT = """
[parameters]
"path.project" = "fuzzed"
"path.id" = "{id}"

[[operations]]
include-path = "/projects/{{name}}"
parameters = {{ "path.name" = "fuzzed" }}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory):
    """A system that may be spoiled: nobody else uses it."""
    running = System(tmp_path_factory.mktemp("schemathesis"))
    try:
        await running.start()
        running.url = await running.gateway()
        yield running
    finally:
        await running.stop()


async def explore(system, folder, bearer, *options, examples, stateful=False, more=""):
    """Run schemathesis; return the statuses that each operation was answered with. Fails on any finding."""
    config, report = folder / "schemathesis.toml", folder / "report.har"
    url = system.url + BASE
    flag = "true" if stateful else "false"
    config.write_text(CONFIG.format(url=url, examples=examples * SCALE, chains=2 * SCALE, stateful=flag, more=more))
    # The bearer is in the environment and the report without it: neither argv nor a log shows it.
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        *("--config-file", str(config), "run", f"{url}/openapi.json", "--no-color", "--continue-on-failure"),
        *("--report", "har", "--report-har-path", str(report), *options),
        cwd=folder,
        env=os.environ | {"REST_BEARER": bearer},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    print(said.decode())
    assert process.returncode == 0
    return statuses(report)


def statuses(report):
    places = {(route.method, tuple(route.path.split("/"))): route.operation_id for route in routes()}
    found = defaultdict(set)
    for entry in json.loads(report.read_text())["log"]["entries"]:
        if entry["response"]["status"] == 405:
            continue  # a method that no operation has
        path = urlsplit(entry["request"]["url"]).path.removeprefix(BASE)
        for (method, template), operation_id in places.items():
            if method == entry["request"]["method"] and fits(template, path.split("/")):
                found[operation_id].add(entry["response"]["status"])
                break
    return found


def fits(template, parts):
    pairs = zip(template, parts, strict=False)
    return len(template) == len(parts) and all(want == unquote(is_) or want.startswith("{") for want, is_ in pairs)


def excluding(*operations):
    return [word for operation in operations for word in ("--exclude-operation-id", operation)]


async def test_an_admins_session_finds_no_500_and_no_undocumented_answer(system, tmp_path):
    session = await system.operator.call(token.login, token.Login(user="admin", password="correct horse"))
    # Links between operations lead to what is there: the admin would be deleted, disabled, or logged out.
    kept = excluding("token_logout", "token_delete_user", "token_edit_user")

    found = await explore(system, tmp_path, session.bearer, *kept, examples=1, stateful=True)

    assert set(found) == {route.operation_id for route in routes()} - set(kept)
    lists = {route.operation_id for route in routes() if route.method == "GET" and "{" not in route.path}
    done = {operation for operation, seen in found.items() if seen & {200, 201, 204}}
    assert done >= lists | {"catalog_create_project", "token_create_user", "token_create_group", "rbac_check"}
    assert all(401 in seen for operation, seen in found.items() if operation != "token_login")
    await system.operator.call(token.list_users, token.ListUsers(bearer=session.bearer))  # nothing took its rights


async def test_what_an_admin_may_do_to_itself_is_explored_by_a_service_account(system, tmp_path):
    account = token.CreateServiceAccount(bearer=system.bearer, name="explorer", groups=("admins",))
    await system.operator.call(token.create_service_account, account)
    issue = token.IssueServiceAccountToken(bearer=system.bearer, name="explorer")
    bearer = (await system.operator.call(token.issue_service_account_token, issue)).bearer
    only = ("token_logout", "token_delete_user", "token_edit_user")

    found = await explore(
        system, tmp_path, bearer, *(word for name in only for word in ("--include-operation-id", name)), examples=3
    )

    assert set(found) == set(only)
    assert 404 in found["token_delete_user"]


async def test_an_mcptoken_finds_no_500_and_no_undocumented_answer(system, tmp_path):
    await system.project("fuzzed")
    bearer = await system.token("fuzzed", "fuzzer", "role:edit,resource:*")
    own = OF_ONE_PROJECT.format(id=digest(bearer))
    # It would end its own bearer, or the project that it belongs to.
    kept = excluding("token_revoke_by_id", "token_revoke", "token_delete", "token_rotate", "catalog_delete_project")

    # What every operation makes of odd requests, the admin has tried: here it is enough to come with this bearer.
    found = await explore(system, tmp_path, bearer, *kept, "--phases", "fuzzing", examples=2, more=own)

    reached = (
        "token_whoami",
        "token_get_by_id",
        "token_list_of_project",
        "catalog_get_project",
        "catalog_edit_project",
    )
    assert all(200 in found[operation] for operation in reached)
    outside = {
        route.operation_id
        for route in routes()
        if not route.path.startswith("/projects/") and route.needs_bearer and route.operation_id not in kept
    } - {"token_whoami", "token_introspect", "token_introspect_post", "token_get_by_id"}
    assert outside
    for operation in outside:
        assert found[operation] <= {401, 403}, operation
