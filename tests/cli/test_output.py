from datetime import UTC, datetime, timedelta

from mcpctl.bus.contract import Message
from mcpctl.cli.output import plain, print_details, print_table


class Thing(Message):
    name: str
    created_at: datetime
    expires_at: datetime | None = None
    tags: tuple[str, ...] = ()


def test_a_pipe_gets_columns_that_are_neither_coloured_nor_cut(capsys):
    print_table(("NAME", "TARGET"), [("a", "x" * 300), ("long-name", None)])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "NAME        TARGET"
    assert lines[1] == "a           " + "x" * 300
    assert lines[2] == "long-name   -"


def test_nothing_that_a_terminal_would_obey_is_printed():
    assert plain("a\x1b[2Jb\r\nc\u202ed") == "a [2Jb  c d"


def test_details_are_labelled_and_times_told_twice(capsys):
    print_details(Thing(name="a", created_at=datetime.now(UTC) - timedelta(days=3), tags=("x", "y")))

    told = capsys.readouterr().out
    assert "Name:       a" in told
    assert "(3d ago)" in told
    assert "Expires at: never" in told
    assert "Tags:\n  x\n  y" in told
