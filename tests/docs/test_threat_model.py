"""The pages on security name the tests that hold their promises."""

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("docs/threat-model.md", "docs/security.md")


@cache
def functions_of(file):
    path = ROOT / file
    return set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)) if path.exists() else set()


def test_every_test_that_the_pages_on_security_name_is_there():
    named = [pair for page in PAGES for pair in re.findall(r"`(tests/[\w/]+\.py)::(\w+)", (ROOT / page).read_text())]

    assert len(named) > 50
    assert [f"{file}::{name}" for file, name in named if name not in functions_of(file)] == []


def test_every_row_of_a_control_or_a_case_names_a_test():
    lines = (ROOT / "docs/threat-model.md").read_text().splitlines()
    begin = lines.index("## Controls")

    rows = [line for line in lines[begin:] if line.startswith("| ") and not re.match(r"\| (threat|case) \|", line)]

    assert len(rows) > 30
    assert [row for row in rows if "`tests/" not in row] == []
    assert [row for row in rows if not re.search(r"\| \d\d(, \d\d)* \|$", row)] == []
