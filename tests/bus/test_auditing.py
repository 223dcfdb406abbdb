"""Appending audit events to the real stream."""

import asyncio

import orjson
import pytest
from nats.js.api import StreamConfig

from mcpctl.bus import auditing
from mcpctl.bus.auditing import AuditWriter
from mcpctl.bus.connection import Bus, connect_nats
from mcpctl.bus.contracts import audit
from mcpctl.bus.errors import Unavailable
from mcpctl.bus.identity import ActorIdentity
from mcpctl.bus.nats_config import PROVISIONER
from mcpctl.bus.provision import provision
from mcpctl.cli.nats_server import NatsServer, free_port


@pytest.fixture
async def server(tmp_path):
    """A nats-server of its own, whose audit stream a test may take away."""
    server = NatsServer(tmp_path / "nats", free_port())
    await server.start()
    await provision(server.url, server.keys)
    yield server
    await server.stop()


@pytest.fixture
async def provisioner(server):
    """The one user who may do anything with streams."""
    client = await connect_nats(
        server.url,
        on_closed=lambda: None,
        nkeys_seed=str(server.keys / f"{PROVISIONER}.nk"),
        inbox_prefix=f"_INBOX.{PROVISIONER}".encode(),
    )
    yield client.jetstream()
    await client.close()


@pytest.fixture
async def writer(server, connect_to):
    bus = await connect_to(server, "router")
    writer = AuditWriter(bus)
    yield writer
    await writer.close()


@pytest.fixture
async def connect_to():
    opened = []

    async def connect(server, role):
        opened.append(await Bus.connect(server.url, ActorIdentity(role, server.keys)))
        return opened[-1]

    yield connect
    for bus in opened:
        await bus.close()


async def stored(provisioner):
    """Return the stream's messages, each as a list of events."""
    state = (await provisioner.stream_info(audit.STREAM)).state
    numbers = range(state.first_seq, state.last_seq + 1) if state.messages else ()
    messages = [await provisioner.get_msg(audit.STREAM, seq=seq) for seq in numbers]
    return [[orjson.loads(line) for line in message.data.split(b"\n")] for message in messages]


async def test_the_events_of_one_loop_turn_travel_in_one_message(writer, provisioner):
    waits = [writer.append({"kind": "call", "outcome": "allow", "name": str(n)}) for n in range(100)]

    await asyncio.gather(*waits)

    messages = await stored(provisioner)
    assert [[event["name"] for event in events] for events in messages] == [[str(n) for n in range(100)]]


async def test_an_event_is_given_an_id_and_a_time(writer, provisioner):
    await writer.append({"kind": "call", "outcome": "allow"})

    [[event]] = await stored(provisioner)
    assert len(event["id"]) == 24
    assert event["at"] > 1_700_000_000_000


async def test_a_large_turn_is_split_into_messages_below_the_limit(writer, provisioner, monkeypatch):
    monkeypatch.setattr(auditing, "BATCH_BYTES", 1000)
    waits = [writer.append({"kind": "call", "detail": "x" * 400}) for _ in range(5)]

    await asyncio.gather(*waits)

    assert [len(events) for events in await stored(provisioner)] == [2, 2, 1]


async def test_the_message_tells_who_wrote_it(writer, provisioner):
    await writer.append({"kind": "call"})

    assert (await provisioner.get_msg(audit.STREAM, seq=1)).subject == f"{audit.APPEND}.router"


async def test_an_event_is_appended_again_until_the_stream_takes_it(writer, provisioner, server):
    await provisioner.delete_stream(audit.STREAM)
    waiting = writer.append({"kind": "call"})
    while not writer.retries:
        await asyncio.wait([waiting], timeout=0.05)

    await provision(server.url, server.keys)

    async with asyncio.timeout(5):
        await waiting
    assert [len(events) for events in await stored(provisioner)] == [1]


async def test_a_batch_sent_twice_is_stored_once(writer, provisioner):
    batch = auditing._Batch(writer, [b'{"kind":"call"}'], [])
    for _ in range(2):
        writer._in_flight[batch.id] = batch
        writer._settled.clear()
        writer._attempt(batch)
        await writer._settled.wait()

    assert writer.retries == 0
    assert len(await stored(provisioner)) == 1


async def test_an_event_survives_a_restart_of_the_server(writer, provisioner, server):
    await server.stop()
    waiting = [writer.append({"kind": "call", "name": str(n)}) for n in range(3)]
    await server.start()

    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)

    [events] = await stored(provisioner)
    assert [event["name"] for event in events] == ["0", "1", "2"]


async def test_after_its_patience_the_waiters_are_told(writer, provisioner, monkeypatch):
    monkeypatch.setattr(auditing, "PATIENCE", 0.2)
    await provisioner.delete_stream(audit.STREAM)

    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="audit stream"):
            await writer.append({"kind": "call"})


async def test_a_full_stream_is_asked_at_a_measured_pace(writer, provisioner, monkeypatch):
    monkeypatch.setattr(auditing, "PATIENCE", 0.5)
    await provisioner.update_stream(
        StreamConfig(
            name=audit.STREAM,
            subjects=[f"{audit.APPEND}.*"],
            retention="workqueue",
            discard="new",
            max_bytes=1,
            deny_delete=True,
        )
    )

    with pytest.raises(Unavailable):
        await writer.append({"kind": "call"})

    assert 1 <= writer.retries <= 12


async def test_without_an_ack_for_a_while_it_is_not_healthy_until_one_comes(writer, provisioner, server, monkeypatch):
    monkeypatch.setattr(auditing, "ATTEMPT", 0.1)
    await provisioner.delete_stream(audit.STREAM)
    waiting = writer.append({"kind": "call"})
    async with asyncio.timeout(5):
        while writer.healthy:
            await asyncio.wait([waiting], timeout=0.02)

    await provision(server.url, server.keys)
    await waiting

    assert writer.healthy


async def test_what_nobody_waits_for_any_more_is_sent_until_the_stream_is_back(
    writer, provisioner, server, monkeypatch
):
    monkeypatch.setattr(auditing, "PATIENCE", 0.2)
    monkeypatch.setattr(auditing, "ATTEMPT", 0.1)
    monkeypatch.setattr(auditing, "LATER", 0.1)
    await provisioner.delete_stream(audit.STREAM)
    with pytest.raises(Unavailable):
        await writer.append({"kind": "call", "name": "told that it failed"})
    assert not writer.healthy, "no new call may begin"

    await provision(server.url, server.keys)

    async with asyncio.timeout(5):
        while not writer.healthy:
            await asyncio.sleep(0.02)
    [[event]] = await stored(provisioner)
    assert event["name"] == "told that it failed"


async def test_what_is_sent_on_is_bounded_and_a_close_waits_for_no_stream(writer, provisioner, monkeypatch):
    monkeypatch.setattr(auditing, "PATIENCE", 0.1)
    monkeypatch.setattr(auditing, "KEPT", 3)
    await provisioner.delete_stream(audit.STREAM)
    waits = []
    for _ in range(6):
        waits.append(writer.append({"kind": "edge"}))
        await asyncio.sleep(0)

    async with asyncio.timeout(5):
        assert all(isinstance(each, Unavailable) for each in await asyncio.gather(*waits, return_exceptions=True))
        while writer.unacknowledged > 3:
            await asyncio.sleep(0.02)
        await writer.close()

    assert writer.unacknowledged == 0


async def test_an_event_that_no_message_can_carry_blocks_nothing(writer, provisioner):
    with pytest.raises(Unavailable):
        await writer.append({"kind": "call", "choices": {"a": "x" * 9_000_000}})

    await writer.append({"kind": "call", "name": "after"})

    assert writer.healthy
    assert [[event["name"] for event in events] for events in await stored(provisioner)] == [["after"]]


async def test_close_waits_for_what_was_taken(writer, provisioner):
    for _ in range(3):
        writer.append_later({"kind": "result"})

    await writer.close()

    assert [len(events) for events in await stored(provisioner)] == [3]


async def test_a_writer_whose_events_are_all_acknowledged_is_healthy(writer):
    for _ in range(100):
        first = writer.append({"kind": "call", "outcome": "allow"})
        await asyncio.sleep(0)  # another turn of the loop, so another batch
        second = writer.append({"kind": "call", "outcome": "allow"})
        async with asyncio.timeout(5):
            await asyncio.gather(first, second)
        assert writer.unacknowledged == 0


async def test_words_of_a_client_are_kept_up_to_a_length(writer, provisioner):
    async with asyncio.timeout(5):
        await writer.append({"kind": "call", "outcome": "deny", "name": "n" * 9_000_000})

    ((event,),) = await stored(provisioner)
    assert len(event["name"]) < 500
