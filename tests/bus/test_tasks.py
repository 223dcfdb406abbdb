"""Tasks that somebody holds, and their end."""

import asyncio

import pytest

from mcpctl.bus.connection import Tasks, cancel, run_together


async def swallows_one_cancellation(began):
    """Do as a task does whose cancellation met the result that it waited for."""
    try:
        began.set()
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


async def test_a_task_ends_though_it_swallows_a_cancellation():
    began = asyncio.Event()
    task = asyncio.create_task(swallows_one_cancellation(began))
    async with asyncio.timeout(10):
        await began.wait()
        await cancel(task)

    assert task.cancelled()


async def test_what_runs_is_waited_for_and_what_runs_on_is_cancelled():
    done, tasks = [], Tasks()

    async def work(goes_on):
        await (asyncio.Event().wait() if goes_on else asyncio.sleep(0))
        done.append(True)

    quick, endless = tasks.start(work(goes_on=False)), tasks.start(work(goes_on=True))
    async with asyncio.timeout(10):
        await tasks.finish(0.05)

    assert done == [True]
    assert quick.done()
    assert endless.cancelled()


async def test_works_run_together_end_though_one_swallows_a_cancellation():
    began = asyncio.Event()
    ended = []

    async def other():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("other")

    together = asyncio.create_task(run_together(swallows_one_cancellation(began), other()))
    await began.wait()

    async with asyncio.timeout(5):
        await cancel(together)

    assert together.cancelled()
    assert ended == ["other"]


async def test_when_one_work_fails_the_others_have_ended():
    ended = []

    async def fails():
        raise ValueError("no")

    async def other():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("other")

    with pytest.raises(ValueError, match="no"):
        await run_together(other(), fails())

    assert ended == ["other"]
