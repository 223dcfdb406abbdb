from datetime import UTC, datetime, timedelta

import pytest

from mcpctl.bus.contracts.catalog import Project, ProjectSpec
from mcpctl.cli.errors import CliError
from mcpctl.cli.listing import sorted_by
from mcpctl.cli.resources import find

NOW = datetime.now(UTC)
PROJECTS = [
    Project(
        spec=ProjectSpec(name=name, description=description, labels=labels, max_token_ttl=ttl),
        revision=revision,
        created_at=NOW - timedelta(days=days),
    )
    for name, description, labels, ttl, revision, days in (
        ("b", "x", {"tier": "2"}, "30d", 10, 1),
        ("a", "z", {}, None, 9, 30),
        ("c", "y", {"tier": "1"}, "12h", 1, 2),
    )
]


@pytest.mark.parametrize(
    ("field", "order"),
    [
        (None, "bac"),
        ("NAME", "abc"),
        ("description", "bca"),
        ("age", "bca"),
        ("created_at", "acb"),
        (".createdAt", "acb"),
        ("revision", "cab"),
        ("max_ttl", "cba"),
        ("spec.maxTokenTtl", "cba"),
        ("labels.tier", "cba"),
    ],
)
def test_items_are_sorted_by_a_column_or_a_path_and_those_without_a_value_come_last(field, order):
    found = sorted_by(find("project"), PROJECTS, field)

    assert "".join(item.spec.name for item in found) == order


def test_a_field_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(CliError, match=r"write a column \(name, servers, state, age") as refused:
        sorted_by(find("project"), PROJECTS, "colour")

    assert refused.value.code == 2
