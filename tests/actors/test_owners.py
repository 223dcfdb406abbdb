"""Who owns a caller's state: leases and claims in the real bucket, and a router's own view of them."""

import asyncio
import os
import secrets
import signal
import sys
from contextlib import asynccontextmanager

import pytest

from mcpctl.actors.session_gate import owners as gate_owners
from mcpctl.actors.session_gate import sessions
from mcpctl.actors.upstream_router import owners as router_owners
from mcpctl.actors.upstream_router.owners import Owners, state_of
from mcpctl.bus import permissions
from mcpctl.bus.bearer import digest, mint
from mcpctl.bus.connection import cancel
from mcpctl.bus.contracts import session
from mcpctl.bus.errors import BusError, Forbidden, NotFound, Unauthenticated, Unavailable
from mcpctl.bus.frames import Request
from mcpctl.bus.permissions import OWNERS_BUCKET
from mcpctl.bus.streams import TTL
from tests.actors import test_session_gate
from tests.actors.test_session_gate import Replica
from tests.system import System

stage, registry = test_session_gate.stage, test_session_gate.registry

PATIENCE = 15


@pytest.fixture
async def gate(stage, registry):
    return Claims(await stage.gate())


class Claims(Replica):
    """One certain gate, asked as routers do. `terms` are those of the leases that it gave, by router."""

    def __init__(self, gate, terms=None):
        super().__init__(gate)
        self.terms = {} if terms is None else terms
        self.bucket = next(part._bucket for part in gate.parts if hasattr(part, "claim"))

    async def keep(self, router, *, stopping=False):
        term = self.terms.get(router, "")
        kept = await self.ask(session.keep, caller="router", router=router, term=term, stopping=stopping)
        self.terms[router] = kept.term
        return kept.term

    async def claim(self, router, bearer, *, project="web", server="git", session_key=None):
        return await self.ask(
            session.claim,
            caller="router",
            bearer=bearer,
            router=router,
            term=self.terms.get(router, ""),
            project=project,
            server=server,
            session=session_key,
        )

    async def stored(self, key):
        return await self.bucket.last(key)

    async def lease_ends(self, router):
        """Return when the server has let a lease go."""
        await until(lambda: self._is_gone(f"lease.{router}"))

    async def _is_gone(self, key):
        return await self.stored(key) is None

    async def claims(self, bearer):
        """Return how many claims the bucket has for sessions, and for this bearer."""
        client = self.bucket.streams
        answer = await client.ask(f"STREAM.INFO.{self.bucket.stream}", {"subjects_filter": "$KV.owners.>"})
        subjects = answer["state"].get("subjects") or {}
        kinds = [subject.split(".")[2:4] for subject in subjects]
        return kinds.count(["bearer", digest(bearer)]), [kind for kind, _ in kinds].count("session")


async def until(holds):
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            await asyncio.sleep(0.02)


def router_id():
    return f"r{secrets.token_hex(6)}"


# --- the gate ---


async def test_of_two_routers_one_owns_the_state_and_both_are_told_the_same(gate, registry, stage):
    other = Claims(await stage.gate(), gate.terms)
    bearer, first, second = registry.add("web"), router_id(), router_id()
    await gate.keep(first)
    await other.keep(second)

    for number in range(30):
        answers = await asyncio.gather(
            *(
                each.claim(router, bearer, server=f"git-{number}")
                for each, router in ((gate, first), (other, second), (other, first), (gate, second))
            )
        )

        assert len({answer.router for answer in answers}) == 1
        assert [answer.fresh for answer in answers].count(True) == 1
        assert not any(answer.lost for answer in answers)


async def test_an_owner_that_asks_again_is_still_the_owner(gate, registry):
    bearer, router = registry.add("web"), router_id()
    await gate.keep(router)

    answers = [await gate.claim(router, bearer) for _ in range(3)]

    assert answers[0] == session.Owner(router=router, fresh=True)
    assert answers[1:] == [session.Owner(router=router)] * 2


async def test_each_server_project_bearer_and_session_has_an_owner_of_its_own(gate, registry):
    bearer, router, other = registry.add(), router_id(), registry.add()
    await gate.keep(router)
    key = (await gate.open(bearer)).session.key

    answers = [
        await gate.claim(router, bearer),
        await gate.claim(router, bearer, server="time"),
        await gate.claim(router, bearer, project="shop"),
        await gate.claim(router, other),
        await gate.claim(router, bearer, session_key=key),
    ]

    assert all(answer.fresh for answer in answers)


@pytest.mark.parametrize("term", ["", "0123456789abcdef"])
async def test_a_router_without_the_lease_it_names_owns_nothing(gate, registry, term):
    bearer, router = registry.add("web"), router_id()
    if term:
        await gate.keep(router)
    gate.terms[router] = term

    with pytest.raises(Unavailable, match="no such lease"):
        await gate.claim(router, bearer)


async def test_state_whose_owner_has_no_lease_any_more_is_taken_over_as_lost(gate, registry, monkeypatch):
    monkeypatch.setattr(gate_owners, "ROUTER_LEASE", 1)
    bearer, first, second = registry.add("web"), router_id(), router_id()
    await gate.keep(first)
    await gate.claim(first, bearer)

    await gate.lease_ends(first)
    await gate.keep(second)

    assert await gate.claim(second, bearer) == session.Owner(router=second, fresh=True, lost=True)
    assert await gate.claim(second, bearer) == session.Owner(router=second, lost=True)


async def test_of_two_routers_that_take_over_one_wins(gate, registry, stage):
    other = Claims(await stage.gate(), gate.terms)
    bearer, dead, first, second = registry.add("web"), router_id(), router_id(), router_id()
    for router in (dead, first, second):
        await gate.keep(router)
    for number in range(20):
        await gate.claim(dead, bearer, server=f"git-{number}")
    await gate.keep(dead, stopping=True)

    for number in range(20):
        answers = await asyncio.gather(
            gate.claim(first, bearer, server=f"git-{number}"), other.claim(second, bearer, server=f"git-{number}")
        )

        assert len({answer.router for answer in answers}) == 1
        assert [answer.fresh for answer in answers].count(True) == 1
        assert all(answer.lost for answer in answers)


async def test_a_router_that_stops_leaves_its_claims_at_once(gate, registry):
    bearer, first, second = registry.add("web"), router_id(), router_id()
    for router in (first, second):
        await gate.keep(router)
    await gate.claim(first, bearer)

    await gate.keep(first, stopping=True)

    assert await gate.claim(second, bearer) == session.Owner(router=second, fresh=True, lost=True)


async def test_a_lease_that_had_ended_begins_another_term_that_owns_nothing_of_the_former(gate, registry, monkeypatch):
    monkeypatch.setattr(gate_owners, "ROUTER_LEASE", 1)
    bearer, router, other = registry.add("web"), router_id(), router_id()
    term = await gate.keep(router)
    assert await gate.keep(router) == term
    await gate.claim(router, bearer)
    await gate.claim(router, bearer, server="time")
    await gate.lease_ends(router)

    assert await gate.keep(router) != term
    await gate.keep(other)

    assert await gate.claim(router, bearer) == session.Owner(router=router, fresh=True, lost=True)
    assert await gate.claim(other, bearer) == session.Owner(router=router, lost=True)
    assert await gate.claim(other, bearer, server="time") == session.Owner(router=other, fresh=True, lost=True)


async def test_a_router_that_names_no_term_begins_another(gate, registry):
    bearer, router = registry.add("web"), router_id()
    term = await gate.keep(router)
    await gate.claim(router, bearer)
    gate.terms.clear()

    assert await gate.keep(router) != term
    assert (await gate.claim(router, bearer)).lost


async def test_a_lease_that_was_not_seen_by_mistake_is_not_ended(gate, registry, monkeypatch):
    bearer, first, second = registry.add("web"), router_id(), router_id()
    for router in (first, second):
        await gate.keep(router)
    await gate.claim(first, bearer)
    read = gate.bucket.last
    blind = [f"lease.{first}"]

    async def lagging(key):
        return blind.remove(key) if key in blind else await read(key)

    monkeypatch.setattr(gate.bucket, "last", lagging)

    assert await gate.claim(second, bearer) == session.Owner(router=first)
    assert not blind


async def test_who_may_not_enter_the_project_claims_nothing(gate, registry):
    router = router_id()
    await gate.keep(router)

    with pytest.raises(Unauthenticated):
        await gate.claim(router, mint("pat"))
    with pytest.raises(Forbidden, match="no access to project shop"):
        await gate.claim(router, registry.add("web"), project="shop")


async def test_a_claim_for_a_session_needs_that_session_of_that_bearer_at_that_endpoint(gate, registry):
    router, bearer = router_id(), registry.add()
    await gate.keep(router)
    opened = await gate.open(bearer, server="git")
    other = registry.add()

    for asked in (
        {"bearer": other, "session_key": opened.session.key},
        {"bearer": bearer, "session_key": "0" * 64},
        {"bearer": bearer, "session_key": opened.session.key, "project": "shop"},
        {"bearer": bearer, "session_key": opened.session.key, "server": "time"},
    ):
        with pytest.raises(NotFound, match="no such session"):
            await gate.claim(router, **asked)
    assert (await gate.claim(router, bearer, session_key=opened.session.key)).fresh


async def test_a_closed_session_takes_its_claims_with_it(gate, registry):
    router, bearer = router_id(), registry.add("web")
    await gate.keep(router)
    closed, kept = await gate.open(bearer), await gate.open(bearer)
    for key in (closed.session.key, kept.session.key):
        for server in ("git", "time"):
            await gate.claim(router, bearer, session_key=key, server=server)
    await gate.claim(router, bearer)
    assert await gate.claims(bearer) == (1, 4)

    await gate.close(bearer, closed.id)

    await until(lambda: _are(gate, bearer, (1, 2)))
    with pytest.raises(NotFound, match="no such session"):
        await gate.claim(router, bearer, session_key=closed.session.key)


async def _are(gate, bearer, wanted):
    return await gate.claims(bearer) == wanted


async def test_a_claim_beside_a_close_leaves_nothing(gate, registry, stage):
    other = Claims(await stage.gate(), gate.terms)
    router, bearer = router_id(), registry.add("web")
    await gate.keep(router)

    for _ in range(30):
        opened = await gate.open(bearer)
        await asyncio.gather(
            other.claim(router, bearer, session_key=opened.session.key),
            gate.close(bearer, opened.id),
            return_exceptions=True,
        )

    await until(lambda: _are(gate, bearer, (0, 0)))


async def test_a_claim_in_use_is_written_again_and_one_out_of_use_is_let_go(gate, registry, monkeypatch):
    router, bearer = router_id(), registry.add("web")
    await gate.keep(router)
    key = (await gate.open(bearer)).session.key
    monkeypatch.setattr(gate_owners, "BEARER_IDLE_SECONDS", 1)
    await gate.claim(router, bearer)
    await gate.claim(router, bearer, session_key=key)

    monkeypatch.setattr(sessions, "REFRESH_SECONDS", -1)
    for _ in range(3):
        assert await gate.claim(router, bearer, session_key=key) == session.Owner(router=router)
    subjects = (await gate.bucket.streams.ask(f"STREAM.INFO.{gate.bucket.stream}", {"subjects_filter": ">"}))["state"]
    [of_session] = [name for name in subjects["subjects"] if ".session." in name]
    stored = await gate.stored(of_session.removeprefix(gate.bucket.subject))

    assert stored.headers[TTL] == f"{gate_owners.SESSION_IDLE_SECONDS}s"
    assert stored.seq == 6
    await until(lambda: _are(gate, bearer, (0, 1)))


async def test_the_bucket_holds_no_bearer_and_no_session_id(gate, registry):
    router, bearer = router_id(), registry.add("web")
    await gate.keep(router)
    opened = await gate.open(bearer)
    await gate.claim(router, bearer, session_key=opened.session.key)
    await gate.claim(router, bearer)

    subjects = (await gate.bucket.streams.ask(f"STREAM.INFO.{gate.bucket.stream}", {"subjects_filter": ">"}))["state"]
    told = [await gate.stored(name.removeprefix(gate.bucket.subject)) for name in subjects["subjects"]]

    assert len(told) == 3
    for stored in told:
        assert bearer not in stored.subject + stored.data.decode() + str(stored.headers)
        assert opened.id not in stored.subject + stored.data.decode() + str(stored.headers)


async def test_owners_survive_a_server_that_is_killed(gate, registry, stage):
    bearer, first, second = registry.add("web"), router_id(), router_id()
    for router in (first, second):
        await gate.keep(router)
    await gate.claim(first, bearer)
    terms = dict(gate.terms)

    stage.nats._part.kill()
    await stage.nats._part.process.wait()
    await stage.nats.start()

    await gate.eventually(lambda: gate.keep(first))
    await gate.eventually(lambda: gate.keep(second))
    assert gate.terms == terms
    assert await gate.eventually(lambda: gate.claim(second, bearer)) == session.Owner(router=first)


async def test_the_leases_of_routers_that_ended_with_the_server_end(gate, registry, stage, monkeypatch):
    monkeypatch.setattr(gate_owners, "ROUTER_LEASE", 2)
    bearer, first, second = registry.add("web"), router_id(), router_id()
    await gate.keep(first)
    await gate.claim(first, bearer)

    await stage.nats.stop()
    await stage.nats.start()

    await gate.eventually(lambda: gate.keep(second))
    await until(lambda: _takes_over(gate, second, bearer))


async def _takes_over(gate, router, bearer):
    await gate.keep(router)
    return await gate.claim(router, bearer) == session.Owner(router=router, fresh=True, lost=True)


# --- a router's own view ---


class Router:
    """A router's `Owners` on the bus, running; `lost` are the questions which states are lost."""

    def __init__(self, owners, work):
        self.owners, self.work, self.told = owners, work, []
        owners.on_lost.append(self.told.append)

    async def owner_of(self, bearer, session_key=None, *, server="git", project="web"):
        head = Request(bearer, project, "tools/call", 5000, "1", era="legacy", session=session_key)
        return await self.owners.owner_of(head, server)

    def lost(self, state):
        return sum(concerns(state) for concerns in self.told)


@pytest.fixture
async def start_router(stage):
    running = []

    async def start():
        owners = Owners(await stage.connect("router"), router_id())
        await owners.open()
        running.append(Router(owners, asyncio.create_task(owners.run())))
        return running[-1]

    yield start
    await cancel(*(router.work for router in running))


async def test_a_router_keeps_what_it_owns_and_others_are_sent_to_it(gate, registry, start_router):
    first, second = await start_router(), await start_router()
    bearer = registry.add("web")
    key = (await gate.open(bearer)).session.key

    assert await first.owner_of(bearer, key) == session.Owner(router=first.owners.router, fresh=True)
    assert await first.owner_of(bearer, key) == session.Owner(router=first.owners.router)
    assert await second.owner_of(bearer, key) == session.Owner(router=first.owners.router)
    assert first.owners.holds_lease
    assert not first.told


async def test_a_router_does_not_ask_again_for_what_it_owns(gate, registry, start_router):
    router, bearer = await start_router(), registry.add("web")
    await router.owner_of(bearer)
    registry.known.clear()

    assert await router.owner_of(bearer) == session.Owner(router=router.owners.router)


async def test_another_bearer_with_the_key_of_a_session_is_not_let_in(gate, registry, start_router):
    router, bearer = await start_router(), registry.add("web")
    key = (await gate.open(bearer)).session.key
    await router.owner_of(bearer, key)

    with pytest.raises(NotFound):
        await router.owner_of(registry.add("web"), key)
    assert not router.told


async def test_the_first_who_is_told_is_told_that_the_state_is_fresh(gate, registry, start_router, monkeypatch):
    router, bearer = await start_router(), registry.add("web")
    claim = router.owners._bus.call

    async def answer_lost(call, request):
        answer = await claim(call, request)
        if call is session.claim:
            raise Unavailable("the answer was lost")
        return answer

    monkeypatch.setattr(router.owners._bus, "call", answer_lost)
    with pytest.raises(Unavailable, match="answer was lost"):
        await router.owner_of(bearer)
    monkeypatch.undo()

    assert await router.owner_of(bearer) == session.Owner(router=router.owners.router, fresh=True)
    assert await router.owner_of(bearer) == session.Owner(router=router.owners.router)


async def test_a_closed_session_has_its_state_dropped(gate, registry, start_router):
    router, bearer = await start_router(), registry.add("web")
    opened, other = await gate.open(bearer), await gate.open(bearer)
    for key in (opened.session.key, other.session.key, None):
        await router.owner_of(bearer, key)

    await gate.close(bearer, opened.id)

    sha = digest(bearer)
    await until(lambda: _has_lost(router, state_of(sha, opened.session.key)))
    assert not router.lost(state_of(sha, other.session.key))
    assert not router.lost(state_of(sha, None))
    with pytest.raises(NotFound):
        await router.owner_of(bearer, opened.session.key)


async def _has_lost(router, state):
    return router.lost(state) > 0


async def test_a_router_that_stops_owns_nothing_and_another_takes_over_at_once(gate, registry, start_router):
    first, second = await start_router(), await start_router()
    bearer = registry.add("web")
    await first.owner_of(bearer)

    await first.owners.stop()

    assert await second.owner_of(bearer) == session.Owner(router=second.owners.router, fresh=True, lost=True)
    assert not first.owners.holds_lease
    with pytest.raises(Unavailable, match="cannot keep the state"):
        await first.owner_of(bearer)


async def test_without_a_gate_the_lease_lapses_here_before_it_does_there(
    gate, registry, stage, start_router, monkeypatch
):
    monkeypatch.setattr(router_owners, "HELD", 1.5)
    router, bearer = await start_router(), registry.add("web")
    await router.owner_of(bearer)
    lapsed = asyncio.Event()
    router.owners.on_lost.append(lambda _: lapsed.set())

    await gate.gate.bus.unsubscribe()
    async with asyncio.timeout(PATIENCE):
        await lapsed.wait()

    assert not router.owners.holds_lease
    assert router.lost(state_of(digest(bearer), None)) == 1
    assert await gate.stored(f"lease.{router.owners.router}") is not None
    with pytest.raises(Unavailable, match="cannot keep the state"):
        await router.owner_of(bearer)


async def test_what_lapsed_here_is_lost_even_where_the_gate_saw_no_gap(gate, registry, start_router, monkeypatch):
    monkeypatch.setattr(router_owners, "FIRST_LEASE", 10.0)
    router, bearer = await start_router(), registry.add("web")
    await router.owner_of(bearer)

    router.owners._held_until = 0.0
    router.owners._expire()

    assert router.lost(state_of(digest(bearer), None)) == 1
    assert await router.owner_of(bearer) == session.Owner(router=router.owners.router, fresh=True, lost=True)
    assert await router.owner_of(bearer) == session.Owner(router=router.owners.router, lost=True)


async def test_a_bucket_made_anew_is_noticed_as_the_loss_of_everything(gate, registry, stage, start_router):
    router, bearer = await start_router(), registry.add("web")
    await router.owner_of(bearer)

    jetstream = await stage.provisioner()
    await jetstream.purge_stream(f"KV_{OWNERS_BUCKET}")

    await until(lambda: _has_lost(router, state_of(digest(bearer), None)))
    assert (await router.owner_of(bearer)).fresh


async def test_a_claim_in_use_is_renewed_and_ends_with_its_bearer(gate, registry, start_router, monkeypatch):
    monkeypatch.setattr(router_owners, "BELIEVED", 0.06)
    router, idle, used = await start_router(), registry.add("web"), registry.add("web")
    asked = []
    resolve = registry.resolve

    async def note(request, caller):
        asked.append(request.bearer)
        return await resolve(request, caller)

    await registry.bus.unsubscribe()
    await registry.bus.serve(test_session_gate.token.resolve, note)
    await registry.bus.ready()
    router.owners.in_use.append(lambda server, state: (server, state) == ("git", state_of(digest(used), None)))
    await router.owner_of(idle)
    await router.owner_of(used)
    await cancel(router.work)
    router.work = asyncio.create_task(router.owners.run())

    await until(lambda: _many(asked, used))
    del registry.known[used]

    await until(lambda: _has_lost(router, state_of(digest(used), None)))
    assert asked.count(idle) == 1
    assert not router.lost(state_of(digest(idle), None))


async def _many(asked, bearer):
    return asked.count(bearer) > 3


async def test_an_own_claim_is_not_asked_for_when_the_lease_ended_meanwhile(gate, registry, start_router, monkeypatch):
    router, bearer = await start_router(), registry.add("web")
    await router.owner_of(bearer, server="time")
    call = router.owners._bus.call

    async def lapse_meanwhile(asked, request):
        answer = await call(asked, request)
        if asked is session.claim:
            router.owners._held_until = 0.0
        return answer

    monkeypatch.setattr(router.owners._bus, "call", lapse_meanwhile)
    with pytest.raises(Unavailable, match="lease ended meanwhile"):
        await router.owner_of(bearer)


def test_the_permissions_let_routers_follow_and_claim_and_gateways_follow_only():
    router = permissions.of("router", "router")
    gateway = permissions.of("gateway", "gateway-x")

    for verb in ("claim", "keep", "changes"):
        assert f"mcpctl.v1.session.{verb}.router" in router.publish
    assert "mcpctl.v1.event.session.changed" in router.subscribe
    assert "mcpctl.v1.event.session.changed" in gateway.subscribe
    for verb in ("changes", "set_subscription", "take_stream"):
        assert f"mcpctl.v1.session.{verb}.gateway-x" in gateway.publish
    for verb in ("claim", "keep"):
        assert not any(f".session.{verb}." in subject for subject in gateway.publish)
    for verb in ("open", "find", "close", "take_stream"):
        assert not any(f".session.{verb}." in subject for subject in router.publish)


# --- real processes ---


@asynccontextmanager
async def processes(stage, folder):
    """Gates as processes of their own, on the stage's bus."""
    system = System(folder)
    system.nats = stage.nats
    try:
        yield system
    finally:
        for part in system.parts.values():
            if part.process.returncode is None:
                await part.kill()


async def test_killed_gates_lose_no_owner(stage, registry, start_router, tmp_path):
    bearers = [registry.add("web") for _ in range(20)]
    async with processes(stage, tmp_path) as system:
        await system.run("gate-1", "mcpctl.actors", "session")
        first, second = await start_router(), await start_router()
        owners = [await (first, second)[number % 2].owner_of(bearer) for number, bearer in enumerate(bearers)]
        assert all(owner.fresh for owner in owners)

        for number in range(2, 5):
            await system.run(f"gate-{number}", "mcpctl.actors", "session")
            await system.parts[f"gate-{number - 1}"].kill()
            for owner, bearer in zip(owners, bearers, strict=True):
                for router in (first, second):
                    answer = await eventually(lambda r=router, b=bearer: r.owner_of(b))
                    assert answer == session.Owner(router=owner.router)

        assert not first.told + second.told


async def eventually(ask):
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await ask()
            except BusError as error:
                assert error.http_status >= 500
                await asyncio.sleep(0.05)


async def test_a_killed_server_and_gate_lose_and_double_no_owner(stage, registry, start_router, tmp_path):
    bearer = registry.add("web")
    async with processes(stage, tmp_path) as system:
        await system.run("gate-1", "mcpctl.actors", "session")
        first, second = await start_router(), await start_router()
        owner = await first.owner_of(bearer)

        stage.nats._part.kill()
        await stage.nats._part.process.wait()
        await stage.nats.start()
        await system.run("gate-2", "mcpctl.actors", "session")
        await system.parts["gate-1"].kill()

        assert await eventually(lambda: second.owner_of(bearer)) == session.Owner(router=owner.router)
        assert await eventually(lambda: first.owner_of(bearer)) == session.Owner(router=owner.router)
        assert not first.told + second.told


FROZEN = """
import asyncio, sys, time
from mcpctl.actors.upstream_router.owners import Owners
from mcpctl.bus.connection import Bus
from mcpctl.bus.frames import Request
from mcpctl.bus.identity import ActorIdentity
from pathlib import Path

async def main(url, keys, router, bearer):
    bus = await Bus.connect(url, ActorIdentity("router", Path(keys)))
    owners = Owners(bus, router)
    owners.on_lost.append(lambda _: print("lost", flush=True))
    await owners.open()
    work = asyncio.create_task(owners.run())
    head = Request(bearer, "web", "tools/call", 5000, "1", era="legacy")
    print(await owners.owner_of(head, "git"), flush=True)
    sys.stdin.readline()
    print(owners.holds_lease, flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def router_process(stage, router, bearer):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        FROZEN,
        *(stage.nats.url, str(stage.nats.keys), router, bearer),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"MCPCTL_LOG_LEVEL": "error"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def told(process, text):
    """Return the next line that the process prints with this text."""
    async with asyncio.timeout(PATIENCE):
        while text not in (line := (await process.stdout.readline()).decode()):
            assert line
        return line


async def test_what_a_killed_router_owned_is_taken_over_as_lost(gate, stage, registry, start_router):
    dead, bearer = router_id(), registry.add("web")
    second = await start_router()
    async with router_process(stage, dead, bearer) as process:
        assert "fresh=True" in await told(process, dead)
        assert (await second.owner_of(bearer)).router == dead

        process.kill()
        await process.wait()
        await gate.lease_ends(dead)

    assert await second.owner_of(bearer) == session.Owner(router=second.owners.router, fresh=True, lost=True)


async def test_a_router_that_was_frozen_for_too_long_knows_that_all_is_lost(gate, stage, registry, start_router):
    frozen, bearer = router_id(), registry.add("web")
    second = await start_router()
    async with router_process(stage, frozen, bearer) as process:
        assert "fresh=True" in await told(process, frozen)
        process.send_signal(signal.SIGSTOP)
        await gate.lease_ends(frozen)
        assert await second.owner_of(bearer) == session.Owner(router=second.owners.router, fresh=True, lost=True)

        process.stdin.write(b"\n")
        process.send_signal(signal.SIGCONT)

        assert await told(process, "lost")
        assert (await second.owner_of(bearer)).router == second.owners.router
