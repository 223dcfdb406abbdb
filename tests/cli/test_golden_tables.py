"""The tables that programs read: each noun's, in a pipe, compared with `golden/<noun>.txt`.

What differs from run to run is masked at its own width: ages, days left, prefixes of bearers. After a change that is
meant, write the files again with `MCPCTL_UPDATE_GOLDEN=1 pytest tests/cli/test_golden_tables.py`, and read the
difference.
"""

import os
import re
from pathlib import Path

import pytest

from mcpctl.cli.nats_server import free_port
from mcpctl.cli.resources import RESOURCES
from tests.installation import Installation, running

GOLDEN = Path(__file__).parent / "golden"
UPDATE = os.environ.get("MCPCTL_UPDATE_GOLDEN") == "1"

TABLES = {resource.plural: ("get", resource.plural) for resource in RESOURCES if resource.lister is None} | {
    "mcptokens-wide": ("get", "mcptokens", "-o", "wide"),
    "servers-wide": ("get", "servers", "-o", "wide"),
    "projects-wide": ("get", "projects", "-o", "wide"),
    "all": ("get", "all"),
    "kinds": ("explain",),
}


SETUP = """
create secret weather-key --label team=shop
create server weather --url http://127.0.0.1:9/mcp --header Authorization=secret:weather-key --placement lab
create server clock --command clock-server --prefix c --description Tells --label team=shop
create project shop --server weather --server clock --description Sells --max-token-ttl 90d --requests-per-second 9
create project empty --label team=lab --label tier=web
create project careful --server clock --gate refuse
create prompt style -p shop --tag python --tag review --priority 8 --summary Style --content x --label team=shop
create prompt conduct --global --content x
create prompt readme -p shop --resource weather/docs://readme
create group all-hands --description Everybody
create group devs --group all-hands --member User:admin
create serviceaccount build --group devs --description CI
create user ann --group devs --password-stdin
edit user ann --set disabled=true
create rbac readers --subject Group:devs --roleBindings role:view,resource:servers -p shop
create rbac runners --subject User:ann --roleBindings role:run,resource:tools,name:x/* --roleBindings action:logs
create mcptoken agent -p shop --bind role:run,resource:servers --description Sells --streams 2
create mcptoken forever -p empty --ttl never
create mcptoken old -p empty
revoke mcptoken old -p empty
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """An installation with something of every kind in it."""
    with running(Installation(tmp_path_factory.mktemp("golden"), free_port())) as cli:
        for line in SETUP.strip().splitlines():
            cli.ok(*line.split(), stdin="a-long-password\n")
        yield cli


def masked(table):
    """Return a table with what differs from run to run masked, each column as wide as it was."""

    def at_width(mask):
        return lambda found: mask.ljust(len(found[0])) if found[0].endswith(" ") else mask

    table = re.sub(r"\b\d{1,3}[sm] ago\b *", at_width("#s ago"), table)
    table = re.sub(r"(?<= {3})\d{1,3}[sm](?= {3}|\n)( *)", at_width("#s"), table)
    table = re.sub(r"\bin \d\dd\b", "in ##d", table)
    return re.sub(r"mcpctl_pat_\w+", lambda found: "mcpctl_pat_".ljust(len(found[0]), "#"), table)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_in_a_pipe_stays_as_it_is(filled, name):
    table = masked(filled.ok(*TABLES[name]))
    file = GOLDEN / f"{name}.txt"
    if UPDATE:
        file.write_text(table)

    assert table == file.read_text()


def test_every_golden_table_belongs_to_a_test():
    assert {file.stem for file in GOLDEN.iterdir()} == set(TABLES)
