from datetime import UTC, datetime, timedelta

import pytest

from mcpctl.cli.errors import CliError
from mcpctl.cli.times import age, expiry, parse_duration, parse_lifetime, span

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2592000), ("12h", 43200), ("1d12h", 129600), ("90m", 5400), ("2w", 1209600)]
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "3x", "d", "-3d", "3d ", "1.5h", "never"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(CliError, match="write 30d") as refused:
        parse_duration(text)

    assert refused.value.code == 2


def test_never_is_a_lifetime_without_an_end():
    assert parse_lifetime("never") is None


def test_no_time_at_all_is_no_lifetime():
    with pytest.raises(CliError):
        parse_lifetime("0d")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (4e8, "12y")])
def test_spans_are_told_in_their_largest_unit(seconds, text):
    assert span(seconds) == text


def test_ages_and_expiries_are_told_as_people_do():
    assert age(NOW - timedelta(days=3, hours=5), NOW) == "3d"
    assert age(None) == "-"
    assert expiry(NOW + timedelta(days=29, hours=5), NOW) == "in 29d"
    assert expiry(NOW + timedelta(days=30) - timedelta(seconds=1), NOW) == "in 30d"
    assert expiry(NOW - timedelta(hours=3), NOW) == "3h ago"
    assert expiry(None) == "never"
