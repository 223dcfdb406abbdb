"""What is cancelled ends, also in the middle of talking to NATS."""

import asyncio
import contextlib

from mcpctl.bus.connection import cancellation_kept
from mcpctl.bus.contract import PREFIX


async def test_a_cancellation_while_publishing_is_not_lost(connect):
    bus = await connect("router")
    publishing = asyncio.Event()

    async def publish_for_ever():
        while True:
            await bus.client.publish(f"{PREFIX}.router.nobody.router", b"x")
            publishing.set()

    for _ in range(20):
        publishing.clear()
        task = asyncio.create_task(publish_for_ever())
        async with asyncio.timeout(10):
            await publishing.wait()
            task.cancel()
            await asyncio.wait([task])
        assert task.cancelled()


async def swallowing():
    """Do what nats-py does with a cancellation."""
    with cancellation_kept(), contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_a_cancellation_that_was_swallowed_is_raised():
    task = asyncio.create_task(swallowing())
    await asyncio.sleep(0)

    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()


async def test_a_connection_is_closed_while_it_waits_for_the_end_of_the_one_before(connect):
    for turns in range(12):
        bus = await connect("router")
        await bus.client._process_op_err(ConnectionError("the server has ended the connection"))
        for _ in range(turns):
            await asyncio.sleep(0)

        await bus.close()

        assert bus.client.is_closed
