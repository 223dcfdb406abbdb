"""The help of every command there is, found by walking the table of the program."""

import pytest

from mcpctl.cli.main import Program, main


def commands(command, path):
    """Yield the path of every command that does something by itself."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path
        return
    for name, child in below.items():
        if not child.hidden:
            yield from commands(child, (*path, name))


def paths():
    for row in Program.table:
        try:
            yield from commands(row.load(), (row.name,))
        except (ImportError, AttributeError):  # the test of the row tells it
            yield (row.name,)


@pytest.mark.parametrize("path", list(paths()), ids=" ".join)
def test_the_help_of_every_command_has_examples(path, capsys):
    code = main([*path, "--help"])

    told = capsys.readouterr().out
    assert code == 0
    assert "Examples:" in told
    examples = told.partition("Examples:")[2].partition("\n\n")[0].strip().splitlines()
    assert any(f"mcpctl {' '.join(path)}" in line for line in examples), told
