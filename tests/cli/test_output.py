from datetime import UTC, datetime, timedelta

from mcpctl.bus.contract import Message
from mcpctl.cli.output import GrowingTable, plain, print_details, print_documents, print_table


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


def test_keys_of_labels_are_shown_as_they_are_written(capsys):
    print_details({"Labels": {"team": "shop", "example.org/tier": "web"}})

    assert capsys.readouterr().out == "Labels:\n  team:             shop\n  example.org/tier: web\n"


def test_rows_that_come_later_stand_below_the_first_ones(capsys):
    table = GrowingTable(("NAME", "STATE"))

    table.add([("long-name", "on")])
    table.add([("a", "off")])

    assert capsys.readouterr().out == "NAME        STATE\nlong-name   on\na           off\n"


def test_a_table_without_rows_or_titles_prints_nothing(capsys):
    print_table(("NAME",), [], headers=False)

    assert capsys.readouterr().out == ""


def test_documents_are_a_stream(capsys):
    print_documents([{"name": "a"}, {"name": "b"}])

    assert capsys.readouterr().out == "name: a\n---\nname: b\n"
