"""An answer that comes too late is nobody's."""

import asyncio

import pytest

from mcpctl.bus.contracts import token
from mcpctl.bus.errors import DeadlineExceeded


async def test_an_answer_after_the_deadline_is_not_given_to_the_next_question(connect):
    registry, router = await connect("token"), await connect("router")
    asked: asyncio.Queue[asyncio.Future[None]] = asyncio.Queue()

    async def answer(request, _caller):
        let_go = asyncio.get_running_loop().create_future()
        await asked.put(let_go)
        await asyncio.shield(let_go)
        principal = token.Principal(
            kind="User", name=request.bearer, sha="", owner=token.Owner(kind="User", name=request.bearer)
        )
        return token.Resolved(epoch="e", seq=1, principal=principal)

    await registry.serve(token.resolve, answer)
    await registry.ready()
    with pytest.raises(DeadlineExceeded):
        await router.call(token.resolve, token.ResolveBearer(bearer="first"), timeout=0.3)

    second = asyncio.create_task(router.call(token.resolve, token.ResolveBearer(bearer="second")))
    late, waited_for = await asked.get(), await asked.get()
    # What a late answer is on the wire: the responder's, to a reply subject of the caller that no call waits on.
    await registry.client.publish("_INBOX.router.late", b'{"epoch":"e","seq":1}')
    late.set_result(None)
    await router.client.flush()
    assert not second.done()
    waited_for.set_result(None)

    assert (await second).principal.name == "second"
