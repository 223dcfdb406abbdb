"""The counts of quotas, by a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpctl.actors.upstream_router.quotas.counts import Counts, Refusal
from mcpctl.actors.upstream_router.quotas.limits import Limit

RATE = Limit("project:shop:requests", 5, 2.0)
CALLS = Limit("project:shop:calls", 2)
STREAMS = Limit("token:abc:streams", 1)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def counts(clock):
    return Counts(clock)


def test_a_burst_passes_then_the_rate_and_a_refusal_says_when_to_come_back(counts, clock):
    assert [counts.take("r1", str(n), [RATE]) for n in range(5)] == [None] * 5
    refused = counts.take("r2", "5", [RATE])
    assert refused == Refusal(0, 0.5)

    clock.now += refused.seconds
    assert counts.take("r2", "5", [RATE]) is None
    assert counts.take("r1", "6", [RATE]) is not None


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 9)), max_size=60))
def test_no_time_passes_in_which_more_came_than_the_burst_and_the_rate_allow(steps):
    clock = Clock()
    counts, passed = Counts(clock), []
    for pause, asked in steps:
        clock.now += pause
        passed += [clock.now for n in range(asked) if counts.take(f"r{n % 3}", str(n), [RATE]) is None]
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            assert last - first + 1 <= RATE.most + (passed[last] - begin) * RATE.per_second + 1e-6


def test_what_is_held_is_counted_over_routers_and_let_go_by_who_holds_it(counts):
    assert counts.take("r1", "a", [CALLS]) is None
    assert counts.take("r2", "b", [CALLS]) is None
    assert counts.take("r2", "c", [CALLS]) == Refusal(0, 1.0)

    counts.give_back("r1", "a", [CALLS.key])
    counts.give_back("r1", "a", [CALLS.key])  # told twice: once is enough
    assert counts.take("r1", "c", [CALLS]) is None
    assert counts.take("r1", "d", [CALLS]) is not None


def test_one_stream_that_moves_between_routers_is_one_stream(counts):
    assert counts.take("r1", "stream", [STREAMS]) is None
    assert counts.take("r2", "stream", [STREAMS]) is None, "the new one begins before the old one ends"
    counts.give_back("r1", "stream", [STREAMS.key])
    assert counts.take("r1", "another", [STREAMS]) is not None
    counts.give_back("r2", "stream", [STREAMS.key])
    assert counts.take("r1", "another", [STREAMS]) is None


def test_a_call_that_is_refused_for_one_limit_uses_none_of_the_others(counts):
    counts.take("r1", "a", [CALLS])
    counts.take("r1", "b", [CALLS])
    for n in range(9):
        assert counts.take("r1", f"c{n}", [RATE, CALLS]) == Refusal(1, 1.0)

    assert [counts.take("r1", f"d{n}", [RATE]) for n in range(5)] == [None] * 5


def test_a_router_that_is_gone_holds_nothing_and_one_that_is_back_holds_what_it_says(counts):
    counts.take("r1", "a", [CALLS])
    counts.take("r1", "b", [CALLS])
    counts.drop("r1")
    assert counts.take("r2", "c", [CALLS]) is None

    counts.set_held("r1", {CALLS.key: {"b": 1}})
    assert counts.take("r2", "d", [CALLS]) is not None


def test_a_request_that_goes_to_another_router_is_given_back(counts):
    for n in range(5):
        counts.take("r1", str(n), [RATE])
    counts.give_back("r1", "4", [RATE.key])
    assert counts.take("r2", "4", [RATE]) is None
    assert counts.take("r2", "5", [RATE]) is not None


def test_a_quota_that_was_changed_counts_as_it_is_now(counts, clock):
    for n in range(5):
        counts.take("r1", str(n), [RATE])
    tighter = Limit(RATE.key, 1, 1.0)
    clock.now += 10
    assert counts.take("r1", "a", [tighter]) is None
    assert counts.take("r1", "b", [tighter]) == Refusal(0, 1.0)


def test_a_quota_of_nothing_lets_nothing_pass(counts):
    assert counts.take("r1", "a", [Limit("token:abc:calls", 0)]) is not None
