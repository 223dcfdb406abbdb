"""What is kept of a stream, for whom, and for how long."""

import asyncio
import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpctl.bus.contracts.session import Session
from mcpctl.bus.contracts.token import Owner, Principal
from mcpctl.gateway.event_log import STREAM_BYTES, EventId, EventLog, EventLogs

GATEWAY = "gateway-" + "a" * 16
PRINCIPAL = Principal(kind="User", name="ann", sha="0" * 64, owner=Owner(kind="User", name="ann"))
SESSION = Session(
    key="k", owner="o", project="p", server=None, version="2025-11-25", client_info="{}", capabilities="{}"
)


@pytest.fixture
async def logs():
    kept = EventLogs(GATEWAY)
    yield kept
    await kept.close()


@pytest.fixture
def log(logs):
    return logs.open(SESSION, PRINCIPAL, b"1")


async def all_of(reader):
    events = []
    with suppress(EOFError):
        while True:
            events.append(await reader.next())
    return events


async def test_a_reader_gets_what_came_after_its_number_and_what_comes_later(log):
    await log.send(b"1")
    await log.send(b"2")
    reader = log.read(1)
    assert await reader.next() == (2, b"2")

    reading = asyncio.create_task(all_of(reader))
    await asyncio.sleep(0)
    await log.send(b"3")
    log.finish()

    assert await reading == [(3, b"3")]


async def test_a_newer_reader_ends_an_older_one(log):
    older = asyncio.create_task(all_of(log.read(0)))
    await asyncio.sleep(0)

    newer = log.read(0)
    await log.send(b"1")

    assert await older == []
    assert await newer.next() == (1, b"1")


async def test_of_what_nobody_reads_the_oldest_goes_first(log):
    for _ in range(5):
        await log.send(b"x" * (STREAM_BYTES // 2))
    log.finish()

    assert [number for number, _ in await all_of(log.read(0))] == [5]
    assert log.size <= STREAM_BYTES


async def test_a_result_larger_than_the_limit_is_kept_all_the_same(log):
    await log.send(b"1")
    await log.send(b"x" * (STREAM_BYTES + 1))
    log.finish()

    assert [number for number, _ in await all_of(log.read(0))] == [2]


async def test_a_call_waits_for_a_reader_that_is_slow(log):
    reader = log.read(0)
    await log.send(b"x" * STREAM_BYTES)
    writing = asyncio.create_task(log.send(b"2"))
    await asyncio.sleep(0)
    assert not writing.done()

    assert (await reader.next())[0] == 1
    assert (await reader.next())[0] == 2
    await writing


async def test_a_call_waits_no_longer_when_its_reader_leaves(log):
    reader = log.read(0)
    await log.send(b"x" * STREAM_BYTES)
    writing = asyncio.create_task(log.send(b"2"))
    await asyncio.sleep(0)

    reader.leave()
    async with asyncio.timeout(5):
        await writing


async def test_a_revoked_reader_gets_nothing_that_was_held_for_it(log, logs):
    await log.send(b"1")
    logs.drop_where(lambda kept: kept.principal is PRINCIPAL)
    await log.send(b"2")
    log.finish()

    assert await all_of(log.read(0)) == [(2, b"2")]


async def test_a_reader_that_is_awake_already_is_not_cut_off(log):
    cut = []
    reader = log.read(0, lambda: cut.append(True))
    reading = asyncio.create_task(reader.next())
    await asyncio.sleep(0)
    await log.send(b"{}")

    log.drop()

    assert await reading is None
    assert cut == []


async def test_a_reader_that_does_not_read_is_cut_off_when_it_is_revoked(log, logs):
    cut = []
    log.read(0, lambda: cut.append(True))

    logs.drop_where(lambda _: True)

    assert cut == [True]


async def test_ending_a_session_ends_its_calls_and_frees_what_is_kept(log, logs):
    stopped = asyncio.Event()

    async def call():
        try:
            await log.send(b"x" * 1000)
            await asyncio.Event().wait()
        finally:
            stopped.set()

    logs.fill(log, call())
    await asyncio.sleep(0)
    await logs.end_where(lambda kept: kept.session == SESSION.key)

    assert stopped.is_set()
    assert (logs.find(log.stream), logs.size) == (None, 0)


async def test_a_stream_is_due_when_nobody_came_back_for_it(log):
    log.since = -math.inf
    assert log.is_due()

    log.read(0)
    assert not log.is_due()


@given(st.integers(0, 10**9 - 1), st.sampled_from([b"1", b'"a b"', b"-7", '"é"'.encode(), b'""']))
def test_an_event_id_names_its_gateway_stream_number_and_request(number, request_id):
    log = EventLog(EventLogs(GATEWAY), SESSION, PRINCIPAL, request_id)

    assert EventId.parse(log.event_id(number)) == EventId(GATEWAY, log.stream, number, request_id)


@given(st.text() | st.from_regex(r"[a-z2-7]{16}\.[0-9a-f]{16}\.[0-9]{1,9}\.[A-Za-z0-9_-]{1,9}", fullmatch=True))
def test_any_text_is_an_event_id_or_none(text):
    found = EventId.parse(text)

    assert found is None or text.startswith(EventId.prefix(found.gateway, found.stream) + str(found.number))
