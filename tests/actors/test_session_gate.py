"""Sessions of legacy clients, in the real bucket."""

import asyncio
import hashlib

import pytest

from mcpctl.actors.session_gate import SessionGate, recent_changes, sessions
from mcpctl.actors.session_gate.recent_changes import RecentChanges
from mcpctl.actors.settings import ActorSettings
from mcpctl.bus.actor import Caller
from mcpctl.bus.bearer import digest, mint
from mcpctl.bus.connection import Bus, connect_nats
from mcpctl.bus.contract import Call, Change, PullChanges
from mcpctl.bus.contracts import session, token
from mcpctl.bus.errors import BusError, Conflict, Forbidden, NotFound, Unauthenticated, Unavailable
from mcpctl.bus.identity import ActorIdentity, AdmittedIdentity
from mcpctl.bus.nats_config import PROVISIONER
from mcpctl.bus.permissions import SESSIONS_BUCKET
from mcpctl.bus.provision import provision
from mcpctl.cli.nats_server import NatsServer, free_port
from tests.scale import SCALE

INIT = {"version": "2025-06-18", "client_info": '{"name":"ide"}', "capabilities": '{"sampling":{}}'}


class Registry:
    """Stands for the TokenRegistry: knows the bearers that the test gives it."""

    def __init__(self, bus):
        self.bus, self.known = bus, {}

    def add(self, project=None):
        bearer = mint("pat" if project else "ses")
        owner = token.Owner(kind="User", name="ann")
        kind = "McpToken" if project else "User"
        self.known[bearer] = token.Principal(kind=kind, name="ci", sha=digest(bearer), owner=owner, project=project)
        return bearer

    async def resolve(self, request, _caller):
        principal = self.known.get(request.bearer)
        if principal is None:
            raise Unauthenticated("unknown")
        return token.Resolved(epoch="one", seq=0, principal=principal)


class Stage:
    """A nats-server of the test's own, the stand-in registry, and any number of gates."""

    def __init__(self, nats, folder):
        self.nats, self.opened, self.gates, self.clients = nats, [], [], []
        self.settings = ActorSettings(nats_url=nats.url, nats_keys=nats.keys, data_dir=folder)

    async def connect(self, role):
        self.opened.append(await Bus.connect(self.nats.url, ActorIdentity(role, self.nats.keys)))
        return self.opened[-1]

    async def gate(self):
        gate = SessionGate(await self.connect("session"), self.settings)
        await gate.start()
        self.gates.append(gate)
        return gate

    async def provisioner(self):
        """Connect as the one user who may do anything with streams."""
        client = await connect_nats(
            self.nats.url,
            on_closed=lambda: None,
            nkeys_seed=str(self.nats.keys / f"{PROVISIONER}.nk"),
            inbox_prefix=f"_INBOX.{PROVISIONER}".encode(),
        )
        self.clients.append(client)
        return client.jetstream()

    async def delete_bucket(self):
        await (await self.provisioner()).delete_stream(f"KV_{SESSIONS_BUCKET}")

    async def make_bucket_anew(self):
        await self.delete_bucket()
        await provision(self.nats.url, self.nats.keys)

    async def close(self):
        for client in self.clients:
            await client.close()
        for gate in self.gates:
            await gate.stop()
        for bus in self.opened:
            await bus.close()


@pytest.fixture
async def stage(tmp_path):
    nats = NatsServer(tmp_path / "nats", free_port())
    await nats.start()
    await provision(nats.url, nats.keys)
    stage = Stage(nats, tmp_path)
    yield stage
    await stage.close()
    await nats.stop()


@pytest.fixture
async def registry(stage):
    registry = Registry(await stage.connect("token"))
    await registry.bus.serve(token.resolve, registry.resolve)
    await registry.bus.ready()
    return registry


@pytest.fixture
async def gate(stage, registry):
    return Replica(await stage.gate())


class Replica:
    """Asks one certain gate, as the bus would: which of several answers must not matter."""

    def __init__(self, gate):
        self.gate = gate

    async def open(self, bearer, project="web", **fields):
        return await self.ask(session.open_session, bearer=bearer, project=project, **(INIT | fields))

    async def find(self, bearer, session_id):
        return await self.ask(session.find, bearer=bearer, id=session_id)

    async def set_log_level(self, bearer, session_id, level):
        await self.ask(session.set_log_level, bearer=bearer, id=session_id, level=level)

    async def subscribe(self, bearer, session_id, uri, *, subscribed=True):
        return await self.ask(session.set_subscription, bearer=bearer, id=session_id, uri=uri, subscribed=subscribed)

    async def take_stream(self, gateway, bearer, session_id):
        return await self.ask(session.take_stream, caller=gateway, bearer=bearer, id=session_id)

    async def close(self, bearer, session_id):
        await self.ask(session.close, bearer=bearer, id=session_id)

    async def pull(self, epoch="", seq=-1):
        return await self.ask(session.feed.pull, epoch=epoch, seq=seq, instance="test")

    async def ask(self, call: Call, caller="gateway-test", **fields):
        bound = [getattr(part, name) for part in self.gate.parts for name in dir(type(part))]
        method = next(method for method in bound if getattr(method, "answers", None) == call)
        async with asyncio.timeout(5):
            return await method(call.request(**fields), Caller(caller))

    async def eventually(self, ask):
        """Ask until the gate is there to answer."""
        async with asyncio.timeout(10):
            while True:
                try:
                    return await ask()
                except BusError as error:
                    assert error.http_status >= 500
                    await asyncio.wait([asyncio.create_task(self.gate._recent.reach("", 0))], timeout=0.05)


def recorded(changes):
    return [(change.key, change.action) for change in changes.changes]


async def test_an_opened_session_is_found_by_its_id(gate, registry):
    bearer = registry.add("web")

    opened = await gate.open(bearer, server="git")
    found = await gate.find(bearer, opened.id)

    assert found.session == opened.session
    assert (found.session.project, found.session.server) == ("web", "git")
    assert (found.session.client_info, found.session.capabilities) == (INIT["client_info"], INIT["capabilities"])
    assert found.session.owner == digest(bearer)


async def test_the_id_is_256_bits_of_visible_ascii_and_no_two_are_alike(gate, registry):
    bearer = registry.add("web")

    ids = {(await gate.open(bearer)).id for _ in range(20)}

    assert len(ids) == 20
    assert all(len(each) == 43 and each.isascii() and each.isprintable() and " " not in each for each in ids)


async def test_the_bucket_holds_no_id(gate, registry, stage):
    bearer = registry.add("web")
    opened = await gate.open(bearer)

    held = await gate.gate._bucket.last(opened.session.key)

    assert opened.session.key == hashlib.sha256(opened.id.encode()).hexdigest()
    assert opened.id.encode() not in held.data
    assert bearer.encode() not in held.data


async def test_a_token_opens_sessions_in_its_own_project_only(gate, registry):
    with pytest.raises(Forbidden, match="no access to project shop"):
        await gate.open(registry.add("web"), project="shop")


async def test_a_user_opens_sessions_in_any_project(gate, registry):
    bearer = registry.add()

    opened = await gate.open(bearer, project="shop")

    assert opened.session.project == "shop"


async def test_an_unknown_bearer_opens_nothing(gate):
    with pytest.raises(Unauthenticated):
        await gate.open(mint("pat"))


async def test_a_session_of_another_bearer_is_as_unknown_as_any(gate, registry):
    owner, other = registry.add("web"), registry.add("web")
    opened = await gate.open(owner)
    texts = set()

    for bearer, session_id in ((other, opened.id), (owner, "no-such-id"), (other, "no-such-id")):
        for ask in (
            gate.find(bearer, session_id),
            gate.close(bearer, session_id),
            gate.set_log_level(bearer, session_id, "info"),
            gate.subscribe(bearer, session_id, "note://1"),
            gate.take_stream("gateway-a", bearer, session_id),
        ):
            with pytest.raises(NotFound) as refused:
                await ask
            texts.add(str(refused.value))

    assert texts == {"no such session"}
    assert (await gate.find(owner, opened.id)).session == opened.session


async def test_a_closed_session_is_not_found_on_another_replica_at_once(gate, registry, stage):
    bearer = registry.add("web")
    other = Replica(await stage.gate())

    for _ in range(50):
        opened = await gate.open(bearer)
        assert (await other.find(bearer, opened.id)).session == opened.session
        await gate.close(bearer, opened.id)
        with pytest.raises(NotFound):
            await other.find(bearer, opened.id)


async def test_a_session_is_closed_once(gate, registry):
    bearer = registry.add("web")
    opened = await gate.open(bearer)

    closed = await asyncio.gather(*(gate.close(bearer, opened.id) for _ in range(5)), return_exceptions=True)

    assert [type(each) for each in closed if each is not None] == [NotFound] * 4


async def test_the_log_level_is_remembered(gate, registry, stage):
    bearer = registry.add("web")
    other = Replica(await stage.gate())
    opened = await gate.open(bearer)

    await gate.set_log_level(bearer, opened.id, "warning")

    assert (await other.find(bearer, opened.id)).session.log_level == "warning"


async def test_log_levels_set_at_once_do_not_revive_a_closed_session(gate, registry, stage):
    bearer = registry.add("web")
    other = Replica(await stage.gate())
    for _ in range(10):
        opened = await gate.open(bearer)

        await asyncio.gather(
            gate.set_log_level(bearer, opened.id, "info"),
            other.close(bearer, opened.id),
            return_exceptions=True,
        )

        with pytest.raises(NotFound):
            await gate.find(bearer, opened.id)


async def test_subscriptions_are_remembered_once_each_and_forgotten(gate, registry, stage):
    bearer = registry.add("web")
    other = Replica(await stage.gate())
    opened = await gate.open(bearer)

    for uri in ("note://1", "note://2", "note://3", "note://1"):
        last = await gate.subscribe(bearer, opened.id, uri)
    assert last.session.subscriptions == ("note://1", "note://2", "note://3")
    for uri in ("note://2", "note://2", "note://unknown"):
        last = await other.subscribe(bearer, opened.id, uri, subscribed=False)

    assert last.session.subscriptions == ("note://1", "note://3")
    assert (await gate.find(bearer, opened.id)) == last


async def test_a_subscription_that_is_there_already_changes_nothing(gate, registry):
    bearer = registry.add("web")
    opened = await gate.open(bearer)
    first = await gate.subscribe(bearer, opened.id, "note://1")

    again = await gate.subscribe(bearer, opened.id, "note://1")

    assert (first.seq, again) == (opened.seq + 1, first)


async def test_a_thousand_subscriptions_are_enough_and_one_can_be_exchanged(gate, registry, monkeypatch):
    monkeypatch.setattr(session, "MAX_SUBSCRIPTIONS", 3)
    bearer = registry.add("web")
    opened = await gate.open(bearer)
    for number in range(3):
        await gate.subscribe(bearer, opened.id, f"note://{number}")

    with pytest.raises(Conflict, match="has 3 subscriptions, and cannot have more: unsubscribe from one"):
        await gate.subscribe(bearer, opened.id, "note://3")
    await gate.subscribe(bearer, opened.id, "note://0")
    await gate.subscribe(bearer, opened.id, "note://0", subscribed=False)
    last = await gate.subscribe(bearer, opened.id, "note://3")

    assert last.session.subscriptions == ("note://1", "note://2", "note://3")


async def test_the_uris_of_all_subscriptions_have_a_limit_together(gate, registry):
    bearer = registry.add("web")
    opened = await gate.open(bearer)
    uris = [f"note://{number}/{'é' * 8180}" for number in range(session.MAX_SUBSCRIPTION_BYTES // (2 * 8180) + 1)]

    for uri in uris[:-1]:
        await gate.subscribe(bearer, opened.id, uri)
    with pytest.raises(Conflict, match="longer than 262144 bytes together"):
        await gate.subscribe(bearer, opened.id, uris[-1])

    assert (await gate.find(bearer, opened.id)).session.subscriptions == tuple(uris[:-1])


async def test_subscriptions_set_at_once_on_two_replicas_are_all_kept(gate, registry, stage):
    bearer = registry.add("web")
    other = Replica(await stage.gate())
    opened = await gate.open(bearer)

    uris = {f"note://{number}" for number in range(40)}

    await asyncio.gather(*((gate, other)[len(uri) % 2].subscribe(bearer, opened.id, uri) for uri in uris))

    assert set((await gate.find(bearer, opened.id)).session.subscriptions) == uris


async def test_the_newest_stream_of_a_session_is_known_by_its_gateway_and_number(gate, registry, stage):
    bearer = registry.add("web")
    other = Replica(await stage.gate())
    opened = await gate.open(bearer)

    takers = ((gate, "gateway-a"), (other, "gateway-b"), (gate, "gateway-b"))
    taken = [await replica.take_stream(name, bearer, opened.id) for replica, name in takers]

    assert [(each.session.stream, each.session.stream_number) for each in taken] == [
        ("gateway-a", 1),
        ("gateway-b", 2),
        ("gateway-b", 3),
    ]
    assert [each.seq for each in taken] == [opened.seq + 1, opened.seq + 2, opened.seq + 3]
    assert await other.find(bearer, opened.id) == taken[-1]


async def test_every_replica_answers_a_pull_with_what_any_replica_did(gate, registry, stage):
    bearer = registry.add("web")
    other = Replica(await stage.gate())
    start = await other.pull()
    opened = await gate.open(bearer)
    kept = await other.open(bearer)
    await gate.close(bearer, opened.id)

    for replica in (gate, other):
        changes = await replica.pull(start.epoch, start.seq)
        assert not changes.reset
        assert changes.seq == start.seq + 3
        assert recorded(changes)[-2:] == [(kept.session.key, "created"), (opened.session.key, "removed")]


async def test_a_pull_is_not_answered_before_the_replica_has_seen_it_all(gate, registry, stage):
    bearer = registry.add("web")
    other = Replica(await stage.gate())
    start = await other.pull()
    opened = await gate.open(bearer)

    for _ in range(200):
        await gate.set_log_level(bearer, opened.id, "info")
        changes = await other.pull(start.epoch, start.seq)
        assert changes.changes[-1].seq == changes.seq == (await gate.find(bearer, opened.id)).seq


async def test_a_replica_that_does_not_catch_up_vouches_for_nothing(gate, registry, monkeypatch):
    monkeypatch.setattr(recent_changes, "CATCH_UP", 0.1)
    monkeypatch.setattr(gate.gate._recent, "take", lambda _: None)
    await gate.open(registry.add("web"))

    with pytest.raises(Unavailable, match="not seen all"):
        await gate.pull()


async def test_a_follower_that_knows_too_little_starts_afresh(gate, registry):
    bearer = registry.add("web")
    for _ in range(3):
        await gate.open(bearer)
    now = await gate.pull()

    assert now.reset
    assert (await gate.pull("another epoch", 1)).reset
    assert (await gate.pull(now.epoch, now.seq + 1)).reset
    assert not (await gate.pull(now.epoch, now.seq)).reset


def test_only_the_latest_changes_are_remembered():
    recent = RecentChanges(limit=3)
    recent.begin("one", 0)
    for seq in range(1, 6):
        recent.take(Change(seq=seq, kind="session", key=f"key{seq % 2}", action="changed"))

    assert [change.seq for change in recent.since(PullChanges(epoch="one", seq=2, instance="x")).changes] == [3, 4, 5]
    assert recent.since(PullChanges(epoch="one", seq=1, instance="x")).reset
    assert (recent.latest("key0"), recent.latest("key1"), recent.latest("key2")) == (4, 5, 0)


async def test_sessions_and_their_feed_survive_a_restart_of_the_server(gate, registry, stage):
    bearer = registry.add("web")
    opened = await gate.open(bearer)
    start = await gate.pull()

    await stage.nats.stop()
    await stage.nats.start()

    found = await gate.eventually(lambda: gate.find(bearer, opened.id))
    assert found.session == opened.session
    closed = await gate.eventually(lambda: gate.close(bearer, opened.id))
    assert closed is None
    changes = await gate.eventually(lambda: gate.pull(start.epoch, start.seq))
    assert recorded(changes) == [(opened.session.key, "removed")]


async def test_a_bucket_that_was_made_anew_begins_a_new_epoch(gate, registry, stage):
    bearer = registry.add("web")
    opened = await gate.open(bearer)
    start = await gate.pull()

    await stage.make_bucket_anew()

    changes = await gate.eventually(lambda: gate.pull(start.epoch, start.seq))
    assert changes.reset
    assert changes.epoch != start.epoch
    with pytest.raises(NotFound):
        await gate.find(bearer, opened.id)


async def test_it_starts_without_its_bucket_and_waits_for_it(stage, registry):
    await stage.delete_bucket()
    gate = Replica(await stage.gate())
    bearer = registry.add("web")
    with pytest.raises(BusError):
        await gate.open(bearer)

    await provision(stage.nats.url, stage.nats.keys)

    opened = await gate.eventually(lambda: gate.open(bearer))
    assert (await gate.find(bearer, opened.id)).session == opened.session


async def test_a_session_long_in_use_is_kept_alive(gate, registry, monkeypatch):
    bearer = registry.add("web")
    opened = await gate.open(bearer)
    monkeypatch.setattr(sessions, "REFRESH_SECONDS", -1)

    found = await gate.find(bearer, opened.id)

    assert found.seq == opened.seq + 1
    assert found.session == opened.session


async def test_a_gateway_asks_and_hears_over_the_bus(plane, root):
    gate = SessionGate(await plane.actor("session"), plane.settings)
    await gate.start()
    await root.ask(token.create_service_account, name="edge")
    edge = await root.ask(token.issue_service_account_token, name="edge")
    gateway = await plane.connect(AdmittedIdentity("gateway", edge.bearer))
    bearer = (await root.issue("web", "ci")).bearer
    heard = asyncio.Queue()
    await gateway.listen(session.feed.changed, heard.put)
    await gateway.ready()

    opened = await gateway.call(session.open_session, session.OpenSession(bearer=bearer, project="web", **INIT))
    await gateway.call(session.set_log_level, session.SetLogLevel(bearer=bearer, id=opened.id, level="info"))
    asked = session.SetSubscription(bearer=bearer, id=opened.id, uri="note://1", subscribed=True)
    subscribed = await gateway.call(session.set_subscription, asked)
    taken = await gateway.call(session.take_stream, session.TakeStream(bearer=bearer, id=opened.id))
    await gateway.call(session.close, session.CloseSession(bearer=bearer, id=opened.id))

    async with asyncio.timeout(5):
        changed = [await heard.get() for _ in range(5)]
    assert [(each.change.seq, each.change.action) for each in changed] == [
        (opened.seq, "created"),
        (opened.seq + 1, "changed"),
        (subscribed.seq, "changed"),
        (taken.seq, "changed"),
        (opened.seq + 4, "removed"),
    ]
    assert taken.session.stream == gateway.caller
    assert {(each.epoch, each.change.key) for each in changed} == {(opened.epoch, opened.session.key)}
    with pytest.raises(NotFound):
        await gateway.call(session.find, session.FindSession(bearer=bearer, id=opened.id))
    await gate.stop()


async def test_many_sessions_leave_the_replica_small(gate, registry):
    gate.gate._recent._limit, many = 1000, 2_000 * SCALE
    bearer = registry.add("web")
    some = asyncio.Semaphore(100)

    async def one():
        async with some:
            return (await gate.open(bearer)).id

    async with asyncio.timeout(60 * SCALE):
        ids = await asyncio.gather(*(one() for _ in range(many)))
        now = await gate.pull()
        found = await gate.find(bearer, ids[0])

    assert now.seq == many
    assert found.session.owner == digest(bearer)
    assert len(gate.gate._recent._changes) <= 1000
