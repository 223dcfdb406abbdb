"""The hostile mix for some seconds; `tests/soak/hostile.py` lets it run for minutes."""

import pytest

from tests.soak.hostile import run

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_beside_the_hostile_mix_good_clients_see_no_error_and_nothing_of_it_is_kept(system):
    hasty = {f"MCPCTL_{name}_TIMEOUT_MS": "3000" for name in ("HEADER", "BODY", "WRITE")}
    url = await system.gateway("gateway-mix", MCPCTL_TRUSTED_PROXIES="", **hasty)
    try:
        figures = await run(system, url, warm=2, seconds=6)
    finally:
        await system.parts["gateway-mix"].stop()

    assert figures["errors"] == []
    assert figures["more"] == {}
    seen = {name: set(counted) for name, counted in figures["attacks"].items()}
    assert {"401", "429"} <= seen["bad_bearers"]
    assert {"200", "429"} <= seen["streams"]
    assert "413" in seen["too_much"]
    for kind in ("slow_head", "slow_body"):  # a reset overtakes the answer where more was sent meanwhile
        assert {"408", "ConnectionResetError", "BrokenPipeError"} & seen[kind]
    assert "closed" in seen["silence"]
    assert {"400"} <= seen["garbage"] & seen["odd_json"]
    assert figures["beside the mix"]["calls"] > 50
