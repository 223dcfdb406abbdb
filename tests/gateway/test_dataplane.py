"""One call's frames, without the rest of the gateway."""

import asyncio

import pytest
from nats.aio.msg import Msg

from mcpctl.bus.contracts.token import Owner, Principal
from mcpctl.bus.errors import Unauthenticated, Unavailable
from mcpctl.bus.frames import MOVES, Reply, encode
from mcpctl.gateway.live_call import LiveCall

PRINCIPAL = Principal(kind="User", name="ann", sha="0" * 64, owner=Owner(kind="User", name="ann"))


def message(reply, body=b""):
    return Msg(None, subject="inbox.1", data=encode(reply, body))


@pytest.fixture
async def call():
    return LiveCall(None, "inbox.1", b"", PRINCIPAL)


async def test_what_is_held_for_a_revoked_caller_is_dropped(call):
    call.take(message(Reply("msg", 1), b"{}"))
    call.take(message(Reply("end", 2), b"{}"))
    cut = []
    call.cut_off = lambda: cut.append(True)

    call.abort(Unauthenticated("revoked"))

    with pytest.raises(Unauthenticated):
        await call.next()
    assert cut == [True]


async def test_a_reader_that_is_awake_already_is_told_and_not_cut_off(call):
    cut = []
    call.cut_off = lambda: cut.append(True)
    reading = asyncio.create_task(call.next())
    await asyncio.sleep(0)
    call.take(message(Reply("msg", 1), b"{}"))

    call.abort(Unauthenticated("revoked"))

    with pytest.raises(Unauthenticated):
        await reading
    assert cut == []


async def test_pieces_of_a_body_are_put_together(call):
    call.take(message(Reply("part", 1), b'{"a":'))
    call.take(message(Reply("part", 2), b"1"))
    call.take(message(Reply("end", 3), b"}"))

    frame = await call.next()
    assert (frame.kind, frame.body) == ("end", b'{"a":1}')


async def test_a_lost_frame_ends_the_call(call):
    call.take(message(Reply("msg", 1), b"{}"))
    call.take(message(Reply("end", 3), b"{}"))

    assert (await call.next()).kind == "msg"
    with pytest.raises(Unavailable, match="lost"):
        await call.next()


async def test_what_came_before_a_fault_is_still_delivered(call):
    call.take(message(Reply("msg", 1), b"{}"))
    call.take(message(Reply("end", 2, fault=("unavailable", "gone"))))

    assert (await call.next()).kind == "msg"
    with pytest.raises(Unavailable, match="gone"):
        await call.next()


async def test_a_call_that_is_sent_on_is_numbered_anew(call):
    call.take(message(Reply("msg", 1), b"{}"))
    call.take(message(Reply("moved", 2, router="r2")))
    assert (call.moved, call.router, call.heard) == (True, "r2", None)

    call.take(message(Reply("msg", 1), b'{"a":1}'))
    call.take(message(Reply("end", 2), b'{"b":2}'))

    assert [(await call.next()).body for _ in range(3)] == [b"{}", b'{"a":1}', b'{"b":2}']


async def test_a_call_that_is_sent_from_router_to_router_fails(call):
    for _ in range(MOVES + 1):
        call.take(message(Reply("moved", 1, router="r2")))

    with pytest.raises(Unavailable):
        await call.next()


async def test_a_call_sent_on_to_a_router_that_is_gone_is_answered_as_the_first_router_said(call):
    call.take(message(Reply("moved", 1, router="r2", error=True), b'{"code":-32602}'))
    call.give_up("no router took the request")

    frame = await call.next()
    assert (frame.kind, frame.error, frame.body) == ("end", True, b'{"code":-32602}')


@pytest.mark.parametrize("waits", [True, False])
async def test_an_eager_reader_is_told_once_that_the_call_is_accepted(call, waits):
    call.eager = True
    reading = asyncio.create_task(call.next())
    if waits:
        await asyncio.sleep(0)
    call.take(message(Reply("accepted", 1, router="r1")))
    assert await reading is None

    call.take(message(Reply("end", 2), b"{}"))
    assert (await call.next()).kind == "end"
