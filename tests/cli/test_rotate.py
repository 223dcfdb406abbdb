import re

import pytest


@pytest.fixture
def token(cli):
    """The bearer of the mcptoken `turn` of the demo's project."""
    bearer = cli.ok("create", "mcptoken", "turn", "-p", "demo", "--bind", "role:run,resource:servers", "-o", "token")
    yield bearer.strip()
    cli.run("delete", "mcptoken", "turn", "-p", "demo")


def works(cli, bearer):
    return cli.run("test", "mcp", cli.endpoint, MCPCTL_TOKEN=bearer).returncode == 0


def test_both_bearers_work_while_they_overlap(cli, token):
    done = cli.run("rotate", "mcptoken", "turn", "-p", "demo", "--overlap", "1h", "-o", "token")

    new = done.stdout.strip()
    assert re.fullmatch(r"mcpctl_pat_\S+", new)
    assert new != token
    assert re.fullmatch(
        r"The old bearer works until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, unless it ends before\.\n", done.stderr
    )
    assert works(cli, token)
    assert works(cli, new)


def test_without_an_overlap_the_old_bearer_ends_at_once(cli, token):
    told = cli.ok("rotate", "token", "turn", "-p", "demo", "--overlap", "0s", "--ttl", "12h").splitlines()

    assert told[0].startswith('mcptoken "turn" of project "demo" has a new bearer; it expires in 12h (')
    assert told[1:4] == [
        "It may: role:run,resource:servers",
        "The old bearer works no more.",
        "This is its bearer, shown only now:",
    ]
    assert works(cli, told[4])
    assert not works(cli, token)


def test_an_mcptoken_that_is_not_there_cannot_be_rotated(cli):
    refused = cli.refused("rotate", "mcptoken", "nobody", "-p", "demo")

    assert refused == 'Error: mcptoken "nobody" not found in project "demo"'
