import time
from datetime import UTC, datetime, timedelta

import pytest

from mcpctl.cli.errors import CliError
from mcpctl.cli.times import age, ago, expiry, parse_duration, parse_ttl, span

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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, {}),
        ("never", {"never_expires": True}),
        ("12h", {"ttl_seconds": 43200}),
        ("2027-01-31T12:00:00Z", {"expires_at": datetime(2027, 1, 31, 12, tzinfo=UTC)}),
        ("2027-01-31T12:00+02:00", {"expires_at": datetime(2027, 1, 31, 10, tzinfo=UTC)}),
    ],
)
def test_a_ttl_is_a_length_of_time_a_moment_or_never(text, said):
    assert parse_ttl(text) == said


def test_a_moment_without_a_zone_is_the_local_time():
    assert parse_ttl("2027-01-31")["expires_at"] == datetime(2027, 1, 31).astimezone()


@pytest.mark.parametrize("text", ["2027-03-28T02:30", "2027-10-31T02:30"])
def test_a_local_time_that_comes_never_or_twice_is_refused_unless_it_names_its_zone(text, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        with pytest.raises(CliError, match="write it with Z"):
            parse_ttl(text)
        assert parse_ttl(f"{text}Z")["expires_at"].utcoffset() is not None
        assert parse_ttl("2027-03-28T03:30")["expires_at"] == datetime(2027, 3, 28, 1, 30, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "text", ["0d", "-1d", "1000000000000y", "soon", "30", "", "2027-13-01", "99999-01-01", "1000000000000-01-01"]
)
def test_what_is_no_ttl_is_refused_with_an_example(text):
    with pytest.raises(CliError, match="write 30d") as refused:
        parse_ttl(text)

    assert refused.value.code == 2


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (4e8, "12y")])
def test_spans_are_told_in_their_largest_unit(seconds, text):
    assert span(seconds) == text


def test_ages_and_expiries_are_told_as_people_do():
    assert age(NOW - timedelta(days=3, hours=5), NOW) == "3d"
    assert age(None) == "-"
    assert ago(NOW - timedelta(minutes=5), NOW) == "5m ago"
    assert ago(None) == "never"
    assert expiry(NOW + timedelta(days=29, hours=5), NOW) == "in 29d"
    assert expiry(NOW + timedelta(days=30) - timedelta(seconds=1), NOW) == "in 30d"
    assert expiry(NOW - timedelta(hours=3), NOW) == "3h ago"
    assert expiry(None) == "never"
