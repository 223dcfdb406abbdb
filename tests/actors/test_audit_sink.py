"""The ledger: what JetStream has acknowledged is in it once, in order, whatever dies on the way."""

import asyncio
import contextlib
import hashlib
import json
import shutil
from datetime import UTC, datetime

import pytest
from sqlalchemy import event as sqlalchemy_event
from structlog.testing import capture_logs

from mcpctl.actors.audit_sink import AuditSink, ledger, search
from mcpctl.actors.audit_sink.held import Held
from mcpctl.actors.settings import ActorSettings
from mcpctl.actors.storage import Store, database_url
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus, connect_nats
from mcpctl.bus.contracts import audit, rbac, token
from mcpctl.bus.errors import Forbidden
from mcpctl.bus.identity import ActorIdentity, AdmittedIdentity, router_id
from mcpctl.bus.nats_config import PROVISIONER
from mcpctl.bus.provision import provision
from mcpctl.bus.streams import Stored
from mcpctl.cli.nats_server import NatsServer, free_port
from tests.postgres import database_url as own_database
from tests.soak import audit_kills
from tests.tables import Tables

GENESIS = "0" * 64


@pytest.fixture
async def nats(tmp_path):
    """A nats-server of the test's own: the audit stream must hold this test's events only."""
    server = NatsServer(tmp_path / "nats", free_port())
    await server.start()
    await provision(server.url, server.keys)
    yield server
    await server.stop()


@pytest.fixture
async def provisioner(nats):
    """The one user who may do anything with streams."""
    client = await connect_nats(
        nats.url,
        on_closed=lambda: None,
        nkeys_seed=str(nats.keys / f"{PROVISIONER}.nk"),
        inbox_prefix=f"_INBOX.{PROVISIONER}".encode(),
    )
    yield client.jetstream()
    await client.close()


@pytest.fixture
async def writer(nats):
    """A router's way into the stream."""
    bus = await Bus.connect(nats.url, ActorIdentity("router", nats.keys))
    writer = AuditWriter(bus)
    yield writer
    await writer.close()
    await bus.close()


class Book(Tables):
    """The ledger as its database has it, read beside the sinks."""

    def rows(self, columns="seq, project, number, prev, hash, event"):
        return self.ask(f"SELECT {columns} FROM ledger ORDER BY seq")

    def events(self):
        return [json.loads(event) for (event,) in self.rows("event")]

    def names(self):
        return [name for (name,) in self.rows("name")]

    def last(self):
        return self.number("SELECT last FROM ledger_position")

    def verify(self):
        """Assert that nothing is missing, doubled or altered."""
        ends = {}
        for place, (seq, project, number, prev, digest, event) in enumerate(self.rows(), start=1):
            before, last = ends.get(project, (GENESIS, 0))
            assert (seq, number, prev) == (place, last + 1, before)
            assert digest == hashlib.sha256(bytes.fromhex(prev) + seq.to_bytes(8, "big") + event.encode()).hexdigest()
            ends[project] = digest, number


@pytest.fixture
def place():
    """The ledger's PostgreSQL, None for SQLite."""
    return own_database()


@pytest.fixture
def book(tmp_path, place):
    return Book("audit", tmp_path, place)


@pytest.fixture
async def sinks(nats, tmp_path, place):
    """Start sinks in this process; all are stopped in the end."""
    settings = ActorSettings(nats_url=nats.url, nats_keys=nats.keys, data_dir=tmp_path, database_url=place)
    started = []

    async def start(before=lambda _: None):
        sink = AuditSink(await Bus.connect(nats.url, ActorIdentity("audit", nats.keys)), settings)
        before(sink)
        started.append(sink)
        await sink.start()
        return sink

    start.started = started
    yield start
    for sink in started:
        await sink.stop()


async def until_written(sink, count):
    """Return the first `count` entries of the ledger, as soon as they are there."""
    entries = []
    async with asyncio.timeout(30):
        while len(entries) < count:
            asked = audit.Follow(bearer="", cursor=len(entries), wait_ms=1000)
            found = await looked(sink, asked)
            entries += found.items
    return entries


async def looked(sink, asked):
    """Follow the ledger from inside the actor: no right is asked for."""
    async with sink._tail.heard():
        while True:
            growth = sink._tail.growth
            found = await sink._look(asked.filter, asked.cursor)
            if found.items:
                return found
            await growth.wait()


def call(name, **fields):
    return {"kind": "call", "outcome": "allow", "project": "web", "principal": "token-ci", "name": name} | fields


# Into the ledger


async def test_events_are_in_the_ledger_in_the_order_of_their_appending(writer, sinks, book):
    sink = await sinks()
    for n in range(100):
        await writer.append(call(str(n)))

    entries = await until_written(sink, 100)

    assert [entry.event.name for entry in entries] == [str(n) for n in range(100)]
    assert [entry.seq for entry in entries] == list(range(1, 101))
    book.verify()


async def test_what_was_appended_before_the_first_start_is_not_missed(writer, sinks, book):
    await asyncio.gather(*(writer.append(call(str(n))) for n in range(10)))

    await until_written(await sinks(), 10)

    assert book.names() == [str(n) for n in range(10)]


async def test_every_project_has_a_chain_of_its_own(writer, sinks, book):
    sink = await sinks()
    for n in range(9):
        await writer.append(call(str(n), project=("web", "shop", None)[n % 3]))

    entries = await until_written(sink, 9)

    assert [(entry.event.project, entry.number) for entry in entries[-3:]] == [("web", 3), ("shop", 3), (None, 3)]
    book.verify()


async def test_the_canonical_text_keeps_what_a_newer_writer_adds(writer, sinks, book):
    sink = await sinks()
    await writer.append(call("x", zz_new_field=[1, "two"], server=None))

    await until_written(sink, 1)

    [(text,)] = book.rows("event")
    assert '"zz_new_field":[1,"two"]' in text
    assert "server" not in text
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


async def test_an_event_that_was_sent_twice_is_written_once(writer, sinks, book):
    sink = await sinks()
    await writer.append(call("once", id="the-same-event"))
    await until_written(sink, 1)

    await asyncio.gather(writer.append(call("once", id="the-same-event")), writer.append(call("other")))
    await until_written(sink, 2)

    assert book.names() == ["once", "other"]
    book.verify()


async def test_a_message_that_is_delivered_again_is_written_once(writer, sinks, book, provisioner):
    first = await sinks()
    await writer.append(call("once"))
    await until_written(first, 1)

    # As if the ack had been lost: a new consumer begins with all that the stream holds.
    await provisioner.delete_consumer(audit.STREAM, "sink")
    await writer.append(call("next"))
    await until_written(first, 2)

    assert book.names() == ["once", "next"]


async def test_what_is_in_the_ledger_leaves_the_stream(writer, sinks, provisioner):
    sink = await sinks()
    await asyncio.gather(*(writer.append(call(str(n))) for n in range(10)))
    await until_written(sink, 10)

    async with asyncio.timeout(5):
        while (await provisioner.stream_info(audit.STREAM)).state.messages:
            await sink._streams.client.flush()


# What is no event


@pytest.fixture
async def gateway(plane, root):
    await root.ask(token.create_service_account, name="edge")
    edge = await root.ask(token.issue_service_account_token, name="edge")
    return await plane.connect(AdmittedIdentity("gateway", edge.bearer))


def of_kind(book, kind):
    return [event for event in book.events() if event["kind"] == kind]


async def wait_for(sink, book, kind, count):
    async with asyncio.timeout(10):
        while len(of_kind(book, kind)) < count:
            growth = sink._tail.growth
            if len(of_kind(book, kind)) < count:
                await growth.wait()


async def test_a_gateway_may_append_refusals_and_is_named_by_its_connection(gateway, sinks, book):
    sink = await sinks()
    edge = AuditWriter(gateway)

    await edge.append({"kind": "edge", "outcome": "deny", "project": "web", "gateway": "somebody-else"})

    await wait_for(sink, book, "edge", 1)
    assert of_kind(book, "edge")[0]["gateway"] == gateway.caller


@pytest.mark.parametrize(
    "forged",
    [
        {"kind": "call", "outcome": "allow", "principal": "user-root", "project": "web"},
        {"kind": "token.issue", "outcome": "deny"},
        {"kind": "edge", "outcome": "allow"},
    ],
)
async def test_what_else_a_gateway_appends_is_recorded_as_forged_by_it(gateway, sinks, book, forged):
    sink = await sinks()
    edge = AuditWriter(gateway)

    await edge.append(dict(forged))

    await wait_for(sink, book, "audit.forged", 1)
    [event] = of_kind(book, "audit.forged")
    assert (event["outcome"], event["gateway"]) == ("deny", gateway.caller)
    assert "project" not in event
    assert "principal" not in event
    assert forged["kind"] in event["detail"]


async def test_a_router_of_a_site_appends_calls_under_its_own_id_and_nothing_else(plane, root, sinks, book):
    await root.ask(token.create_service_account, name="lab", router_site="lab")
    lab = await root.ask(token.issue_service_account_token, name="lab")
    router = await plane.connect(AdmittedIdentity("router", lab.bearer, site="lab"))
    sink, there = await sinks(), AuditWriter(router)

    await there.append({"kind": "call", "outcome": "allow", "project": "web", "router": "r000000000000"})
    await there.append({"kind": "token.issue", "outcome": "allow", "principal": "user-root"})

    await wait_for(sink, book, "audit.forged", 1)
    assert [event["router"] for event in of_kind(book, "call")] == [router_id(router.caller)]
    assert "principal" not in of_kind(book, "audit.forged")[0]


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"id":"a","at":-1,"kind":"call","outcome":"allow"}',
        b'{"id":"a","at":1e400,"kind":"call","outcome":"allow"}',
        b'{"id":"a","at":123456789012345678901234567890,"kind":"call","outcome":"allow"}',
        b'{"id":"a","at":1,"kind":"ca ll","outcome":"allow"}',
        b'{"id":"a","at":1,"kind":"call","outcome":"maybe"}',
        b'{"id":"a","at":1,"kind":"call","outcome":"allow","project":"a.b > c"}',
        b'{"id":"a","at":1,"kind":"call","outcome":"allow","principal":"user.*"}',
        b'{"id":"a","at":1,"kind":"call","outcome":"allow","name":"nul\\u0000"}',
        b'{"id":"a","at":1,"kind":"call","outcome":"allow","detail":"' + b"x" * 200_000 + b'"}',
        b"\xff\xfe",
    ],
)
async def test_a_malformed_event_is_recorded_as_such_and_blocks_nothing(writer, sinks, book, line):
    sink = await sinks()

    await writer._client.request(
        f"{audit.APPEND}.router", line + b"\n" + json.dumps(call("x") | {"id": "good", "at": 1}).encode()
    )
    await writer.append(call("after"))
    await until_written(sink, 3)

    first, second, third = book.events()
    assert (first["kind"], first["outcome"], first["name"]) == ("audit.malformed", "error", "router")
    assert hashlib.sha256(line).hexdigest() in first["detail"]
    assert len(first["detail"]) < 1500
    assert (second["name"], third["name"]) == ("x", "after")
    book.verify()


async def test_headers_of_a_writer_are_not_taken_for_those_of_the_server(writer, sinks, book):
    sink = await sinks()

    headers = {"Status": "409", "Description": "Consumer Deleted"}
    line = json.dumps(call("x") | {"id": "good", "at": 1}).encode()
    await writer._client.request(f"{audit.APPEND}.router", line, headers=headers)
    await writer.append(call("after"))
    await until_written(sink, 2)

    assert book.names() == ["x", "after"]


async def test_what_the_database_does_not_take_is_recorded_without_its_content(writer, sinks, book, monkeypatch):
    columns = ledger._columns

    def refused(event, text):
        return columns(event, text) | ({"kind": object()} if event.name == "poison" else {})

    monkeypatch.setattr(ledger, "_columns", refused)
    await asyncio.gather(writer.append(call("before")))
    await asyncio.gather(writer.append(call("poison")))
    await asyncio.gather(writer.append(call("after")))

    with capture_logs():
        await until_written(await sinks(), 3)

    assert [event["kind"] for event in book.events()] == ["call", "audit.malformed", "call"]
    book.verify()


# The tail


async def test_each_event_is_broadcast_once_it_is_in_the_ledger(writer, sinks, book, nats):
    listener = await Bus.connect(nats.url, ActorIdentity("audit", nats.keys))
    heard = asyncio.Queue()
    await listener.receive(audit.TAIL, heard.put)
    await listener.ready()
    sink = await sinks()

    await writer.append(call("x", kind="token.issue", principal="user-ann=40example"))

    async with asyncio.timeout(5):
        message = await heard.get()
    [written] = await until_written(sink, 1)
    assert message.subject == "mcpctl.v1.audit.web.token-issue.allow.user-ann=40example"
    assert audit.Entry.model_validate_json(message.data) == written
    await listener.close()


# Asking


@pytest.fixture
async def filled(root, sinks, writer, book):
    """A ledger with calls of two tokens in two projects, asked through an operator who may see all."""
    sink = await sinks()
    now = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
    for n in range(20):
        await writer.append(
            call(
                ("create_issue", "list_issues")[n % 2],
                at=now + n * 1000,
                project=("web", "shop")[n // 10],
                outcome=("allow", "deny")[n % 5 == 0],
                server=("github", "git")[n % 4 == 0],
                token_name=("ci", "cd")[n % 3 == 0],
                token_sha=("a" * 64, "b" * 64)[n % 3 == 0],
                user="ann" if n == 7 else None,
                correlation=str(n),
            )
        )
    async with asyncio.timeout(10):
        while len([1 for event in book.events() if event["kind"] == "call"]) < 20:
            await sink._tail.growth.wait()
    return root


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"project": "web"}, range(10)),
        ({"outcome": "deny"}, [0, 5, 10, 15]),
        ({"token": "cd"}, range(0, 20, 3)),
        ({"token_sha": "b" * 64, "project": "shop"}, [12, 15, 18]),
        ({"token_sha": "bbbb", "project": "shop"}, [12, 15, 18]),
        ({"token_sha": "bbbbc"}, []),
        ({"user": "ann"}, [7]),
        ({"tool": "git/create_issue"}, range(0, 20, 4)),
        ({"tool": "git*/list_*"}, range(1, 20, 2)),
        ({"tool": "*/create_issue", "project": "web"}, range(0, 10, 2)),
        ({"tool": "GIT/*"}, []),
        ({"tool": "git"}, []),
        ({"since": "2026-01-01T00:00:15Z", "until": "2026-01-01T00:00:17Z"}, [15, 16, 17]),
        ({"since": "2026-01-01T02:00:15+02:00", "until": "2026-01-01T00:00:15"}, [15]),
    ],
)
async def test_a_filter_shows_what_matches_oldest_first(filled, wanted, expected):
    fields = {"kind": "call"} | wanted

    found = await filled.ask(audit.query, filter=audit.Filter.model_validate(fields), limit=100)

    assert [int(entry.event.correlation) for entry in found.items] == list(expected)


async def test_a_limit_keeps_the_newest(filled):
    found = await filled.ask(audit.query, filter=audit.Filter(kind="call"), limit=3)

    assert [entry.event.correlation for entry in found.items] == ["17", "18", "19"]


async def test_the_right_to_see_one_project_shows_no_other(filled, plane):
    await filled.ask(token.create_user, name="ann", password="a long enough password")
    bindings = (rbac.Binding.parse("role:view,resource:audit"),)
    definition = rbac.Definition(name="auditors", project="web", subjects=("User:ann",), bindings=bindings)
    await filled.ask(rbac.define, definition=definition)
    ann = await plane.login("ann", "a long enough password")

    with pytest.raises(Forbidden):
        await ann.ask(audit.query)
    with pytest.raises(Forbidden):
        await ann.ask(audit.query, project="shop")
    found = await ann.ask(audit.query, project="web", filter=audit.Filter(project="shop"), limit=1000)
    followed = await ann.ask(audit.follow, project="web", cursor=0, filter=audit.Filter(project="shop"))

    for answer in (found, followed):
        assert {entry.event.project for entry in answer.items} == {"web"}


async def test_follow_goes_on_after_the_cursor_of_a_query(filled, writer):
    found = await filled.ask(audit.query, filter=audit.Filter(kind="call"), limit=1)
    waiting = asyncio.create_task(
        filled.ask(audit.follow, cursor=found.cursor, filter=audit.Filter(kind="result"), wait_ms=20_000)
    )
    await writer.append(call("other"))

    await writer.append(call("x", kind="result"))

    async with asyncio.timeout(5):
        followed = await waiting
    assert [entry.event.kind for entry in followed.items] == ["result"]
    assert followed.cursor >= found.cursor + 2


async def test_follow_ends_with_the_moved_cursor_when_nothing_matches(filled, writer):
    start = (await filled.ask(audit.query)).cursor
    await writer.append(call("other"))

    followed = await filled.ask(audit.follow, cursor=start, filter=audit.Filter(kind="nothing"), wait_ms=300)

    assert followed.items == ()
    assert followed.cursor > start


async def test_who_lost_the_right_while_waiting_gets_nothing(filled, plane, writer):
    await filled.ask(token.create_user, name="ann", password="a long enough password")
    bindings = (rbac.Binding.parse("role:view,resource:audit"),)
    definition = rbac.Definition(name="auditors", subjects=("User:ann",), bindings=bindings)
    await filled.ask(rbac.define, definition=definition)
    ann = await plane.login("ann", "a long enough password")
    wanted = audit.Filter(kind="late")
    start = (await ann.ask(audit.follow, cursor=0, filter=wanted, wait_ms=200)).cursor
    waiting = asyncio.create_task(ann.ask(audit.follow, cursor=start, filter=wanted))
    await asyncio.wait([waiting], timeout=0.2)

    await filled.ask(rbac.delete_definition, name="auditors")
    await writer.append(call("x", kind="late"))

    async with asyncio.timeout(5):
        with pytest.raises(Forbidden):
            await waiting


async def test_an_answer_is_cut_to_what_a_bus_message_can_carry_and_nothing_is_skipped(filled, monkeypatch):
    monkeypatch.setattr(search, "ANSWER_BYTES", 1500)
    wanted, cursor, seen = audit.Filter(kind="call"), 0, []

    while len(seen) < 20:
        answer = await filled.ask(audit.follow, cursor=cursor, filter=wanted)
        assert 0 < len(answer.items) <= 10
        seen += [int(entry.event.correlation) for entry in answer.items]
        cursor = answer.cursor

    assert seen == list(range(20))


# Proving and purging


async def verified(operator, **asked):
    """Return the faults, entries checked and chains of all answers together."""
    faults, checked, chains, place = [], 0, {}, None
    while True:
        found = await operator.ask(audit.verify, place=place, **asked)
        faults += found.faults
        checked += found.checked
        chains |= {chain.project: chain for chain in found.chains}
        place = found.place
        if place is None:
            return faults, checked, chains, found


async def test_the_ledger_is_verified_and_its_heads_are_anchored_with_every_sink(
    filled, plane, sinks, writer, tmp_path, place
):
    other = AuditSink(
        await plane.actor("audit"), plane.settings.model_copy(update={"data_dir": tmp_path / "elsewhere"})
    )
    other._store = Store("audit", database_url("audit", place, tmp_path))  # as on two hosts: a data folder each
    keys = tmp_path / "elsewhere" / "keys"
    keys.mkdir(parents=True)
    shutil.copy(tmp_path / "keys" / "audit-heads.json", keys)
    await other.start()
    sinks.started.append(other)
    await writer.append(call("x"))
    while "x" not in {entry.event.name for entry in await until_written(sinks.started[0], 21)}:
        await asyncio.sleep(0.02)

    faults, checked, chains, last = await verified(filled)

    assert faults == []
    assert checked >= 21
    assert (chains["web"].entries, chains["shop"].entries) == (12, 11)
    assert (last.waiting, list(last.keys)) == (0, [chains["web"].head.key])
    assert (await verified(filled, project="shop"))[1] == 11
    for sink in sinks.started:
        async with asyncio.timeout(10):
            while sink._anchors.read().get("web", {}).get(12) != chains["web"].head:
                await asyncio.wait([asyncio.create_task(sink._tail.growth.wait())], timeout=0.05)
    ann = await reader(filled, plane, "role:view,resource:audit", project="web")
    assert (await verified(ann, project="web"))[0] == []
    with pytest.raises(Forbidden):
        await ann.ask(audit.verify)


async def test_what_is_gone_from_the_stream_before_the_ledger_has_it_is_found(filled, sinks, writer, provisioner):
    sink = sinks.started[0]
    await sink._stop_draining()
    for n in range(3):
        await writer.append(call(str(n)))
    assert (await verified(filled))[3].waiting >= 3

    await provisioner.purge_stream(audit.STREAM)

    faults, *_ = await verified(filled)
    assert {fault.kind for fault in faults} == {"stream"}
    assert len(faults) == 3
    assert all("is gone from the stream" in fault.detail for fault in faults)


async def reader(root, plane, *bindings, project=None):
    await root.add_user("ann")
    await root.grant("auditors", "User:ann", *bindings, project=project)
    return await plane.login("ann")


async def test_a_purge_takes_its_operation_and_both_answers_are_audited(filled, plane, writer):
    ann = await reader(filled, plane, "role:view,resource:audit")
    asked = {"project": "web", "before": datetime.now(UTC)}

    with pytest.raises(Forbidden):
        await ann.ask(audit.purge, **asked)
    assert (await filled.ask(audit.purge, **asked | {"before": datetime(2025, 1, 1, tzinfo=UTC)})).items == ()
    planned = await filled.ask(audit.purge, **asked, dry_run=True)
    removed = await filled.ask(audit.purge, **asked)
    again = await filled.ask(audit.purge, **asked)

    assert planned == removed == audit.PurgedChains(items=(audit.Purged(project="web", first=1, last=11),))
    assert again.items == ()
    (told,) = await of_kinds(filled, "audit.purged", 1)
    assert (told.user, told.project, told.detail) == ("root", "web", "entries 1 to 11")
    faults, _, chains, _ = await verified(filled)
    assert faults == []
    assert chains["web"].purged == 11
    left = await of_kinds(filled, "audit.purge", 5)
    assert [(event.user, event.outcome) for event in left] == [("ann", "deny")] + 4 * [("root", "allow")]


async def of_kinds(root, kind, count):
    async with asyncio.timeout(10):
        while True:
            found = await root.ask(audit.follow, cursor=0, filter=audit.Filter(kind=kind))
            if len(found.items) >= count:
                return [entry.event for entry in found.items]


# Several sinks, and sinks that die


async def test_several_sinks_write_everything_once_and_in_order(writer, sinks, book):
    running = [await sinks() for _ in range(3)]

    for n in range(0, 600, 3):
        await asyncio.gather(*(writer.append(call(str(n + i))) for i in range(3)))

    await until_written(running[0], 600)
    assert book.names() == [str(n) for n in range(600)]
    book.verify()


async def test_a_follower_hears_what_another_sink_wrote(writer, sinks):
    waiting_at = await sinks()
    other = await sinks()
    await waiting_at._stop_draining()
    waiting = asyncio.create_task(looked(waiting_at, audit.Follow(bearer="", cursor=0)))

    await writer.append(call("x"))

    async with asyncio.timeout(10):
        assert [entry.event.name for entry in (await waiting).items] == ["x"]
    assert other is not waiting_at


async def test_when_one_sink_stops_the_other_goes_on_at_once(writer, sinks, book):
    first, second = await sinks(), await sinks()
    for n in range(50):
        await writer.append(call(str(n)))

    await first.stop()
    for n in range(50, 100):
        await writer.append(call(str(n)))

    async with asyncio.timeout(15):
        await until_written(second, 100)
    assert book.names() == [str(n) for n in range(100)]


async def test_nothing_acknowledged_is_lost_or_doubled_whatever_gets_kill_dash_nine(tmp_path):
    found = await audit_kills.run(tmp_path, events=3000, kills=5)

    assert found["acknowledged"] >= 3000
    assert {name: found[name] for name in ("lost", "doubled", "faults")} == {"lost": 0, "doubled": 0, "faults": []}


async def test_a_restart_of_the_server_loses_nothing(nats, writer, sinks, book):
    sink = await sinks()
    await asyncio.gather(*(writer.append(call(str(n))) for n in range(10)))

    await nats.stop()
    waiting = [writer.append(call(str(n))) for n in range(10, 20)]
    await nats.start()

    async with asyncio.timeout(15):
        await asyncio.gather(*waiting)
        await until_written(sink, 20)
    assert book.names() == [str(n) for n in range(20)]
    book.verify()


async def test_a_locked_database_delays_but_loses_nothing(writer, sinks, book, place):
    def impatient(sink):
        def configure(connection, _record):
            connection.execute("PRAGMA busy_timeout=20" if place is None else "SET lock_timeout TO 20")
            connection.commit()

        sqlalchemy_event.listen(sink._store.engine, "connect", configure)

    sink = await sinks(before=impatient)
    await writer.append(call("before"))
    await until_written(sink, 1)

    with contextlib.closing(book.engine.connect()) as other:
        on_sqlite = other.dialect.name == "sqlite"
        other.exec_driver_sql("BEGIN IMMEDIATE" if on_sqlite else "LOCK TABLE audit.ledger IN EXCLUSIVE MODE")
        await asyncio.gather(*(writer.append(call(str(n))) for n in range(10)))
        blocked = asyncio.create_task(looked(sink, audit.Follow(bearer="", cursor=1)))
        done, _ = await asyncio.wait([blocked], timeout=0.5)
        assert not done
        other.commit()

    async with asyncio.timeout(10):
        await blocked
        await until_written(sink, 11)
    assert book.names() == ["before", *map(str, range(10))]


# When stream and ledger do not belong together


async def test_a_ledger_that_begins_late_says_so(writer, sinks, book, provisioner):
    for n in range(3):
        await writer.append(call(str(n)))
    await provisioner.purge_stream(audit.STREAM)
    sink = await sinks()

    await writer.append(call("first"))

    await until_written(sink, 2)
    assert [event["kind"] for event in book.events()] == ["audit.gap", "call"]
    assert "after message 3" in book.events()[0]["detail"]


async def test_messages_that_vanished_from_the_stream_are_noted(writer, sinks, book, provisioner):
    first = await sinks()
    await writer.append(call("0"))
    await until_written(first, 1)
    await first.stop()
    for n in range(3):
        await writer.append(call(str(n)))
    await provisioner.purge_stream(audit.STREAM)

    second = await sinks()
    await writer.append(call("after"))

    await until_written(second, 3)
    assert [event["kind"] for event in book.events()] == ["call", "audit.gap", "call"]
    assert "messages 2 to 4" in book.events()[1]["detail"]
    book.verify()


async def test_acknowledged_messages_that_a_set_back_stream_has_lost_are_noted(nats, writer, sinks, book):
    await writer.append(call("0"))
    await nats.stop()
    shutil.copytree(nats.folder / "streams", nats.folder / "before")
    await nats.start()
    for n in range(1, 4):
        await writer.append(call(str(n)))
    await nats.stop()
    shutil.rmtree(nats.folder / "streams")
    (nats.folder / "before").rename(nats.folder / "streams")
    await nats.start()
    await writer.append(call("after"))

    await until_written(await sinks(), 3)

    assert [event["kind"] for event in book.events()] == ["call", "audit.stream", "call"]
    assert "router has the acknowledgement of message 4, and its next one is message 2" in book.events()[1]["detail"]


async def test_messages_that_vanish_while_it_waits_for_them_are_noted(writer, sinks, book, monkeypatch):
    monkeypatch.setattr("mcpctl.actors.audit_sink.sink.STALL_SECONDS", 0.3)
    sink = await sinks()
    await writer.append(call("0"))
    await until_written(sink, 1)
    book.ask("UPDATE ledger_position SET seq = seq - 1")
    await sink._refresh()

    await writer.append(call("after"))

    await until_written(sink, 4)
    assert [event["kind"] for event in book.events()] == ["call", "audit.position", "audit.gap", "call"]


async def test_a_stream_that_was_made_anew_is_followed_from_its_start(nats, writer, sinks, book, provisioner):
    sink = await sinks()
    for n in range(3):
        await writer.append(call(str(n)))
    await until_written(sink, 3)

    await provisioner.delete_stream(audit.STREAM)
    await provision(nats.url, nats.keys)
    await writer.append(call("anew"))

    await until_written(sink, 6)
    assert [event["kind"] for event in book.events()[3:]] == ["audit.stream", "audit.stream", "call"]
    book.verify()


async def test_it_starts_without_the_stream_and_waits_for_it(nats, writer, sinks, book, provisioner):
    await provisioner.delete_stream(audit.STREAM)
    sink = await sinks()

    await provision(nats.url, nats.keys)
    await writer.append(call("x"))

    await until_written(sink, 1)
    assert book.names() == ["x"]


# Held messages


def stored(seq, size=10):
    return Stored("subject", seq, seq, b"x" * size, {})


def test_a_run_is_unbroken_and_bounded():
    held = Held(limit=10, max_bytes=1000)
    for seq in (7, 5, 6, 9):
        held.add(stored(seq))

    assert [each.seq for each in held.run(4, 1000)] == [5, 6, 7]
    assert [each.seq for each in held.run(4, 15)] == [5, 6]
    assert [each.seq for each in held.run(4, 0)] == [5]
    assert held.run(3, 1000) == []


def test_what_is_full_gives_back_the_latest_half():
    held = Held(limit=4, max_bytes=1000)
    for seq in (8, 2, 6, 4):
        held.add(stored(seq))
    assert held.full
    assert not held.room.is_set()

    assert [each.seq for each in held.take_latest_half()] == [6, 8]
    assert held.room.is_set()
    assert [each.seq for each in held.take_until(3)] == [2]


def test_a_message_that_came_twice_counts_once():
    held = Held(limit=4, max_bytes=25)
    held.add(stored(1))
    held.add(stored(1))

    assert not held.full
    assert [each.seq for each in held.take_all()] == [1]
    assert not held
