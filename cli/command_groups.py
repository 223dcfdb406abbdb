"""Groups of commands: loaded when they are used, listed in sections, forgiving about how a noun is written."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperGroup

from mcpctl.cli.errors import USAGE, CliError


@dataclass(frozen=True)
class Command:
    """One row of the command table. `target` is `<module>:<function or Typer app>`."""

    name: str
    section: str
    help: str
    target: str

    def load(self) -> Any:
        module, _, attribute = self.target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            function = found
            found = typer.Typer(rich_markup_mode=None, add_completion=False)
            found.command(self.name)(function)
        command = typer.main.get_command(found)
        command.name = self.name
        return command


class Group(TyperGroup):
    """A group that shows its help when nothing is asked of it, and names the nearest command for a typo."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            commands = self.list_commands(ctx)
            swapped = [each for each in commands if sorted(each) == sorted(name)]
            near = swapped or get_close_matches(name, commands, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {ctx.command_path} --help"
            raise CliError(f'no command "{ctx.command_path} {name}": {hint}', USAGE)
        return command.name, command, args[1:]


class NounGroup(Group):
    """A group whose commands are nouns: `create servers` and `create srv` are `create server`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from mcpctl.cli.resources import canonical  # noqa: PLC0415 - the other groups do without

        return super().get_command(ctx, cmd_name) or super().get_command(ctx, canonical(cmd_name))


class LazyGroup(Group):
    """The program itself: a table of commands, none of which is loaded before it is used."""

    table: Sequence[Command] = ()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the signature is typer's
        return next((row.load() for row in self.table if row.name == cmd_name), None)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the signature is typer's
        return [row.name for row in self.table]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - the signature is typer's
        width = max(len(row.name) for row in self.table)
        for section in dict.fromkeys(row.section for row in self.table):
            with formatter.section(section):
                formatter.write_dl([(row.name.ljust(width), row.help) for row in self.table if row.section == section])
