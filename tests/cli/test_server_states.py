"""What `get servers` and `describe server` make of the routers' answers."""

import time

import pytest

from mcpctl.bus.contracts.router import ServerState
from mcpctl.cli.server_states import _line, _together, _word

OK = ServerState(server="s", state="reached", versions=("2026-07-28",), connections=1)
AWAY = ServerState(server="s", state="away", reason="server s: HTTP 500", since=0, failures=2)
OPEN = AWAY.model_copy(update={"breaker": "open", "cause": "away", "retry_at": 0, "refused": 7})
SLOW = OPEN.model_copy(update={"cause": "slow", "breaker": "half-open"})
UNUSED = ServerState(server="s", state="unused")


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ((), None),
        ((UNUSED, UNUSED), "unused"),
        ((UNUSED, OK), "ok"),
        ((AWAY,), "away"),
        ((OPEN, AWAY), "open"),
        ((SLOW,), "open (slow)"),
        ((OK, SLOW, UNUSED), "degraded: 1 of 3 routers"),
    ],
)
def test_the_status_of_a_server_is_one_word_unless_routers_differ(states, status):
    assert _together([_word(state) for state in states]) == status


def test_a_router_says_why_it_does_not_ask_a_server_and_when_it_will():
    soon = OPEN.model_copy(update={"retry_at": round((time.time() + 30) * 1000)})

    assert _line(AWAY).endswith("ago): server s: HTTP 500; failures in a row: 2")
    assert "; breaker open (away): 7 calls refused, tried again in " in _line(soon)
    assert _line(SLOW).endswith("; breaker open (slow): 7 calls refused, being tried now")
