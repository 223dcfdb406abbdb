"""The supervisor on small processes."""

import asyncio
import os
import signal
import sys

import pytest

from mcpctl.cli.errors import CliError
from mcpctl.cli.supervisor import Part, Supervisor

READY = "import os; os.write(int(os.environ['MCPCTL_READY_FD']), b'ready\\n');"
WAIT = "import time; time.sleep(600)"


def part(tmp_path, name, code, **options):
    return Part(name, (sys.executable, "-c", code), tmp_path / f"{name}.log", **options)


class Told:
    """What the supervisor tells; `until` waits for a line."""

    def __init__(self):
        self.lines = []
        self._grown = asyncio.Event()

    def __call__(self, line):
        self.lines.append(line)
        self._grown.set()

    async def until(self, text):
        async with asyncio.timeout(20):
            while not any(text in line for line in self.lines):
                self._grown.clear()
                await self._grown.wait()


async def test_a_part_is_ready_when_it_says_so(tmp_path):
    supervisor = Supervisor(Told())

    await supervisor.start(part(tmp_path, "a", READY + WAIT))

    await supervisor.stop()


async def test_a_part_that_ends_before_it_is_ready_fails_with_its_last_words(tmp_path):
    supervisor = Supervisor(Told())
    failing = part(tmp_path, "a", "print('some noise'); raise SystemExit('Error: no such thing')")

    with pytest.raises(CliError, match="a did not start: Error: no such thing"):
        await supervisor.start(part(tmp_path, "b", READY + WAIT), failing)

    await supervisor.stop()


async def test_a_part_that_is_prepared_begins_when_it_is_started_and_ends_too_where_it_never_is(tmp_path):
    held = "print('loaded', flush=True); import os; held = os.environ.get('MCPCTL_START_FD'); "
    held += "held and os.read(int(held), 1); print('begun', flush=True); "
    told = Told()
    supervisor = Supervisor(told)
    early, never = (part(tmp_path, name, held + READY + WAIT) for name in ("early", "never"))
    late = part(tmp_path, "late", READY + WAIT)

    await supervisor.prepare(early, never)
    async with asyncio.timeout(20):
        while not all(each.log.read_text() for each in (early, never)):
            await asyncio.sleep(0.02)
    await supervisor.start(late)
    assert early.log.read_text() == "loaded\n"
    prepared = early.process.pid
    await supervisor.start(early)
    assert (early.log.read_text(), early.process.pid) == ("loaded\nbegun\n", prepared)

    os.kill(prepared, signal.SIGKILL)
    await told.until("early is back")
    await supervisor.stop()
    assert {each.process.returncode for each in (early, never, late)} == {-signal.SIGTERM}
    assert never.log.read_text() == "loaded\n"


async def test_what_is_wrong_with_a_part_that_was_prepared_is_told_at_its_start(tmp_path):
    supervisor = Supervisor(Told())
    failing = part(tmp_path, "a", "raise SystemExit('Error: no such thing')")
    missing = Part("b", (str(tmp_path / "nothing"),), tmp_path / "b.log")

    await supervisor.prepare(failing, missing)
    with pytest.raises(CliError, match="a did not start: Error: no such thing"):
        await supervisor.start(failing)
    with pytest.raises(CliError, match="b cannot be started: No such file"):
        await supervisor.start(missing)

    await supervisor.stop()


async def test_a_part_that_dies_is_started_again_and_a_line_says_so(tmp_path):
    told = Told()
    supervisor = Supervisor(told)
    dying = part(tmp_path, "a", READY + WAIT)
    await supervisor.start(dying)
    before = dying.process.pid

    os.kill(before, signal.SIGKILL)
    await told.until("a is back")

    assert told.lines == ["a ended (killed by SIGKILL): starting it again", "a is back"]
    assert dying.process.pid != before
    await supervisor.stop()


async def test_a_part_that_cannot_come_back_is_tried_again_and_again(tmp_path):
    told = Told()
    supervisor = Supervisor(told)
    flag = tmp_path / "flag"
    once = f"import pathlib, sys; f = pathlib.Path({str(flag)!r}); sys.exit('too late') if f.exists() else f.touch();"
    await supervisor.start(part(tmp_path, "a", once + READY + "sys.exit(7)"))

    await told.until("a did not start: too late")
    flag.unlink()
    await told.until("a is back")

    assert told.lines[0] == "a ended (exit code 7): starting it again"
    await supervisor.stop()


async def test_parts_are_stopped_from_the_last_to_the_first(tmp_path):
    supervisor = Supervisor(Told())
    order = tmp_path / "order"
    note = f"signal.signal(15, lambda *_: (open({str(order)!r}, 'a').write(name), os._exit(0)));"
    for name in "abc":
        await supervisor.start(part(tmp_path, name, f"import os, signal; name = {name!r};" + note + READY + WAIT))

    await supervisor.stop()

    assert order.read_text() == "cba"


async def test_a_part_that_ignores_sigterm_is_killed_after_its_grace(tmp_path):
    supervisor = Supervisor(Told())
    deaf = part(tmp_path, "a", "import signal; signal.signal(15, signal.SIG_IGN);" + READY + WAIT, grace=0.2)
    await supervisor.start(deaf)

    await supervisor.stop()

    assert deaf.process.returncode == -signal.SIGKILL


async def test_a_ctrl_c_in_the_terminal_does_not_reach_a_part(tmp_path):
    supervisor = Supervisor(Told())
    await supervisor.start(child := part(tmp_path, "a", READY + WAIT))

    assert os.getsid(child.process.pid) == child.process.pid != os.getsid(0)
    await supervisor.stop()


async def test_the_output_goes_to_the_log_and_with_echo_to_stderr_too(tmp_path, capfd):
    supervisor = Supervisor(Told())
    await supervisor.start(part(tmp_path, "a", "print('hello', flush=True);" + READY + WAIT, echo=True))

    await supervisor.stop()

    assert (tmp_path / "a.log").read_text() == "hello\n"
    assert capfd.readouterr().err == "a | hello\n"
