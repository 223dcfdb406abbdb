"""Run a test on asyncio's own loop and on uvloop: their transports differ where it hurts."""

import asyncio
import functools
import inspect

import pytest
import uvloop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test):
    """Turn an async test into one for each loop, ended after ten seconds."""

    async def bounded(arguments):
        async with asyncio.timeout(10):
            await test(**arguments)

    @functools.wraps(test)
    def run(loop_kind, **arguments):
        with asyncio.Runner(loop_factory=LOOPS[loop_kind]) as runner:
            runner.run(bounded(arguments))

    kind = inspect.Parameter("loop_kind", inspect.Parameter.KEYWORD_ONLY)
    own = inspect.signature(test).parameters.values()
    run.__signature__ = inspect.Signature([*own, kind])
    return pytest.mark.parametrize("loop_kind", LOOPS)(run)
