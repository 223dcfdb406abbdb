"""One call's frames, without the rest of the gateway."""

import pytest
from nats.aio.msg import Msg

from mcpctl.bus.contracts.token import Owner, Principal
from mcpctl.bus.errors import Unauthenticated, Unavailable
from mcpctl.bus.frames import Reply, Request, encode
from mcpctl.gateway.dataplane import LiveCall

PRINCIPAL = Principal(kind="User", name="ann", sha="0" * 64, owner=Owner(kind="User", name="ann"))


def message(reply, body=b""):
    return Msg(None, subject="inbox.1", data=encode(reply, body))


@pytest.fixture
async def call():
    head = Request(bearer="b", project="p", method="tools/call", budget=1000, correlation="c")
    return LiveCall(None, "inbox.1", head, PRINCIPAL)


async def test_what_is_held_for_a_revoked_caller_is_dropped(call):
    call.take(message(Reply("msg", 1), b"{}"))
    call.take(message(Reply("end", 2), b"{}"))
    cut = []
    call.cut_off = lambda: cut.append(True)

    call.abort(Unauthenticated("revoked"))

    with pytest.raises(Unauthenticated):
        await call.next()
    assert cut == [True]


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
