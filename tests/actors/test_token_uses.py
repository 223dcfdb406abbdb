"""When, through what and for what a token was last used."""

import pytest

from mcpctl.actors.upstream_router import uses
from mcpctl.actors.upstream_router.call import Call
from mcpctl.actors.upstream_router.uses import Uses
from mcpctl.bus.bearer import mint
from mcpctl.bus.contracts import token
from mcpctl.bus.frames import Request


@pytest.fixture
async def router(plane):
    return await plane.actor("router")


async def last_use(plane, root):
    await plane.settled()
    return (await root.ask(token.describe, project="web", name="ci")).last_use


async def use(router, issued, tool="github/create_issue", gateway="gateway-a"):
    await router.call(token.used, token.UsedToken(bearer=issued.bearer, gateway=gateway, tool=tool))


async def test_a_call_is_noted_with_its_gateway_and_tool(plane, root, router):
    issued = await root.issue("web", "ci")

    assert await last_use(plane, root) is None
    await use(router, issued)

    noted = await last_use(plane, root)
    assert (noted.gateway, noted.tool) == ("gateway-a", "github/create_issue")


async def test_in_one_minute_it_is_written_once(plane, root, router):
    issued = await root.issue("web", "ci")
    await use(router, issued)
    first = await last_use(plane, root)

    plane.clock.ahead_ms = 50_000
    await use(router, issued, "github/other", "gateway-b")
    await plane.resolve(issued.bearer)
    assert await last_use(plane, root) == first

    plane.clock.ahead_ms = 61_000
    await use(router, issued, "github/other", "gateway-b")
    last = await last_use(plane, root)
    assert (last.gateway, last.tool) == ("gateway-b", "github/other")
    assert last.at > first.at


async def test_the_first_call_is_noted_though_the_token_was_just_used_otherwise(plane, root, router):
    issued = await root.issue("web", "ci")
    await plane.resolve(issued.bearer)
    assert (await last_use(plane, root)).tool is None

    await use(router, issued)

    assert (await last_use(plane, root)).tool == "github/create_issue"


async def test_a_list_leaves_the_tool_of_the_last_call(plane, root, router):
    issued = await root.issue("web", "ci")
    await use(router, issued)
    first = await last_use(plane, root)
    plane.clock.ahead_ms = 61_000

    await use(router, issued, None, "gateway-b")

    last = await last_use(plane, root)
    assert (last.gateway, last.tool) == ("gateway-b", "github/create_issue")
    assert last.at > first.at


async def test_resolving_for_the_data_plane_writes_nothing(plane, root, router):
    issued = await root.issue("web", "ci")

    await router.call(token.resolve, token.ResolveBearer(bearer=issued.bearer))

    assert await last_use(plane, root) is None


@pytest.mark.parametrize("bearer", [mint("pat"), "nonsense"])
async def test_a_use_of_an_unknown_bearer_is_no_use(plane, root, router, bearer):
    await router.call(token.used, token.UsedToken(bearer=bearer, gateway="gateway-a", tool="x"))

    await plane.settled()


# The router's side


def call_of(bus, bearer, caller="gateway-a"):
    head = Request(bearer=bearer, project="web", method="tools/call", budget=1000, correlation="c")
    return Call(bus, "r1", caller, "_INBOX.gateway-a.1", head)


@pytest.fixture
def told(plane):
    """What the registry was told, by subject of the bearer."""
    (part,) = (part for part in plane.registry.parts if type(part).__name__ == "Uses")
    noted = []
    note = part.note

    def listen(sha, **facts):
        noted.append((sha, facts))
        note(sha, **facts)

    part.note = listen
    return noted


async def test_a_router_reports_the_first_call_and_the_first_list_of_a_minute(plane, root, router, told, monkeypatch):
    issued = await root.issue("web", "ci")
    reporting = Uses(router)
    asked = []
    ask = router.call

    async def count(call, request):
        asked.append(request.tool)
        return await ask(call, request)

    monkeypatch.setattr(router, "call", count)

    for _ in range(5):
        reporting.note(call_of(router, issued.bearer))
        reporting.note(call_of(router, issued.bearer), "github/create_issue")
    await router.tasks.finish(5)

    assert sorted(asked, key=str) == [None, "github/create_issue"]
    assert (issued.token.id, {"last_gateway": "gateway-a", "last_tool": "github/create_issue"}) in told
    monkeypatch.setattr(uses, "EVERY", 0.0)
    reporting.note(call_of(router, issued.bearer), "github/other")
    await router.tasks.finish(5)
    assert asked[-1] == "github/other"


async def test_a_report_that_fails_is_made_at_the_next_use(plane, root, router):
    issued = await root.issue("web", "ci")
    reporting = Uses(router)
    await plane.registry.stop()
    reporting.note(call_of(router, issued.bearer), "github/create_issue")
    await router.tasks.finish(5)
    await plane.restart_registry()

    reporting.note(call_of(router, issued.bearer), "github/create_issue")
    await router.tasks.finish(5)

    assert (await last_use(plane, root)).tool == "github/create_issue"


async def test_a_router_remembers_so_many_bearers_and_no_more(plane, root, router, monkeypatch):
    monkeypatch.setattr(uses, "REMEMBERED", 10)
    reporting = Uses(router)

    for _ in range(50):
        reporting.note(call_of(router, mint("pat")), "github/create_issue")
    await router.tasks.finish(5)

    assert len(reporting._told) == 10


async def test_a_long_name_is_cut(plane, root, router):
    issued = await root.issue("web", "ci")

    Uses(router).note(call_of(router, issued.bearer), "x" * 5000)
    await router.tasks.finish(5)

    assert (await last_use(plane, root)).tool == "x" * 400
