"""A replica that stops: it answers what it was given, and the others get the rest."""

import asyncio

from mcpctl.bus.contracts import token

ROUNDS = 12
ASKERS = 16


async def resolved(request, _caller):
    await asyncio.sleep(0)
    owner = token.Owner(kind="User", name=request.bearer)
    principal = token.Principal(kind="User", name=request.bearer, sha="", owner=owner)
    return token.Resolved(epoch="e", seq=1, principal=principal)


async def test_no_request_is_lost_when_a_replica_leaves_its_queue_group_under_load(connect):
    router, staying = await connect("router"), await connect("token")
    await staying.serve(token.resolve, resolved)
    await staying.ready()
    leaving = [await connect("token") for _ in range(ROUNDS)]
    answered, over = 0, asyncio.Event()

    async def ask():
        nonlocal answered
        while not over.is_set():
            assert (await router.call(token.resolve, token.ResolveBearer(bearer="x"))).principal.name == "x"
            answered += 1

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(ASKERS):
            group.create_task(ask())
        for bus in leaving:
            await bus.serve(token.resolve, resolved)
            await bus.ready()
            before = answered
            while answered < before + 4 * ASKERS:
                await asyncio.sleep(0)
            await bus.leave()
            await bus.unsubscribe()
        over.set()
